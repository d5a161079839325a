// The engine under the elementwise kernels and under every gradient that is a sum of products: an operation on float32
// chunks, with operands of any strides converted on the way in and out.
#pragma once

#include <initializer_list>

#include "raedit/tensor.h"

namespace raedit::backend::cpu {

// Operands in brackets, g is an incoming gradient.
enum class Op {
  copy,                // [x] x
  negate,              // [x] -x
  silu,                // [x]
  gelu,                // [x]
  gelu_tanh,           // [x]
  add,                 // [a, b]
  sub,                 // [a, b]
  mul,                 // [a, b]
  div,                 // [a, b]
  swiglu,              // [value, gate] value * silu(gate)
  add_gated,           // [x, y, gate] x + gate * y
  add_scaled,          // [a, b] a + alpha * b
  clamp,               // [x] min(max(x, alpha), beta)
  silu_gradient,       // [g, x]
  gelu_gradient,       // [g, x]
  gelu_tanh_gradient,  // [g, x]
  div_gradient,        // [g, a, b] -g * a / b^2
  swiglu_gate,         // [g, value, gate] g * value * silu'(gate)
  norm_bias,           // [g, scale] g * (1 + scale)
  norm_weight,         // [g, scale, x, mean, rstd] g * (1 + scale) * (x - mean) * rstd
  norm_scale,          // [g, x, mean, rstd, weight, bias] g * ((x - mean) * rstd * weight + bias)
};

struct OpArgs {
  Op op = Op::copy;
  float alpha = 0;
  float beta = 0;
};

// out = op(inputs). All of out's shape; any strides, no repetition in out.
void evaluate(const OpArgs& args, std::initializer_list<const Tensor*> inputs, const Tensor& out, int threads);

// target += op(inputs), summed over the dimensions along which target (float32) has stride 0. Nothing where target is
// not defined. The order of the sums does not depend on the number of threads.
void accumulate_op(const OpArgs& args, std::initializer_list<const Tensor*> inputs, const Tensor& target, int threads);

}  // namespace raedit::backend::cpu
