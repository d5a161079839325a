// The CPU device's entry points that belong to no kernel family.
#include "backend/cpu/cpu_kernels.h"

#include <fmt/format.h>

#include "backend/cpu/isa.h"

namespace raedit::backend::cpu {

std::unique_ptr<Kernels> make_cpu_kernels(int threads) {
  ensure_isa();
  return std::make_unique<CpuKernels>(threads);
}

std::string CpuKernels::description() const {
  return fmt::format("cpu, {} {}, {}{}", threads_, threads_ == 1 ? "thread" : "threads", isa_name(),
                     has_avx512_bf16() ? " (bf16 dot product)" : "");
}

}  // namespace raedit::backend::cpu
