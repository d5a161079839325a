#include "models/siglip2.h"

#include "ops/elementwise.h"
#include "ops/moving.h"

namespace raedit::models {
namespace {

constexpr float kNormEps = 1e-6f;
constexpr int64_t kMlpWidth = 3072;  // of ViT-B; the reference builds every width with it

constexpr VitBlockNames kNames{"layer_norm1", "self_attn", "layer_norm2",
                               "mlp.fc1",     "mlp.fc2",   {"q_proj", "k_proj", "v_proj", "out_proj"}};

using Role = nn::Parameter::Role;

}  // namespace

Siglip2Head::Siglip2Head(int64_t width)
    : probe(Role::unread, {1, 1, width}),
      in_proj_weight(Role::unread, {3 * width, width}),
      in_proj_bias(Role::unread, {3 * width}),
      out_proj_weight(Role::unread, {width, width}),
      out_proj_bias(Role::unread, {width}),
      layernorm_weight(Role::unread, {width}),
      layernorm_bias(Role::unread, {width}),
      fc1_weight(Role::unread, {kMlpWidth, width}),
      fc1_bias(Role::unread, {kMlpWidth}),
      fc2_weight(Role::unread, {width, kMlpWidth}),
      fc2_bias(Role::unread, {width}) {}

Siglip2::Siglip2(int64_t width, int64_t patch, int64_t depth, Spelling names)
    : spelling(names),
      patch_size(patch),
      patch_embedding(3, width, patch),
      post_layernorm(nn::Norm::layer(width, kNormEps, false)),
      head(width) {
  const int64_t side = kTrainedImageSize / patch;
  position_embedding = nn::Parameter(Role::vector, {side * side, width});
  const VitBlockConfig block{
      .width = width, .mlp_width = kMlpWidth, .norm_eps = kNormEps, .activation = nn::Activation::gelu_tanh};
  for (int64_t i = 0; i < depth; ++i) layers.emplace_back(block, kNames);
}

Tensor Siglip2::forward(Context& ctx, const Tensor& pixels, DType dtype) const {
  const Tensor table = position_embedding.value.reshape({1, position_embedding.shape[0], position_embedding.shape[1]});
  const Tensor positions =
      resize_positions(ctx, table, pixels.dim(2) / patch_size, pixels.dim(3) / patch_size, ops::Filter::bicubic);
  Tensor x = ops::add(ctx, patch_embedding.forward(ctx, ops::cast(ctx, pixels, dtype)), positions);
  for (const VitBlock& layer : layers) x = layer.forward(ctx, x);
  return post_layernorm.forward(ctx, x);
}

}  // namespace raedit::models
