#include "ops/linear.h"

#include "ops/activation.h"
#include "ops/check_operands.h"
#include "ops/composite.h"
#include "ops/operand.h"
#include "ops/tape.h"

namespace raedit::ops {
namespace {

void check(const Tensor& x, const Matrix& weight, const Tensor& bias) {
  check_compute_dtype("linear", x);
  if (weight.packed == nullptr) check_rank("linear", "weight", weight.value, 2);
  const Shape shape = weight.shape();
  RAEDIT_CHECK(x.rank() >= 1 && x.dim(-1) == shape[1],
               {.code = ErrorCode::invalid_argument,
                .what = "input width does not fit the weight",
                .where = "linear",
                .found = x.shape().str(),
                .expected = "a last dimension of " + std::to_string(shape[1]) + " for a weight of " + shape.str()});
  RAEDIT_CHECK(weight.packed == nullptr || weight.packed->dtype == x.dtype() || weight.packed->dtype == DType::int8,
               {.code = ErrorCode::invalid_argument,
                .what = "input and weight have different types",
                .where = "linear",
                .found = std::string(name_of(x.dtype())),
                .expected = weight.packed == nullptr ? "" : std::string(name_of(weight.packed->dtype))});
  if (bias.defined()) check_shape("linear", "bias", bias.shape(), {shape[0]});
  check_float32("linear", "bias", bias);
}

}  // namespace

Tensor linear(Context& ctx, const Tensor& x, const Matrix& weight, const Tensor& bias, Activation act) {
  check(x, weight, bias);
  Tape* tape = Tape::recording(ctx, {&x, &weight.value, &bias});
  // The backward of an activation needs its input, which the fused form does not keep.
  if (tape != nullptr && act != Activation::none) return activation(ctx, linear(ctx, x, weight, bias), act);

  const Tensor rows = operand_rows(ctx, x);
  // A bfloat16 copy that is made once a step spares every product the conversion; it has the bias, too.
  Tensor w = weight.value, rounded_bias;
  bool mixed = false;
  if (tape != nullptr && x.dtype() == DType::bfloat16) {
    if (const Tensor rounded = tape->rounded(w); rounded.defined()) {
      w = rounded;
      mixed = true;
    }
    rounded_bias = tape->rounded(bias);
  }
  const auto packed = weight.packed != nullptr ? weight.packed : ctx.kernels().pack(w, x.dtype());
  Shape shape = x.shape();
  shape.set(-1, packed->n);
  const Tensor out = ctx.empty(shape, x.dtype());
  const Tensor out_rows = out.reshape({-1, out.dim(-1)});
  const Tensor in = ctx.here(rows);
  if (rounded_bias.defined())
    ctx.kernels().linear_rounded(in, *packed, rounded_bias, out_rows);
  else
    ctx.kernels().linear(in, *packed, ctx.here(bias), act, out_rows);

  if (tape != nullptr) {
    tape->record(
        out,
        [in, w, mixed, dx = tape->slot(rows), dw = tape->slot(weight.value), db = tape->slot(bias)](
            Context& c, Tape& t, const Tensor& dout) {
          const Tensor all = dout.reshape({-1, dout.dim(-1)});
          // Both products read bfloat16 then: rounded once.
          const Tensor d = mixed ? cast(c, all, DType::bfloat16) : all;
          if (dx.wanted()) c.kernels().matmul_into(d, c.here(w), t.target(c, dx), in.dtype());
          c.kernels().matmul_into(d.transpose(0, 1), in, t.target(c, dw), in.dtype());
          c.kernels().column_sums_into(all, t.target(c, db));
        },
        Tape::Dout::any);
  }
  return out;
}

}  // namespace raedit::ops

namespace raedit::composite {

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const int64_t n = weight.dim(0);
  const int64_t k = weight.dim(1);
  const int64_t m = x.numel() / k;
  const auto xs = doubles(x), ws = doubles(weight), bs = doubles(bias);
  std::vector<double> out(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias.defined() ? bs[static_cast<size_t>(j)] : 0.0;
      for (int64_t c = 0; c < k; ++c) sum += xs[static_cast<size_t>(i * k + c)] * ws[static_cast<size_t>(j * k + c)];
      out[static_cast<size_t>(i * n + j)] = sum;
    }
  }
  Shape shape = x.shape();
  shape.set(-1, n);
  return tensor(out, shape);
}

}  // namespace raedit::composite
