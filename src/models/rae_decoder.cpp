#include "models/rae_decoder.h"

#include <fmt/format.h>

#include <cmath>

#include "core/check.h"
#include "nn/embeddings.h"
#include "ops/elementwise.h"
#include "ops/moving.h"
#include "ops/resample.h"

namespace raedit::models {
namespace {

constexpr float kNormEps = 1e-12f;

using Role = nn::Parameter::Role;

}  // namespace

RaeDecoderLayer::RaeDecoderLayer(const AutoencoderRAEConfig& c)
    : layernorm_before(nn::Norm::layer(c.decoder_hidden_size, kNormEps, true)),
      layernorm_after(nn::Norm::layer(c.decoder_hidden_size, kNormEps, true)),
      attention(c.decoder_hidden_size, c.decoder_num_attention_heads),
      intermediate(c.decoder_hidden_size, c.decoder_intermediate_size),
      output(c.decoder_intermediate_size, c.decoder_hidden_size) {
  nn::allow_eight_bits(*this);
}

Tensor RaeDecoderLayer::forward(Context& ctx, Tensor x) const {
  x = ops::add(ctx, attention.forward(ctx, layernorm_before.forward(ctx, x)), x);
  const Tensor hidden = intermediate.forward(ctx, layernorm_after.forward(ctx, x), nn::Activation::gelu);
  return ops::add(ctx, output.forward(ctx, hidden), x);
}

RaeDecoder::RaeDecoder(const AutoencoderRAEConfig& c)
    : grid(c.grid()),
      patch_size(c.patch_size),
      decoder_embed(c.encoder_hidden_size, c.decoder_hidden_size),
      decoder_pred(c.decoder_hidden_size, c.patch_size * c.patch_size * c.num_channels),
      trainable_cls_token(Role::vector, {1, 1, c.decoder_hidden_size}),
      decoder_pos_embed(Role::buffer, {1, c.num_patches() + 1, c.decoder_hidden_size}, false),
      decoder_norm(nn::Norm::layer(c.decoder_hidden_size, kNormEps, true)) {
  for (int64_t i = 0; i < c.decoder_num_hidden_layers; ++i) decoder_layers.emplace_back(c);
}

void RaeDecoder::complete() {
  if (!decoder_pos_embed.defined())
    decoder_pos_embed.value =
        nn::sincos_pos_embed_2d(decoder_pos_embed.shape[2], grid, true).reshape(decoder_pos_embed.shape);
}

Tensor RaeDecoder::resize_tokens(Context& ctx, const Tensor& x) const {
  const int64_t batch = x.dim(0), n = x.dim(1), width = x.dim(2);
  if (n == grid * grid) return x;
  const auto side = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(n))));
  RAEDIT_CHECK(side * side == n, {.code = ErrorCode::invalid_argument,
                                  .what = "latent tokens do not form a square grid",
                                  .where = "AutoencoderRAE::decode",
                                  .found = fmt::format("{} tokens", n),
                                  .expected = fmt::format("{}", grid * grid)});
  const Tensor map = ops::contiguous(ctx, x.reshape({batch, side, side, width}).transpose(1, 3).transpose(2, 3));
  const Tensor resized = ops::resample(ctx, map, grid, grid, ops::Filter::bilinear);
  return ops::contiguous(ctx, resized.reshape({batch, width, grid * grid}).transpose(1, 2));
}

Tensor RaeDecoder::forward(Context& ctx, const Tensor& tokens) const {
  const int64_t batch = tokens.dim(0);
  const Tensor patches = resize_tokens(ctx, decoder_embed.forward(ctx, tokens));
  const Tensor cls = ops::cast(ctx, trainable_cls_token.value, patches.dtype());
  Tensor x = ops::concat(ctx, {cls.expand({batch, 1, patches.dim(2)}), patches}, 1);
  x = ops::add(ctx, x, decoder_pos_embed.value);
  for (const RaeDecoderLayer& layer : decoder_layers) x = layer.forward(ctx, x);
  x = decoder_pred.forward(ctx, decoder_norm.forward(ctx, x));
  return ops::unpatchify(ctx, x.slice(1, 1, x.dim(1)), grid, grid, patch_size);
}

}  // namespace raedit::models
