// Tile instructions on processors that lack them: each raises SIGILL, and the handler here does what the manual says.
// So the very machine code that runs on AMX is tested everywhere. With RAEDIT_TEST_AMX=emulated it is at work before
// main(). Source: Intel SDM volume 2, LDTILECFG to TILEZERO and TDPBF16PS (denormals count as zeros, sums of even and
// of odd pairs apart); the encodings of VEX prefixes, volume 2 chapter 2.3.
#include "amx/amx_emulator.h"

#include <signal.h>
#include <ucontext.h>

#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "backend/cpu/isa.h"

namespace raedit::test {
namespace {

constexpr int kRows = 16, kLanes = 16;  // of 32 bits

struct Tiles {
  bool set_up = false;
  std::array<uint8_t, 8> rows{};
  std::array<uint16_t, 8> bytes{};
  alignas(64) std::array<std::array<uint32_t, kRows * kLanes>, 8> data{};
};

// One for each thread, as in the processor. The handler runs on the thread that met the instruction.
thread_local Tiles tiles;
std::atomic<int64_t> emulated{0};

struct Instruction {
  int length = 0;
  int opcode = 0, prefix = 0;  // prefix: 0 none, 1 66, 2 F3, 3 F2
  int reg = 0, rm = 0, vvvv = 0;
  bool memory = false;
  uint64_t address = 0;
  int64_t stride = 0;
};

uint64_t register_of(const mcontext_t& machine, int number) {
  constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<uint64_t>(machine.gregs[kOrder[number]]);
}

int64_t displacement(const uint8_t* code, int bytes) {
  if (bytes == 1) return static_cast<int8_t>(code[0]);
  int32_t wide = 0;
  if (bytes == 4) std::memcpy(&wide, code, sizeof wide);
  return wide;
}

// False where it is no tile instruction of the 0F38 map.
bool decode(const mcontext_t& machine, Instruction& out) {
  const auto* code = reinterpret_cast<const uint8_t*>(machine.gregs[REG_RIP]);
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0) return false;  // 0F38, W0, 128 bits
  const bool r = (code[1] & 0x80) == 0, x = (code[1] & 0x40) == 0, b = (code[1] & 0x20) == 0;
  out.vvvv = ~(code[2] >> 3) & 15;
  out.prefix = code[2] & 3;
  out.opcode = code[3];
  const int mode = code[4] >> 6, low = code[4] & 7;
  out.reg = ((code[4] >> 3) & 7) + (r ? 8 : 0);
  out.rm = low + (b ? 8 : 0);
  out.length = 5;
  out.memory = mode != 3;
  if (!out.memory) return true;
  const int size = mode == 1 ? 1 : mode == 2 ? 4 : 0;
  if (low != 4) {  // a base without an index; relative to the next instruction for mode 0 of 5
    if (mode == 0 && low == 5) {
      out.length += 4;
      out.address = static_cast<uint64_t>(machine.gregs[REG_RIP]) + static_cast<uint64_t>(out.length) +
                    static_cast<uint64_t>(displacement(code + 5, 4));
      return true;
    }
    out.address = register_of(machine, out.rm) + static_cast<uint64_t>(displacement(code + 5, size));
    out.length += size;
    return true;
  }
  const int sib = code[5], base = (sib & 7) + (b ? 8 : 0), index = ((sib >> 3) & 7) + (x ? 8 : 0);
  const bool no_base = (sib & 7) == 5 && mode == 0;
  out.address = no_base ? 0 : register_of(machine, base);
  out.address += static_cast<uint64_t>(displacement(code + 6, no_base ? 4 : size));
  out.stride = index == 4 ? 0 : static_cast<int64_t>(register_of(machine, index)) << (sib >> 6);
  out.length += 1 + (no_base ? 4 : size);
  return true;
}

float normal(float value) {
  return std::fabs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0f, value) : value;
}

float lower(uint32_t pair) {
  return normal(std::bit_cast<float>(pair << 16));
}
float upper(uint32_t pair) {
  return normal(std::bit_cast<float>(pair & 0xffff0000u));
}

// A product of two bfloat16 numbers is exact in float32, so multiplying and adding is what a fused one does.
void dot_bf16(int sums, int left, int right) {
  for (int m = 0; m < tiles.rows[static_cast<size_t>(sums)]; ++m) {
    alignas(64) float even[kLanes] = {}, odd[kLanes] = {};
    const int pairs = tiles.bytes[static_cast<size_t>(left)] / 4;
    for (int k = 0; k < pairs; ++k) {
      const uint32_t a = tiles.data[static_cast<size_t>(left)][static_cast<size_t>(m * kLanes + k)];
      const float a0 = lower(a), a1 = upper(a);
      const uint32_t* b = tiles.data[static_cast<size_t>(right)].data() + k * kLanes;
      for (int n = 0; n < kLanes; ++n) {
        even[n] = normal(even[n] + a0 * lower(b[n]));
        odd[n] = normal(odd[n] + a1 * upper(b[n]));
      }
    }
    uint32_t* to = tiles.data[static_cast<size_t>(sums)].data() + m * kLanes;
    for (int n = 0; n < kLanes; ++n)
      to[n] = std::bit_cast<uint32_t>(normal(normal(std::bit_cast<float>(to[n])) + normal(even[n] + odd[n])));
  }
}

