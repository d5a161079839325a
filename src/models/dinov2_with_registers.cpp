#include "models/dinov2_with_registers.h"

#include "ops/elementwise.h"
#include "ops/moving.h"

namespace raedit::models {
namespace {

constexpr float kNormEps = 1e-6f;
constexpr int64_t kMlpRatio = 4;

constexpr VitBlockNames kClassicNames{"norm1", "attention", "norm2", "mlp.fc1", "mlp.fc2", nn::kTransformersAttention};
constexpr VitBlockNames kModernNames{"norm1",   "attention", "norm2",
                                     "mlp.fc1", "mlp.fc2",   {"q_proj", "k_proj", "v_proj", "o_proj"}};

using Role = nn::Parameter::Role;

}  // namespace

Dinov2WithRegisters::Dinov2WithRegisters(int64_t width, int64_t patch, int64_t depth, Spelling spelling)
    : patch_size(patch),
      cls_token(Role::vector, {1, 1, width}),
      mask_token(Role::unread, {1, width}, false),
      register_tokens(Role::vector, {1, kRegisters, width}),
      patch_embeddings(3, width, patch),
      layernorm(nn::Norm::layer(width, kNormEps, false)) {
  const int64_t side = kTrainedImageSize / patch;
  position_embeddings = nn::Parameter(Role::vector, {1, side * side + 1, width});
  const VitBlockConfig block{.width = width, .mlp_width = kMlpRatio * width, .norm_eps = kNormEps, .layer_scale = true};
  const VitBlockNames& names = spelling == Spelling::modern ? kModernNames : kClassicNames;
  for (int64_t i = 0; i < depth; ++i) layers.emplace_back(block, names);
}

Tensor Dinov2WithRegisters::forward(Context& ctx, const Tensor& pixels, DType dtype) const {
  const Tensor& positions = position_embeddings.value;
  const Tensor patch_positions =
      resize_positions(ctx, positions.slice(1, 1, positions.dim(1)), pixels.dim(2) / patch_size,
                       pixels.dim(3) / patch_size, ops::Filter::bicubic_antialias);
  const Tensor patches = patch_embeddings.forward(ctx, ops::cast(ctx, pixels, dtype));
  const Tensor placed = ops::add(ctx, patches, patch_positions);
  // Registers come after the class token and get no position.
  const Tensor cls = ops::add(ctx, cls_token.value, positions.slice(1, 0, 1));
  Tensor x = prepend_tokens(ctx, ops::concat(ctx, {cls, register_tokens.value}, 1), placed);

  for (const VitBlock& layer : layers) x = layer.forward(ctx, x);
  x = layernorm.forward(ctx, x);
  return x.slice(1, 1 + kRegisters, x.dim(1));
}

}  // namespace raedit::models
