#include "train/flow_matching.h"

#include "backend/kernels.h"
#include "core/check.h"
#include "ops/moving.h"

namespace raedit::train {
namespace {

void require_batch(const Tensor& a, const Tensor& b, const Tensor& numbers, const char* where) {
  const bool fits = a.defined() && b.defined() && numbers.defined() && a.rank() > 0 && a.shape() == b.shape() &&
                    numbers.shape() == Shape{a.dim(0)} && a.numel() > 0;
  const auto found = [](const Tensor& t) { return t.defined() ? t.shape().str() : std::string("nothing"); };
  RAEDIT_CHECK(fits, {.code = ErrorCode::invalid_argument,
                      .what = "operands do not fit together",
                      .where = where,
                      .found = found(a) + ", " + found(b) + " and " + found(numbers),
                      .expected = "two of one shape and a number for each of the batch"});
}

// On the device, contiguous, float32.
Tensor plain(Context& ctx, const Tensor& tensor) {
  return ops::contiguous(ctx, ops::cast(ctx, ctx.here(tensor), DType::float32));
}

}  // namespace

FlowMatchingPair flow_matching(Context& ctx, const Tensor& latents, const Tensor& noise, const Tensor& sigmas) {
  require_batch(latents, noise, sigmas, "flow_matching");
  const FlowMatchingPair pair{ctx.empty(latents.shape(), DType::float32), ctx.empty(latents.shape(), DType::float32)};
  ctx.kernels().flow_matching(plain(ctx, latents), plain(ctx, noise), plain(ctx, sigmas), pair.noisy, pair.target);
  return pair;
}

Tensor velocity_loss(Context& ctx, const Tensor& prediction, const Tensor& target, const Tensor& weights, int64_t parts,
                     const Tensor& loss) {
  require_batch(prediction, target, weights, "velocity_loss");
  const Tensor gradient = ctx.empty(prediction.shape(), DType::float32);
  const Tensor p = ctx.here(prediction);
  ctx.kernels().velocity_loss(p.is_contiguous() ? p : plain(ctx, p), plain(ctx, target), plain(ctx, weights), parts,
                              gradient, loss);
  return gradient;
}

}  // namespace raedit::train
