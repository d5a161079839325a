#include "train/flow_matching.h"

#include "core/check.h"

namespace raedit::train {
namespace {

void require_batch(const Tensor& a, const Tensor& b, size_t count, const char* where) {
  RAEDIT_CHECK(a.rank() > 0 && a.shape() == b.shape() && static_cast<size_t>(a.dim(0)) == count && a.numel() > 0,
               {.code = ErrorCode::invalid_argument,
                .what = "operands do not fit together",
                .where = where,
                .found = a.shape().str() + ", " + b.shape().str() + " and " + std::to_string(count) + " numbers",
                .expected = "two of one shape and a number for each of the batch"});
}

}  // namespace

Tensor noisy_latents(const Tensor& latents, const Tensor& noise, std::span<const float> sigmas) {
  require_batch(latents, noise, sigmas.size(), "noisy_latents");
  const Tensor z = latents.to(DType::float32).contiguous(), n = noise.to(DType::float32).contiguous();
  const Tensor out = Tensor::empty(z.shape(), DType::float32);
  const int64_t each = z.numel() / z.dim(0);
  for (int64_t i = 0; i < z.numel(); ++i) {
    const float sigma = sigmas[static_cast<size_t>(i / each)];
    out.data<float>()[i] = sigma * n.data<float>()[i] + (1.0f - sigma) * z.data<float>()[i];
  }
  return out;
}

Tensor velocity_target(const Tensor& latents, const Tensor& noise) {
  require_batch(latents, noise, static_cast<size_t>(latents.dim(0)), "velocity_target");
  const Tensor z = latents.to(DType::float32).contiguous(), n = noise.to(DType::float32).contiguous();
  const Tensor out = Tensor::empty(z.shape(), DType::float32);
  for (int64_t i = 0; i < z.numel(); ++i) out.data<float>()[i] = n.data<float>()[i] - z.data<float>()[i];
  return out;
}

LossAndGradient velocity_loss(const Tensor& prediction, const Tensor& target, std::span<const float> weights) {
  require_batch(prediction, target, weights.size(), "velocity_loss");
  const Tensor p = prediction.to(DType::float32).contiguous(), t = target.to(DType::float32).contiguous();
  const int64_t count = p.numel(), each = count / p.dim(0);
  LossAndGradient result{0, Tensor::empty(p.shape(), DType::float32)};
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float weight = weights[static_cast<size_t>(i / each)];
    const float difference = p.data<float>()[i] - t.data<float>()[i];
    sum += static_cast<double>(weight) * difference * difference;
    result.gradient.data<float>()[i] = 2.0f * weight * difference / static_cast<float>(count);
  }
  result.loss = sum / static_cast<double>(count);
  return result;
}

}  // namespace raedit::train
