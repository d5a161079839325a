#include "ops/activation.h"

#include <cmath>
#include <numbers>

#include "ops/check_operands.h"
#include "ops/composite.h"
#include "ops/linear.h"
#include "ops/operand.h"
#include "ops/tape.h"

namespace raedit::ops {

Tensor activation(Context& ctx, const Tensor& x, Activation kind, bool for_product) {
  check_compute_dtype("activation", x);
  const Tensor out = empty_operand(ctx, x.shape(), x.dtype(), for_product);
  const Tensor in = ctx.here(x);
  ctx.kernels().activation(kind, in, out);
  if (Tape* tape = Tape::recording(ctx, {&x})) {
    tape->record(
        out,
        [kind, in, dx = tape->slot(x)](Context& c, Tape& t, const Tensor& dout) {
          c.kernels().activation_backward_into(kind, dout, in, t.target(c, dx));
        },
        Tape::Dout::any);
  }
  return out;
}

Tensor swiglu(Context& ctx, const Tensor& x) {
  check_compute_dtype("swiglu", x);
  RAEDIT_CHECK(x.rank() >= 1 && x.dim(-1) % 2 == 0, {.code = ErrorCode::invalid_argument,
                                                     .what = "the last dimension must hold a value and a gate half",
                                                     .where = "swiglu",
                                                     .found = x.shape().str(),
                                                     .expected = "an even last dimension"});
  Shape shape = x.shape();
  shape.set(-1, x.dim(-1) / 2);
  const Tensor out = ctx.empty(shape, x.dtype());
  const Tensor in = ctx.here(x);
  ctx.kernels().swiglu(in, out);
  if (Tape* tape = Tape::recording(ctx, {&x})) {
    tape->record(
        out,
        [in, dx = tape->slot(x)](Context& c, Tape& t, const Tensor& dout) {
          c.kernels().swiglu_backward_into(dout, in, t.target(c, dx));
        },
        Tape::Dout::any);
  }
  return out;
}

Tensor linear_swiglu(Context& ctx, const Tensor& x, const Matrix& weight, const Tensor& bias) {
  const auto fits = [&x](const backend::PackedMatrix& w) {
    return (w.dtype == x.dtype() || w.dtype == DType::int8) && x.dim(-1) == w.k;
  };
  const bool fused = ctx.tape() == nullptr && weight.packed != nullptr && fits(*weight.packed);
  if (fused) {
    Shape shape = x.shape();
    shape.set(-1, weight.packed->n / 2);
    const Tensor out = ctx.empty(shape, x.dtype());
    const Tensor rows = operand_rows(ctx, ctx.here(x));
    if (ctx.kernels().linear_swiglu(rows, *weight.packed, ctx.here(bias), out.reshape({-1, shape[-1]}))) return out;
  }
  return swiglu(ctx, linear(ctx, x, weight, bias));
}

}  // namespace raedit::ops

namespace raedit::composite {
namespace {

double silu(double x) {
  return x / (1.0 + std::exp(-x));
}

double apply(backend::Activation kind, double x) {
  switch (kind) {
    case backend::Activation::none: return x;
    case backend::Activation::silu: return silu(x);
    case backend::Activation::gelu: return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
    case backend::Activation::gelu_tanh:
      // (1 + tanh u) / 2 as the sigmoid of 2 u, which keeps its digits where tanh is nearly -1.
      return x / (1.0 + std::exp(-2.0 * std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
  }
  return x;
}

}  // namespace

Tensor activation(backend::Activation kind, const Tensor& x) {
  auto values = doubles(x);
  for (double& value : values) value = apply(kind, value);
  return tensor(values, x.shape());
}

Tensor swiglu(const Tensor& x) {
  const auto xs = doubles(x);
  Shape shape = x.shape();
  shape.set(-1, x.dim(-1) / 2);
  const auto half = static_cast<size_t>(shape[-1]);
  std::vector<double> out(xs.size() / 2);
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t value = i / half * 2 * half + i % half;
    out[i] = xs[value] * silu(xs[value + half]);
  }
  return tensor(out, shape);
}

}  // namespace raedit::composite
