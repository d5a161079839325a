#include "ops/attention.h"

#include <algorithm>
#include <cmath>

#include "backend/kernels.h"
#include "ops/check_operands.h"
#include "ops/composite.h"
#include "ops/tape.h"

namespace raedit::ops {

Tensor attention(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v) {
  for (const Tensor* operand : {&q, &k, &v}) check_compute_dtype("attention", *operand);
  check_rank("attention", "query", q, 4);
  check_rank("attention", "key", k, 4);
  check_shape("attention", "key", k.shape(), {q.dim(0), k.dim(1), q.dim(2), q.dim(3)});
  check_shape("attention", "value", v.shape(), k.shape());
  RAEDIT_CHECK(k.dim(1) > 0 || q.dim(1) == 0, {.code = ErrorCode::invalid_argument,
                                               .what = "there is no key to attend to",
                                               .where = "attention",
                                               .found = k.shape().str()});
  const float scale = 1.0f / std::sqrt(static_cast<float>(q.dim(3)));
  const Tensor out = ctx.empty(q.shape(), q.dtype());
  const Tensor query = ctx.here(q), key = ctx.here(k), value = ctx.here(v);
  ctx.kernels().attention(query, key, value, scale, out);
  if (Tape* tape = Tape::recording(ctx, {&q, &k, &v})) {
    tape->record(
        out,
        [query, key, value, scale, slots = std::array{tape->slot(q), tape->slot(k), tape->slot(v)}](
            Context& c, Tape& t, const Tensor& dout) {
          const auto to = t.targets(c, slots);
          c.kernels().attention_backward_into(dout, query, key, value, scale, to[0], to[1], to[2]);
        },
        Tape::Dout::any);
  }
  return out;
}

}  // namespace raedit::ops

namespace raedit::composite {

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  const int64_t batch = q.dim(0), n = q.dim(1), heads = q.dim(2), width = q.dim(3), nk = k.dim(1);
  const auto qs = doubles(q), ks = doubles(k), vs = doubles(v);
  std::vector<double> out(qs.size(), 0.0);
  std::vector<double> p(static_cast<size_t>(nk));
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      const auto at = [&](int64_t i, int64_t tokens) {
        return static_cast<size_t>(((b * tokens + i) * heads + h) * width);
      };
      for (int64_t i = 0; i < n; ++i) {
        double max = -1e300;
        for (int64_t j = 0; j < nk; ++j) {
          double dot = 0.0;
          for (size_t c = 0; c < static_cast<size_t>(width); ++c) dot += qs[at(i, n) + c] * ks[at(j, nk) + c];
          p[static_cast<size_t>(j)] = dot / std::sqrt(static_cast<double>(width));
          max = std::max(max, p[static_cast<size_t>(j)]);
        }
        double sum = 0.0;
        for (double& value : p) sum += value = std::exp(value - max);
        for (int64_t j = 0; j < nk; ++j)
          for (size_t c = 0; c < static_cast<size_t>(width); ++c)
            out[at(i, n) + c] += p[static_cast<size_t>(j)] / sum * vs[at(j, nk) + c];
      }
    }
  }
  return tensor(out, q.shape());
}

}  // namespace raedit::composite