// Four products of bytes, each signed or not, to an int32 sum that wraps.
template <class Left, class Right>
void dot_int8(int sums, int left, int right) {
  for (int m = 0; m < tiles.rows[static_cast<size_t>(sums)]; ++m)
    for (int k = 0; k < tiles.bytes[static_cast<size_t>(left)] / 4; ++k) {
      const uint32_t a = tiles.data[static_cast<size_t>(left)][static_cast<size_t>(m * kLanes + k)];
      const uint32_t* b = tiles.data[static_cast<size_t>(right)].data() + k * kLanes;
      uint32_t* to = tiles.data[static_cast<size_t>(sums)].data() + m * kLanes;
      for (int n = 0; n < kLanes; ++n)
        for (int i = 0; i < 4; ++i)
          to[n] += static_cast<uint32_t>(static_cast<int32_t>(static_cast<Left>(a >> 8 * i)) *
                                         static_cast<int32_t>(static_cast<Right>(b[n] >> 8 * i)));
    }
}

bool configure(const Instruction& i) {
  const auto* config = reinterpret_cast<const uint8_t*>(i.address);
  tiles = Tiles();
  if (config[0] == 0) return true;
  if (config[0] != 1) return false;
  for (size_t t = 0; t < 8; ++t) {
    std::memcpy(&tiles.bytes[t], config + 16 + 2 * t, 2);
    tiles.rows[t] = config[48 + t];
    if (tiles.rows[t] > kRows || tiles.bytes[t] > 64 || tiles.bytes[t] % 4 != 0) return false;
  }
  tiles.set_up = true;
  return true;
}

bool move(const Instruction& i) {
  const auto t = static_cast<size_t>(i.reg);
  auto* at = reinterpret_cast<std::byte*>(i.address);
  if (i.prefix == 0) return false;
  if (i.prefix != 2) tiles.data[t].fill(0);
  for (int64_t row = 0; row < tiles.rows[t]; ++row, at += i.stride) {
    uint32_t* line = tiles.data[t].data() + row * kLanes;
    if (i.prefix == 2)
      std::memcpy(at, line, tiles.bytes[t]);
    else
      std::memcpy(line, at, tiles.bytes[t]);
  }
  return true;
}

bool execute(const Instruction& i) {
  if (i.opcode == 0x49 && i.prefix == 0 && i.memory) return configure(i);
  if (i.opcode == 0x49 && i.prefix == 0 && !i.memory) {
    tiles = Tiles();
    return true;
  }
  // Everything else faults without a configuration, as on the processor.
  if (!tiles.set_up || i.reg > 7) return false;
  if (i.opcode == 0x49 && i.prefix == 3) {
    tiles.data[static_cast<size_t>(i.reg)].fill(0);
    return true;
  }
  if (i.opcode == 0x4b && i.memory) return move(i);
  // The processor refuses a tile that is its own operand.
  if (i.memory || i.rm > 7 || i.vvvv > 7 || i.reg == i.rm || i.reg == i.vvvv || i.rm == i.vvvv) return false;
  if (i.opcode == 0x5c && i.prefix == 2) return dot_bf16(i.reg, i.rm, i.vvvv), true;
  if (i.opcode != 0x5e) return false;
  if (i.prefix == 3) return dot_int8<int8_t, int8_t>(i.reg, i.rm, i.vvvv), true;
  if (i.prefix == 2) return dot_int8<int8_t, uint8_t>(i.reg, i.rm, i.vvvv), true;
  if (i.prefix == 1) return dot_int8<uint8_t, int8_t>(i.reg, i.rm, i.vvvv), true;
  return dot_int8<uint8_t, uint8_t>(i.reg, i.rm, i.vvvv), true;
}

void on_illegal(int, siginfo_t*, void* context) {
  mcontext_t& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
  Instruction instruction;
  if (decode(machine, instruction) && execute(instruction)) {
    machine.gregs[REG_RIP] += instruction.length;
    emulated.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  signal(SIGILL, SIG_DFL);  // met again, it ends the program as if nobody had looked
}

// Before main(): the instruction set is chosen once.
const bool installed = [] {
  const char* wanted = std::getenv("RAEDIT_TEST_AMX");
  if (wanted == nullptr || std::strcmp(wanted, "emulated") != 0) return false;
  if (backend::cpu::has_amx_bf16() || !backend::cpu::has_avx512_bf16()) return false;
  struct sigaction action = {};
  action.sa_sigaction = on_illegal;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  if (sigaction(SIGILL, &action, nullptr) != 0) return false;
  backend::cpu::assume_amx();
  return true;
}();

}  // namespace

AmxKind amx_kind() {
  if (installed) return AmxKind::emulated;
  return backend::cpu::has_amx_bf16() ? AmxKind::processor : AmxKind::none;
}

int64_t emulated_instructions() {
  return emulated.load();
}

}  // namespace raedit::test
