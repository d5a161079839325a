// Activations, element by element, and SwiGLU.
#pragma once

#include "backend/kernels.h"
#include "ops/linear.h"
#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::ops {

using backend::Activation;

// for_product: products alone will read the result, whose rows need not touch then (operand.h).
Tensor activation(Context& ctx, const Tensor& x, Activation kind, bool for_product = false);
inline Tensor silu(Context& ctx, const Tensor& x) {
  return activation(ctx, x, Activation::silu);
}
// x * Phi(x), the exact one (erf).
inline Tensor gelu(Context& ctx, const Tensor& x) {
  return activation(ctx, x, Activation::gelu);
}
// The tanh approximation.
inline Tensor gelu_tanh(Context& ctx, const Tensor& x) {
  return activation(ctx, x, Activation::gelu_tanh);
}

// x [..., 2D] holds [value; gate] (diffusers' order; upstream RAE has [gate; value]) -> value * silu(gate) [..., D].
Tensor swiglu(Context& ctx, const Tensor& x);
// swiglu(linear(x)) [..., N/2], in one pass where nobody records and the device has it: then without the rounding
// between the two.
Tensor linear_swiglu(Context& ctx, const Tensor& x, const Matrix& weight, const Tensor& bias);

}  // namespace raedit::ops

namespace raedit::composite {
Tensor activation(backend::Activation kind, const Tensor& x);
Tensor swiglu(const Tensor& x);
}  // namespace raedit::composite
