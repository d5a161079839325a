#include "ops/position.h"

#include <fmt/format.h>

#include "backend/kernels.h"
#include "ops/check_operands.h"
#include "ops/composite.h"
#include "ops/norm.h"
#include "ops/tape.h"

namespace raedit::ops {
namespace {

void check_pairs(const char* name, const Tensor& x) {
  RAEDIT_CHECK(x.dim(3) % 2 == 0, {.code = ErrorCode::invalid_argument,
                                   .what = "only pairs can be rotated",
                                   .where = name,
                                   .found = x.shape().str(),
                                   .expected = "an even head width"});
}

}  // namespace

Tensor rope(Context& ctx, const Tensor& x, const Tensor& cos, const Tensor& sin) {
  check_compute_dtype("rope", x);
  check_rank("rope", "x", x, 4);
  check_pairs("rope", x);
  check_shape("rope", "cos", cos.shape(), {x.dim(1), x.dim(3)});
  check_shape("rope", "sin", sin.shape(), {x.dim(1), x.dim(3)});
  const Tensor out = ctx.empty(x.shape(), x.dtype());
  const Tensor c_here = ctx.here(cos), s_here = ctx.here(sin);
  ctx.kernels().rope(ctx.here(x), c_here, s_here, false, out);
  if (Tape* tape = Tape::recording(ctx, {&x})) {
    tape->record(
        out,
        [c_here, s_here, dx = tape->slot(x)](Context& c, Tape& t, const Tensor& dout) {
          c.kernels().rope_backward_into(dout, c_here, s_here, t.target(c, dx));
        },
        Tape::Dout::any);
  }
  return out;
}

Tensor norm_rope(Context& ctx, const Tensor& x, backend::NormKind kind, float eps, const Tensor& weight,
                 const Tensor& bias, const Tensor& cos, const Tensor& sin) {
  if (ctx.tape() != nullptr || !ctx.kernels().fused()) {
    const Tensor normed = kind == NormKind::rms ? rms_norm(ctx, x, weight, eps) : layer_norm(ctx, x, weight, bias, eps);
    return cos.defined() ? rope(ctx, normed, cos, sin) : normed;
  }
  check_compute_dtype("norm_rope", x);
  check_rank("norm_rope", "x", x, 4);
  if (cos.defined()) {
    check_pairs("norm_rope", x);
    check_shape("norm_rope", "cos", cos.shape(), {x.dim(1), x.dim(3)});
    check_shape("norm_rope", "sin", sin.shape(), {x.dim(1), x.dim(3)});
  }
  if (weight.defined()) check_shape("norm_rope", "weight", weight.shape(), {x.dim(3)});
  if (bias.defined()) check_shape("norm_rope", "bias", bias.shape(), {x.dim(3)});
  const Tensor out = ctx.empty(x.shape(), x.dtype());
  const backend::NormArgs args{kind, eps, ctx.here(x), ctx.here(weight), ctx.here(bias), {}, {}};
  ctx.kernels().norm_rope(args, ctx.here(cos), ctx.here(sin), out);
  return out;
}

Tensor embedding(Context& ctx, const Tensor& table, const Tensor& ids, DType dtype) {
  check_rank("embedding", "table", table, 2);
  check_rank("embedding", "ids", ids, 1);
  // Ids that are on a device already were checked by whoever brought them there.
  for (int64_t i = 0; ids.on_host() && i < ids.dim(0); ++i) {
    const int64_t id = ids.data<int64_t>()[i * ids.stride(0)];
    RAEDIT_CHECK(id >= 0 && id < table.dim(0), {.code = ErrorCode::invalid_argument,
                                                .what = "id is outside the table",
                                                .where = "embedding",
                                                .found = fmt::to_string(id),
                                                .expected = fmt::format("0 to {}", table.dim(0) - 1)});
  }
  const Tensor out = ctx.empty({ids.dim(0), table.dim(1)}, dtype);
  const Tensor rows = ctx.here(ids);
  ctx.kernels().embedding(ctx.here(table), rows, out);
  if (Tape* tape = Tape::recording(ctx, {&table})) {
    tape->record(out, [rows, dtable = tape->slot(table)](Context& c, Tape& t, const Tensor& dout) {
      c.kernels().embedding_backward(dout, rows, t.grad(c, dtable));
    });
  }
  return out;
}

Tensor fourier_features(Context& ctx, const Tensor& t, const Tensor& w) {
  check_rank("fourier_features", "t", t, 1);
  check_rank("fourier_features", "w", w, 1);
  const Tensor out = ctx.empty({t.dim(0), 2 * w.dim(0)}, DType::float32);
  ctx.kernels().fourier_features(ctx.here(t), ctx.here(w), out);
  return out;
}

}  // namespace raedit::ops

namespace raedit::composite {

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  const auto xs = doubles(x), cs = doubles(cos), ss = doubles(sin);
  const int64_t n = x.dim(1), heads = x.dim(2), width = x.dim(3);
  std::vector<double> out(xs.size());
  for (size_t i = 0; i < xs.size(); ++i) {
    const auto position = static_cast<int64_t>(i) / (heads * width) % n;
    const auto channel = static_cast<int64_t>(i) % width;
    const auto angle = static_cast<size_t>(position * width + channel);
    const bool even = channel % 2 == 0;
    const double partner = even ? -xs[i + 1] : xs[i - 1];
    out[i] = xs[i] * cs[angle] + partner * ss[angle];
  }
  return tensor(out, x.shape());
}

Tensor embedding(const Tensor& table, const Tensor& ids) {
  const auto ts = doubles(table);
  const auto rows = ids.to_vector<int64_t>();
  const auto width = static_cast<size_t>(table.dim(1));
  std::vector<double> out;
  for (const int64_t row : rows)
    for (size_t c = 0; c < width; ++c) out.push_back(ts[static_cast<size_t>(row) * width + c]);
  return tensor(out, {ids.dim(0), table.dim(1)});
}

}  // namespace raedit::composite
