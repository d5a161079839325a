// The CPU device's entry points that belong to no kernel family.
#include "backend/cpu/cpu_kernels.h"

#include <fmt/format.h>

#include <bit>

#include "backend/cpu/isa.h"
#include "core/threads.h"
#include "tensor/memory.h"

namespace raedit::backend::cpu {

std::unique_ptr<Kernels> make_cpu_kernels(int threads) {
  ensure_isa();
  require_threads(threads);
  return std::make_unique<CpuKernels>(threads);
}

std::string CpuKernels::description() const {
  return fmt::format("cpu, {} {}, {}{}", threads_, threads_ == 1 ? "thread" : "threads", isa_name(),
                     has_amx_bf16()      ? " with AMX"
                     : has_avx512_bf16() ? " (bf16 dot product)"
                                         : "");
}

std::shared_ptr<Storage> CpuKernels::temporary_bytes(size_t bytes) const {
  const size_t step = bytes < 65536 ? 1 : std::bit_floor(bytes) / 4;
  return arena_.allocate((bytes + step - 1) / step * step);
}

Tensor CpuKernels::temporary(const Shape& shape, DType dtype) const {
  return Tensor(temporary_bytes(static_cast<size_t>(shape.numel()) * size_of(dtype)), 0, shape, dtype);
}

Tensor CpuKernels::scratch(const Shape& shape) const {
  const Tensor zeros = temporary(shape, DType::float32);
  fill_zero(zeros);
  return zeros;
}

}  // namespace raedit::backend::cpu
