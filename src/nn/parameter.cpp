#include "nn/parameter.h"

#include "backend/kernels.h"
#include "core/check.h"

namespace raedit::nn {

void assign(Parameter& parameter, const Tensor& source, DType dtype, const backend::Kernels& kernels) {
  parameter.source = source;
  switch (parameter.role) {
    case Parameter::Role::matrix: {
      parameter.value = source.reshape({source.dim(0), -1});
      parameter.packed = kernels.pack(parameter.value, dtype);
      break;
    }
    // Copies, so that the mapped file's pages can go.
    case Parameter::Role::vector: parameter.value = source.to(dtype).to(DType::float32).clone(); break;
    case Parameter::Role::buffer: parameter.value = source.to(DType::float32).clone(); break;
    case Parameter::Role::table: parameter.value = source.clone(); break;
    case Parameter::Role::unread: break;
  }
}

void make_trainable(Parameter& parameter) {
  parameter.packed = nullptr;
  parameter.value = parameter.value.to(DType::float32).clone();
  parameter.source = parameter.value.reshape(parameter.shape);
}

}  // namespace raedit::nn
