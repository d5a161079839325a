#include "nn/parameter.h"

#include "backend/kernels.h"
#include "core/check.h"
#include "tensor/memory.h"

namespace raedit::nn {

std::shared_ptr<const backend::PackedMatrix> pack_like(const Parameter& matrix, const Tensor& weight, DType dtype,
                                                       const backend::Kernels& kernels) {
  if (matrix.eight_bits && matrix.swiglu) return kernels.pack_int8_swiglu(weight, matrix.input_max);
  if (matrix.eight_bits) return kernels.pack_int8(weight, matrix.input_max);
  return matrix.swiglu ? kernels.pack_swiglu(weight, dtype) : kernels.pack(weight, dtype);
}

void assign(Parameter& parameter, const Tensor& source, DType dtype, const backend::Kernels& kernels) {
  parameter.source = source;
  switch (parameter.role) {
    case Parameter::Role::matrix: {
      parameter.value = source.reshape({source.dim(0), -1});
      if (parameter.joined && kernels.joins()) break;
      parameter.packed = pack_like(parameter, parameter.value, dtype, kernels);
      break;
    }
    // Copies, so that the mapped file's pages can go.
    case Parameter::Role::vector: parameter.value = source.to(dtype).to(DType::float32).clone(); break;
    case Parameter::Role::buffer: parameter.value = source.to(DType::float32).clone(); break;
    case Parameter::Role::table: parameter.value = source.clone(); break;
    case Parameter::Role::unread: break;
  }
}

void place(Parameter& parameter, const backend::Kernels& kernels) {
  const auto memory = kernels.memory();
  if (memory == nullptr || parameter.role == Parameter::Role::matrix || !parameter.value.defined()) return;
  if (parameter.value.on_host()) parameter.value = copy_to(parameter.value, memory);
}

void make_trainable(Parameter& parameter, const backend::Kernels& kernels) {
  parameter.packed = nullptr;
  parameter.trainable = true;
  parameter.value = copy_to(parameter.value.cpu().to(DType::float32), kernels.memory());
  parameter.source = parameter.value.reshape(parameter.shape);
}

}  // namespace raedit::nn
