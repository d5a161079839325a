// The trained decoder of a representation autoencoder: a ViT in the manner of masked autoencoders (He et al.,
// 2111.06377), from latent tokens to patches of pixels. Names are those of diffusers' autoencoder_rae.py.
#pragma once

#include <vector>

#include "nn/layers.h"
#include "raedit/autoencoder_rae.h"

namespace raedit::models {

struct RaeDecoderLayer {
  nn::Norm layernorm_before, layernorm_after;
  nn::Attention attention;
  nn::Linear intermediate, output;

  explicit RaeDecoderLayer(const AutoencoderRAEConfig& config);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("attention", self.attention);
    visit("intermediate.dense", self.intermediate);
    visit("output.dense", self.output);
    visit("layernorm_before", self.layernorm_before);
    visit("layernorm_after", self.layernorm_after);
  }

  Tensor forward(Context& ctx, Tensor x) const;
};

struct RaeDecoder {
  int64_t grid = 0;  // patches along an edge
  int64_t patch_size = 16;
  nn::Linear decoder_embed, decoder_pred;
  nn::Parameter trainable_cls_token;
  nn::Parameter
      decoder_pos_embed;  // [1,N+1,D]; recomputed unless the checkpoint brings it (upstream may have trained it)
  std::vector<RaeDecoderLayer> decoder_layers;
  nn::Norm decoder_norm;

  RaeDecoder() = default;
  explicit RaeDecoder(const AutoencoderRAEConfig& config);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("decoder_embed", self.decoder_embed);
    visit("trainable_cls_token", self.trainable_cls_token);
    visit("decoder_pos_embed", self.decoder_pos_embed);
    visit("decoder_layers", self.decoder_layers);
    visit("decoder_norm", self.decoder_norm);
    visit("decoder_pred", self.decoder_pred);
  }

  // Computes the positions that the checkpoint did not bring.
  void complete();

  // Tokens [B,N,C] of a square grid (resized bilinearly to ours if need be) -> pixels [B,3,S,S], as the encoder's
  // normalisation sees them.
  Tensor forward(Context& ctx, const Tensor& tokens) const;

 private:
  Tensor resize_tokens(Context& ctx, const Tensor& x) const;
};

}  // namespace raedit::models
