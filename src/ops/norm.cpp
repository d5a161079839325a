#include "ops/norm.h"

#include <cmath>

#include "ops/check_operands.h"
#include "ops/composite.h"
#include "ops/operand.h"
#include "ops/tape.h"

namespace raedit::ops {
namespace {

// Of what was broadcast already: without its repetitions.
Tensor here(Context& ctx, const Tensor& expanded) {
  if (!expanded.defined() || expanded.on_host() == (ctx.kernels().memory() == nullptr)) return expanded;
  Tensor once = expanded;
  for (int i = 0; i < once.rank(); ++i)
    if (once.stride(i) == 0 && once.dim(i) > 1) once = once.slice(i, 0, 1);
  return ctx.here(once).expand(expanded.shape());
}

}  // namespace

void record_norm(Context& ctx, const backend::NormArgs& args, const backend::NormArgs& in, const Tensor& out) {
  if (Tape* tape = Tape::recording(ctx, {&args.x, &args.weight, &args.bias, &args.scale, &args.shift})) {
    tape->record(
        out,
        [in, slots = std::array{tape->slot(args.x), tape->slot(args.weight), tape->slot(args.bias),
                                tape->slot(args.scale), tape->slot(args.shift)}](Context& c, Tape& t,
                                                                                 const Tensor& dout) {
          const auto to = t.targets(c, slots);
          c.kernels().norm_backward_into(dout, in, {to[0], to[1], to[2], to[3], to[4]});
        },
        Tape::Dout::any);
  }
}

namespace {

Tensor norm(Context& ctx, const char* name, const backend::NormArgs& args, bool for_product = false) {
  check_compute_dtype(name, args.x);
  check_rank(name, "x", args.x, 3);
  if (args.weight.defined()) check_shape(name, "weight", args.weight.shape(), {args.x.dim(2)});
  if (args.bias.defined()) check_shape(name, "bias", args.bias.shape(), {args.x.dim(2)});
  for (const Tensor* operand : {&args.scale, &args.shift})
    if (operand->defined()) check_compute_dtype(name, *operand);
  check_float32(name, "weight", args.weight);
  check_float32(name, "bias", args.bias);

  const Shape& shape = args.x.shape();
  const Tensor out = empty_operand(ctx, shape, args.x.dtype(), for_product);
  const backend::NormArgs in{args.kind,
                             args.eps,
                             ctx.here(args.x),
                             ctx.here(args.weight),
                             ctx.here(args.bias),
                             here(ctx, args.scale),
                             here(ctx, args.shift)};
  ctx.kernels().norm(in, out);
  record_norm(ctx, args, in, out);
  return out;
}

// Any rank as [1, rows, D].
Tensor as_rows(Context& ctx, const Tensor& x) {
  return contiguous(ctx, x).reshape({1, -1, x.dim(-1)});
}

}  // namespace

Tensor layer_norm(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) {
  const backend::NormArgs args{NormKind::layer, eps, as_rows(ctx, x), weight, bias, {}, {}};
  return norm(ctx, "layer_norm", args).reshape(x.shape());
}

Tensor rms_norm(Context& ctx, const Tensor& x, const Tensor& weight, float eps) {
  const backend::NormArgs args{NormKind::rms, eps, as_rows(ctx, x), weight, {}, {}, {}};
  return norm(ctx, "rms_norm", args).reshape(x.shape());
}

Tensor modulated_norm(Context& ctx, const Tensor& x, NormKind kind, float eps, const Tensor& weight,
                      const Tensor& shift, const Tensor& scale, bool for_product) {
  check_rank("modulated_norm", "x", x, 3);
  const backend::NormArgs args{kind,
                               eps,
                               x,
                               weight,
                               {},
                               expand_to("modulated_norm", "scale", scale, x.shape()),
                               shift.defined() ? expand_to("modulated_norm", "shift", shift, x.shape()) : shift};
  return norm(ctx, "modulated_norm", args, for_product);
}

}  // namespace raedit::ops

namespace raedit::composite {

Tensor norm(backend::NormKind kind, double eps, const Tensor& x, const Tensor& weight, const Tensor& bias,
            const Tensor& shift, const Tensor& scale) {
  const int64_t width = x.dim(-1);
  const auto expanded = [&](const Tensor& t) { return t.defined() ? doubles(t.expand(x.shape())) : doubles(t); };
  const auto xs = doubles(x), ws = doubles(weight), bs = doubles(bias), shifts = expanded(shift),
             scales = expanded(scale);
  std::vector<double> out(xs.size());
  for (size_t row = 0; row < xs.size(); row += static_cast<size_t>(width)) {
    double mean = 0.0;
    double square = 0.0;
    if (kind == backend::NormKind::layer)
      for (size_t i = 0; i < static_cast<size_t>(width); ++i) mean += xs[row + i] / static_cast<double>(width);
    for (size_t i = 0; i < static_cast<size_t>(width); ++i)
      square += (xs[row + i] - mean) * (xs[row + i] - mean) / static_cast<double>(width);
    for (size_t i = 0; i < static_cast<size_t>(width); ++i) {
      double value = (xs[row + i] - mean) / std::sqrt(square + eps);
      if (weight.defined()) value *= ws[i];
      if (bias.defined()) value += bs[i];
      if (scale.defined()) value *= 1.0 + scales[row + i];
      if (shift.defined()) value += shifts[row + i];
      out[row + i] = value;
    }
  }
  return tensor(out, x.shape());
}

}  // namespace raedit::composite
