#include "models/dinov2_with_registers.h"

#include "ops/activation.h"
#include "ops/elementwise.h"
#include "ops/gated.h"
#include "ops/moving.h"
#include "ops/resample.h"

namespace raedit::models {
namespace {

constexpr float kNormEps = 1e-6f;
constexpr int64_t kHeadWidth = 64;  // of every DINOv2
constexpr int64_t kMlpRatio = 4;

using Role = nn::Parameter::Role;

}  // namespace

Dinov2Layer::Dinov2Layer(int64_t width)
    : norm1(nn::Norm::layer(width, kNormEps, true)),
      norm2(nn::Norm::layer(width, kNormEps, true)),
      attention(width, width / kHeadWidth, nn::kTransformersAttention),
      layer_scale1(Role::vector, {width}),
      layer_scale2(Role::vector, {width}),
      fc1(width, kMlpRatio * width),
      fc2(kMlpRatio * width, width) {}

Tensor Dinov2Layer::forward(Context& ctx, Tensor x) const {
  x = ops::add_gated(ctx, x, attention.forward(ctx, norm1.forward(ctx, x)), layer_scale1.value);
  const Tensor hidden = fc1.forward(ctx, norm2.forward(ctx, x), nn::Activation::gelu);
  return ops::add_gated(ctx, x, fc2.forward(ctx, hidden), layer_scale2.value);
}

Dinov2WithRegisters::Dinov2WithRegisters(int64_t width, int64_t patch, int64_t depth)
    : patch_size(patch),
      cls_token(Role::vector, {1, 1, width}),
      mask_token(Role::table, {1, width}, false),
      register_tokens(Role::vector, {1, kRegisters, width}),
      patch_embeddings(3, width, patch),
      layernorm(nn::Norm::layer(width, kNormEps, false)) {
  const int64_t side = kTrainedImageSize / patch;
  position_embeddings = nn::Parameter(Role::vector, {1, side * side + 1, width});
  for (int64_t i = 0; i < depth; ++i) layers.emplace_back(width);
}

Tensor Dinov2WithRegisters::patch_positions(Context& ctx, int64_t height, int64_t width) const {
  const int64_t side = kTrainedImageSize / patch_size;
  const int64_t channels = position_embeddings.shape[2];
  const Tensor trained = position_embeddings.value.slice(1, 1, side * side + 1);
  if (height == side && width == side) return trained;
  const Tensor grid = trained.reshape({1, side, side, channels}).transpose(1, 3).transpose(2, 3);  // [1,D,side,side]
  const Tensor resized = ops::resample(ctx, ops::contiguous(ctx, grid), height, width, ops::Filter::bicubic_antialias);
  return ops::contiguous(ctx, resized.reshape({1, channels, height * width}).transpose(1, 2));
}

Tensor Dinov2WithRegisters::forward(Context& ctx, const Tensor& pixels, DType dtype) const {
  const int64_t batch = pixels.dim(0);
  const int64_t height = pixels.dim(2) / patch_size;
  const int64_t width = pixels.dim(3) / patch_size;
  const int64_t channels = cls_token.shape[2];

  // Registers come after the class token and get no position.
  const Tensor patches = patch_embeddings.forward(ctx, ops::cast(ctx, pixels, dtype));
  const Tensor placed = ops::add(ctx, patches, patch_positions(ctx, height, width));
  const Tensor cls = ops::add(ctx, cls_token.value, position_embeddings.value.slice(1, 0, 1));
  const Tensor special = ops::cast(ctx, ops::concat(ctx, {cls, register_tokens.value}, 1), dtype);
  Tensor x = ops::concat(ctx, {special.expand({batch, 1 + kRegisters, channels}), placed}, 1);

  for (const Dinov2Layer& layer : layers) x = layer.forward(ctx, x);
  x = layernorm.forward(ctx, x);
  return x.slice(1, 1 + kRegisters, x.dim(1));
}

}  // namespace raedit::models
