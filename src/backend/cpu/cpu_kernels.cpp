// The CPU device's entry points that belong to no kernel family.
#include "backend/cpu/cpu_kernels.h"

#include <fmt/format.h>

#include "backend/cpu/isa.h"
#include "tensor/memory.h"

namespace raedit::backend::cpu {

std::unique_ptr<Kernels> make_cpu_kernels(int threads) {
  ensure_isa();
  return std::make_unique<CpuKernels>(threads);
}

std::string CpuKernels::description() const {
  return fmt::format("cpu, {} {}, {}{}", threads_, threads_ == 1 ? "thread" : "threads", isa_name(),
                     has_avx512_bf16() ? " (bf16 dot product)" : "");
}

Tensor CpuKernels::temporary(const Shape& shape, DType dtype) const {
  return Tensor(arena_.allocate(static_cast<size_t>(shape.numel()) * size_of(dtype)), 0, shape, dtype);
}

Tensor CpuKernels::scratch(const Shape& shape) const {
  const Tensor zeros = temporary(shape, DType::float32);
  fill_zero(zeros);
  return zeros;
}

}  // namespace raedit::backend::cpu
