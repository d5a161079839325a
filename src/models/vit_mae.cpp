#include "models/vit_mae.h"

#include "ops/elementwise.h"
#include "ops/moving.h"

namespace raedit::models {
namespace {

constexpr float kNormEps = 1e-12f;
constexpr int64_t kMlpWidth = 3072;  // of ViT-B; the reference builds every width with it

constexpr VitBlockNames kClassicNames{"layernorm_before",   "attention",    "layernorm_after",
                                      "intermediate.dense", "output.dense", nn::kTransformersAttention};
constexpr VitBlockNames kModernNames{"layernorm_before", "attention", "layernorm_after",
                                     "mlp.fc1",          "mlp.fc2",   {"q_proj", "k_proj", "v_proj", "o_proj"}};

using Role = nn::Parameter::Role;

}  // namespace

VitMae::VitMae(int64_t width, int64_t patch, int64_t depth, Spelling names)
    : spelling(names),
      patch_size(patch),
      cls_token(Role::vector, {1, 1, width}),
      patch_embeddings(3, width, patch),
      layernorm(nn::Norm::layer(width, kNormEps, false)) {
  const int64_t side = kTrainedImageSize / patch;
  position_embeddings = nn::Parameter(Role::vector, {1, side * side + 1, width});
  const VitBlockConfig block{.width = width, .mlp_width = kMlpWidth, .norm_eps = kNormEps};
  for (int64_t i = 0; i < depth; ++i)
    layers.emplace_back(block, spelling == Spelling::modern ? kModernNames : kClassicNames);
}

Tensor VitMae::forward(Context& ctx, const Tensor& pixels, DType dtype) const {
  const Tensor& positions = position_embeddings.value;
  const Tensor patch_positions =
      resize_positions(ctx, positions.slice(1, 1, positions.dim(1)), pixels.dim(2) / patch_size,
                       pixels.dim(3) / patch_size, ops::Filter::bicubic);
  const Tensor patches = patch_embeddings.forward(ctx, ops::cast(ctx, pixels, dtype));
  const Tensor placed = ops::add(ctx, patches, patch_positions);
  const Tensor cls = ops::add(ctx, cls_token.value, positions.slice(1, 0, 1));
  Tensor x = prepend_tokens(ctx, cls, placed);

  for (const VitBlock& layer : layers) x = layer.forward(ctx, x);
  x = layernorm.forward(ctx, x);
  return x.slice(1, 1, x.dim(1));
}

}  // namespace raedit::models
