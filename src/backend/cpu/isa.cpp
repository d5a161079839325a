// The instruction set in use, the cap RAEDIT_FORCE_ISA on it, and the processor features that Highway does not know.
// Sources of the feature bits: Intel SDM volume 2, CPUID leaves 1 and 7; volume 1, chapter 13 (XCR0); of the
// permission: Linux, Documentation/arch/x86/xstate.rst.
#include "backend/cpu/isa.h"

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/targets.h"
#include "core/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/isa.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

// Compiled once per target like every kernel, so it reports what the kernels' dispatch really picks.
int64_t current_target() {
  return HWY_TARGET;
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string_view>

namespace raedit::backend::cpu {

HWY_EXPORT(current_target);

namespace {

IsaCap read_cap() {
  const char* text = std::getenv("RAEDIT_FORCE_ISA");
  if (text == nullptr || *text == '\0') return IsaCap::amx;
  const std::string_view value = text;
  if (value == "sse2") return IsaCap::sse2;
  if (value == "avx2") return IsaCap::avx2;
  if (value == "avx512") return IsaCap::avx512;
  if (value == "amx") return IsaCap::amx;
  raise({.code = ErrorCode::invalid_argument,
         .what = "unknown instruction set",
         .where = "environment variable RAEDIT_FORCE_ISA",
         .found = std::string(value),
         .expected = "sse2, avx2, avx512 or amx",
         .hint = "unset the variable to use the best one of this machine"});
}

IsaCap apply_cap() {
  const IsaCap cap = read_cap();
  int64_t disabled = 0;
  if (cap < IsaCap::avx512) disabled |= HWY_AVX3 | HWY_AVX3_DL;
  if (cap < IsaCap::avx2) disabled |= HWY_AVX2;
  if (disabled != 0) {
    hwy::DisableTargets(disabled);
    // All dispatch tables of the process share the chosen target. It is set here and not left to the first dispatch,
    // because hwy::SupportedTargets() itself leaves the uncapped target chosen.
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  return cap;
}

}  // namespace

IsaCap isa_cap() {
  static const IsaCap cap = apply_cap();
  return cap;
}

void ensure_isa() {
  isa_cap();
}

std::string isa_name() {
  ensure_isa();
  switch (HWY_DYNAMIC_DISPATCH(current_target)()) {
    case HWY_AVX3: return "avx512";
    case HWY_AVX2: return "avx2";
    default: return "sse2";
  }
}

bool has_avx512_bf16() {
  static const bool present = [] {
    // The name stands for the other AVX-512 instructions, the system's saving of the registers, and the cap.
    if (isa_name() != "avx512") return false;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1u << 5)) != 0;
  }();
  return present;
}

bool has_avx512_vnni() {
  static const bool present = [] {
    if (isa_name() != "avx512") return false;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 11)) != 0;
  }();
  return present;
}

namespace {

std::atomic<bool> amx_assumed{false};

bool system_saves_tiles() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & (1u << 27)) == 0) return false;  // OSXSAVE
  unsigned low = 0, high = 0;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17;
  return (low & kTileState) == kTileState;
}

// Linux keeps eight KiB more for each thread of a process that asked for tiles.
bool ask_for_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool find_amx(unsigned product) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kTile = 1u << 24;
  return (edx & product) != 0 && (edx & kTile) != 0 && system_saves_tiles() && ask_for_tiles();
}

bool may_use_tiles() {
  return isa_cap() == IsaCap::amx && has_avx512_bf16();
}

}  // namespace

bool has_amx_bf16() {
  static const bool allowed = may_use_tiles();
  static const bool present = allowed && find_amx(1u << 22);
  return present || (allowed && amx_assumed.load(std::memory_order_relaxed));
}

bool has_amx_int8() {
  static const bool allowed = may_use_tiles();
  static const bool present = allowed && find_amx(1u << 25);
  return present || (allowed && amx_assumed.load(std::memory_order_relaxed));
}

void assume_amx() {
  amx_assumed = true;
}

}  // namespace raedit::backend::cpu

#endif  // HWY_ONCE
