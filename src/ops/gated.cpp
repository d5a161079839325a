#include "ops/gated.h"

#include "backend/kernels.h"
#include "ops/check_operands.h"
#include "ops/composite.h"
#include "ops/operand.h"
#include "ops/tape.h"

namespace raedit::ops {
namespace {

// y and gate, which is as wide as x, are also on the device: branch and g.
void record_add_gated(Context& ctx, const Tensor& x, const Tensor& y, const Tensor& gate, const Tensor& branch,
                      const Tensor& g, const Tensor& out) {
  Tape* tape = Tape::recording(ctx, {&x, &y, &gate});
  if (tape == nullptr) return;
  tape->record(
      out,
      [branch, g, dx = tape->slot(x), slots = std::array{tape->slot(y), tape->slot(gate)}](Context& c, Tape& t,
                                                                                           const Tensor& dout) {
        const auto to = t.targets(c, slots);
        c.kernels().add_gated_backward_into(dout, branch, g, to[0], to[1]);
        t.pass_on(c, dx, dout);
      },
      Tape::Dout::any);
}

}  // namespace

Tensor add_gated(Context& ctx, const Tensor& x, const Tensor& y, const Tensor& gate) {
  check_compute_dtype("add_gated", x);
  check_compute_dtype("add_gated", y);
  check_compute_dtype("add_gated", gate);
  check_shape("add_gated", "y", y.shape(), x.shape());
  const Tensor wide = expand_to("add_gated", "gate", gate, x.shape());
  const Tensor out = ctx.empty(x.shape(), x.dtype());
  const Tensor branch = ctx.here(y), g = ctx.here(gate).expand(x.shape());
  ctx.kernels().add_gated(ctx.here(x), branch, g, out);
  record_add_gated(ctx, x, y, wide, branch, g, out);
  return out;
}

GatedNorm add_gated_norm(Context& ctx, const Tensor& x, const Tensor& y, const Tensor& gate, NormKind kind, float eps,
                         const Tensor& weight, const Tensor& shift, const Tensor& scale, bool for_product) {
  if (!ctx.kernels().fused()) {
    const Tensor sum = add_gated(ctx, x, y, gate);
    return {sum, modulated_norm(ctx, sum, kind, eps, weight, shift, scale, for_product)};
  }
  constexpr const char* kName = "add_gated_norm";
  for (const Tensor* operand : {&x, &y, &gate, &scale}) check_compute_dtype(kName, *operand);
  check_rank(kName, "x", x, 3);
  check_shape(kName, "y", y.shape(), x.shape());
  if (weight.defined()) check_shape(kName, "weight", weight.shape(), {x.dim(2)});
  check_float32(kName, "weight", weight);
  const auto wide = [&](const char* name, const Tensor& t) {
    return t.defined() ? expand_to(kName, name, t, x.shape()) : t;
  };
  const GatedNorm out{ctx.empty(x.shape(), x.dtype()), empty_operand(ctx, x.shape(), x.dtype(), for_product)};
  const Tensor branch = ctx.here(y), g = wide("gate", ctx.here(gate));
  const backend::NormArgs args{
      kind, eps, out.sum, ctx.here(weight), {}, wide("scale", ctx.here(scale)), wide("shift", ctx.here(shift))};
  ctx.kernels().add_gated_norm(ctx.here(x), branch, g, args, out.normed);
  record_add_gated(ctx, x, y, wide("gate", gate), branch, g, out.sum);
  record_norm(ctx, {kind, eps, out.sum, weight, {}, wide("scale", scale), wide("shift", shift)}, args, out.normed);
  return out;
}

}  // namespace raedit::ops

namespace raedit::composite {

Tensor add_gated(const Tensor& x, const Tensor& y, const Tensor& gate) {
  const auto xs = doubles(x), ys = doubles(y), gs = doubles(gate.expand(x.shape()));
  std::vector<double> out(xs.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = xs[i] + gs[i] * ys[i];
  return tensor(out, x.shape());
}

}  // namespace raedit::composite
