// The last step of a product: bias, rounding, activation.
#pragma once

#include "backend/cuda/numbers.cuh"
#include "backend/kernels.h"

namespace raedit::backend::cuda {

__device__ inline float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::silu: return silu(x);
    case Activation::gelu: return gelu_erf(x);
    case Activation::gelu_tanh: return gelu_tanh(x);
    case Activation::none: break;
  }
  return x;
}

// A finished element: the product and its bias are rounded to the type of the result before the activation, so that the
// fused form and the two ops one after the other are the same to the last bit.
template <class O>
__device__ inline O finished(float product, float bias, Activation kind) {
  const O sum = from_float<O>(product + bias);
  return kind == Activation::none ? sum : from_float<O>(activate(kind, to_float(sum)));
}

}  // namespace raedit::backend::cuda
