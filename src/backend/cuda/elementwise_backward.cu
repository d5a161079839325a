// What goes back through the element-by-element kernels: gradients added, and summed where an operand was broadcast.
#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/gradients.h"
#include "backend/cuda/walk.h"

namespace raedit::backend::cuda {
namespace {

// The logistic function and its derivative, s (1 - s) without the cancellation; e^-|x| cannot overflow.
__device__ inline float sigmoid(float x, float& slope) {
  const float e = expf(-fabsf(x)), inverse = 1.0f / (1.0f + e);
  slope = e * inverse * inverse;
  return (x < 0.0f ? e : 1.0f) * inverse;
}

__device__ inline float silu_gradient(float x) {
  float slope;
  const float s = sigmoid(x, slope);
  return fmaf(x, slope, s);
}

struct SiluGradient {
  __device__ float operator()(float d, float x) const { return d * silu_gradient(x); }
};
// Phi(x) + x phi(x), the normal distribution and its density
struct GeluGradient {
  __device__ float operator()(float d, float x) const {
    const float density = 0.39894228f * expf(-0.5f * x * x);
    return d * fmaf(x, density, 0.5f * erfcf(-x * 0.70710678f));
  }
};
// x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3). Beyond 20 the sigmoid is 0 or 1; its cube must not overflow.
struct GeluTanhGradient {
  __device__ float operator()(float d, float x) const {
    constexpr float kFactor = 1.59576912f, kCubic = 1.59576912f * 0.044715f;
    const float c = fabsf(x) > 20.0f ? copysignf(20.0f, x) : x, square = c * c;
    float slope;
    const float s = sigmoid(c * fmaf(square, kCubic, kFactor), slope);
    return d * fmaf(slope, c * fmaf(square, 3.0f * kCubic, kFactor), s);
  }
};
struct SwiGluValue {
  __device__ float operator()(float d, float gate) const { return d * silu(gate); }
};
struct SwiGluGate {
  __device__ float operator()(float d, float value, float gate) const { return d * value * silu_gradient(gate); }
};
struct SwiGluBoth {
  __device__ void operator()(float& dvalue, float& dgate, float d, float value, float gate) const {
    dvalue += SwiGluValue()(d, gate);
    dgate += SwiGluGate()(d, value, gate);
  }
};
struct Negative {
  __device__ float operator()(float d) const { return -d; }
};
struct Product {
  __device__ float operator()(float d, float x) const { return d * x; }
};
struct AddGatedBoth {
  __device__ void operator()(float& dx, float& dy, float d, float gate) const {
    dx += d;
    dy += d * gate;
  }
};
struct Quotient {
  __device__ float operator()(float d, float b) const { return d / b; }
};
struct DivisorGradient {
  __device__ float operator()(float d, float a, float b) const { return -(d * (a / b)) / b; }
};

}  // namespace

void CudaKernels::activation_backward(Activation kind, const Tensor& dout, const Tensor& x, const Tensor& dx) const {
  switch (kind) {
    case Activation::none: return add_map(rt_, "activation_backward", Identity{}, dx, dout);
    case Activation::silu: return add_map(rt_, "silu_backward", SiluGradient{}, dx, dout, x);
    case Activation::gelu: return add_map(rt_, "gelu_backward", GeluGradient{}, dx, dout, x);
    case Activation::gelu_tanh: return add_map(rt_, "gelu_tanh_backward", GeluTanhGradient{}, dx, dout, x);
  }
}

void CudaKernels::swiglu_backward(const Tensor& dout, const Tensor& x, const Tensor& dx) const {
  if (!dx.defined()) return;
  const int64_t width = x.dim(-1), half = width / 2;
  const Tensor value = x.slice(-1, 0, half), gate = x.slice(-1, half, width);
  const Tensor dvalue = dx.slice(-1, 0, half), dgate = dx.slice(-1, half, width);
  if (add_pairs(rt_, "swiglu_backward", SwiGluBoth{}, dvalue, dgate, dout, value, gate)) return;
  add_map(rt_, "swiglu_backward", SwiGluValue{}, dvalue, dout, gate);
  add_map(rt_, "swiglu_backward", SwiGluGate{}, dgate, dout, value, gate);
}

void CudaKernels::add_gated_backward(const Tensor& dout, const Tensor& y, const Tensor& gate, const Tensor& dx,
                                     const Tensor& dy, const Tensor& dgate) const {
  // One storage may hold both gradients: x and y can be the same tensor, or views of one.
  const bool apart = dx.defined() && dy.defined() && dx.storage() != dy.storage();
  if (!apart || !add_pairs(rt_, "add_gated_backward", AddGatedBoth{}, dx, dy, dout, gate)) {
    add_map(rt_, "add_gated_backward", Identity{}, dx, dout);
    add_map(rt_, "add_gated_backward", Product{}, dy, dout, gate);
  }
  add_map(rt_, "add_gated_backward", Product{}, dgate, dout, y);
}

void CudaKernels::binary_backward(Binary kind, const Tensor& dout, const Tensor& a, const Tensor& b, const Tensor& da,
                                  const Tensor& db) const {
  switch (kind) {
    case Binary::add:
      add_map(rt_, "add_backward", Identity{}, da, dout);
      return add_map(rt_, "add_backward", Identity{}, db, dout);
    case Binary::sub:
      add_map(rt_, "sub_backward", Identity{}, da, dout);
      return add_map(rt_, "sub_backward", Negative{}, db, dout);
    case Binary::mul:
      add_map(rt_, "mul_backward", Product{}, da, dout, b);
      return add_map(rt_, "mul_backward", Product{}, db, dout, a);
    case Binary::div:
      add_map(rt_, "div_backward", Quotient{}, da, dout, b);
      return add_map(rt_, "div_backward", DivisorGradient{}, db, dout, a, b);
  }
}

}  // namespace raedit::backend::cuda
