// Arithmetic between tensors, with broadcasting.
#pragma once

#include "backend/kernels.h"
#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::ops {

// a op b in a's dtype, computed in float32. b broadcasts to a's shape.
Tensor binary(Context& ctx, backend::Binary kind, const Tensor& a, const Tensor& b);
inline Tensor add(Context& ctx, const Tensor& a, const Tensor& b) {
  return binary(ctx, backend::Binary::add, a, b);
}
inline Tensor sub(Context& ctx, const Tensor& a, const Tensor& b) {
  return binary(ctx, backend::Binary::sub, a, b);
}
inline Tensor mul(Context& ctx, const Tensor& a, const Tensor& b) {
  return binary(ctx, backend::Binary::mul, a, b);
}
inline Tensor div(Context& ctx, const Tensor& a, const Tensor& b) {
  return binary(ctx, backend::Binary::div, a, b);
}

// x * factor.
Tensor scale(Context& ctx, const Tensor& x, float factor);

// a + alpha * b in a's dtype; the product is rounded to float32 before the sum, as torch does. Not on the tape.
Tensor add_scaled(Context& ctx, const Tensor& a, float alpha, const Tensor& b);

// min(max(x, low), high). Not on the tape.
Tensor clamp(Context& ctx, const Tensor& x, float low, float high);

}  // namespace raedit::ops

namespace raedit::composite {
Tensor binary(backend::Binary kind, const Tensor& a, const Tensor& b);
}
