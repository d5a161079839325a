// linear: x W^T + b, the product that nearly all the time goes into.
#pragma once

#include <memory>

#include "backend/kernels.h"
#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::ops {

using backend::Activation;

// A weight matrix [N,K] as the checkpoint has it and, for inference, as the device reads it. Without `packed` it is
// packed anew in every call, which is what training wants: the numbers change at every step.
struct Matrix {
  Tensor value;  // may be absent where packed is there and nobody trains
  std::shared_ptr<const backend::PackedMatrix> packed;

  Shape shape() const { return packed != nullptr ? Shape{packed->n, packed->k} : value.shape(); }
};

// x [..., K] -> act(x W^T + bias) [..., N] in x's dtype. bias [N] float32, optional.
Tensor linear(Context& ctx, const Tensor& x, const Matrix& weight, const Tensor& bias = {},
              Activation act = Activation::none);

}  // namespace raedit::ops

namespace raedit::composite {
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias);
}
