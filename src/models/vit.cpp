#include "models/vit.h"

#include <cmath>

#include "ops/elementwise.h"
#include "ops/gated.h"
#include "ops/moving.h"

namespace raedit::models {
namespace {

Tensor add_branch(Context& ctx, const Tensor& x, const Tensor& branch, const std::optional<nn::Parameter>& scale) {
  return scale ? ops::add_gated(ctx, x, branch, scale->value) : ops::add(ctx, x, branch);
}

}  // namespace

VitBlock::VitBlock(const VitBlockConfig& c, const VitBlockNames& parts)
    : names(parts),
      activation(c.activation),
      norm1(nn::Norm::layer(c.width, c.norm_eps, true)),
      norm2(nn::Norm::layer(c.width, c.norm_eps, true)),
      attention(c.width, c.width / kVitHeadWidth, parts.parts),
      fc1(c.width, c.mlp_width),
      fc2(c.mlp_width, c.width) {
  if (c.layer_scale)
    for (auto* scale : {&layer_scale1, &layer_scale2}) *scale = nn::Parameter(nn::Parameter::Role::vector, {c.width});
  nn::allow_eight_bits(*this);
}

Tensor VitBlock::forward(Context& ctx, Tensor x) const {
  x = add_branch(ctx, x, attention.forward(ctx, norm1.forward(ctx, x)), layer_scale1);
  const Tensor hidden = fc1.forward(ctx, norm2.forward(ctx, x), activation);
  return add_branch(ctx, x, fc2.forward(ctx, hidden), layer_scale2);
}

Tensor resize_positions(Context& ctx, const Tensor& trained, int64_t height, int64_t width, ops::Filter filter) {
  const int64_t channels = trained.dim(2);
  const auto side = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(trained.dim(1)))));
  if (height == side && width == side) return trained;
  const Tensor grid = trained.reshape({1, side, side, channels}).transpose(1, 3).transpose(2, 3);  // [1,D,side,side]
  const Tensor resized = ops::resample(ctx, ops::contiguous(ctx, grid), height, width, filter);
  return ops::contiguous(ctx, resized.reshape({1, channels, height * width}).transpose(1, 2));
}

Tensor prepend_tokens(Context& ctx, const Tensor& tokens, const Tensor& patches) {
  const Tensor cast = ops::cast(ctx, tokens, patches.dtype());
  return ops::concat(ctx, {cast.expand({patches.dim(0), tokens.dim(1), tokens.dim(2)}), patches}, 1);
}

}  // namespace raedit::models
