// The transformer of "Diffusion Transformers with Representation Autoencoders" (Zheng et al., 2510.11690): a deep
// encoder stream turns the noisy latent into one condition per token, a shallow, wide decoder stream (the DDT head of
// Wang et al., 2504.05741) denoises under it. Names are those of diffusers' transformer_rae_dit.py.
//
// Shapes: B pictures, N tokens, D width, C channels, S side of the latent.
#pragma once

#include <string>
#include <vector>

#include "core/json.h"
#include "nn/embeddings.h"
#include "nn/layers.h"
#include "raedit/rae_dit_transformer.h"

namespace raedit::models {

// x += gate * f(modulate(norm(x))), attention first, then the feed-forward.
struct RaeDitBlock {
  nn::Norm norm1, norm2;
  nn::Attention attn;
  nn::FeedForward mlp;
  nn::Linear ada_ln;  // silu(condition) -> six vectors of width D, four without shifts
  bool with_shift = true;

  RaeDitBlock(const RAEDiT2DModelConfig& config, size_t stream);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("norm1", self.norm1);
    visit("attn", self.attn);
    visit("norm2", self.norm2);
    visit("mlp", self.mlp);
    visit("adaLN_modulation.1", self.ada_ln);
  }

  // x [B,N,D]; modulation: what ada_ln makes of a condition [B,1,D] for all tokens or [B,M,D], M tokens of a square
  // grid that is mapped onto x's, after another SiLU.
  Tensor forward(Context& ctx, const Tensor& x, const Tensor& modulation, const nn::Rope* rope) const;
};

struct RaeDitFinalLayer {
  nn::Norm norm_final;
  nn::Linear linear;
  nn::Linear ada_ln;

  RaeDitFinalLayer() = default;
  explicit RaeDitFinalLayer(const RAEDiT2DModelConfig& config);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("norm_final", self.norm_final);
    visit("linear", self.linear);
    visit("adaLN_modulation.1", self.ada_ln);
  }

  // x [B,N,D], activated: the SiLU of a condition [B,M,D] -> [B,N,p*p*C]
  Tensor forward(Context& ctx, const Tensor& x, const Tensor& activated) const;
};

struct RaeDitTransformer {
  RAEDiT2DModelConfig config;
  Json config_json;  // as it was read: one number or two for a pair is a matter of taste
  DType dtype = DType::float32;

  nn::PatchEmbed s_embedder, x_embedder;
  std::optional<nn::Linear> s_projector;  // absent when both streams have one width
  nn::GaussianFourierEmbedding t_embedder;
  nn::LabelEmbedder y_embedder;
  nn::Parameter pos_embed;  // [1,N,D]
  std::optional<nn::Rope> enc_feat_rope, dec_feat_rope;
  std::vector<RaeDitBlock> blocks;  // the encoder's first
  RaeDitFinalLayer final_layer;

  explicit RaeDitTransformer(const RAEDiT2DModelConfig& config);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("s_embedder", self.s_embedder);
    visit("x_embedder", self.x_embedder);
    visit("s_projector", self.s_projector);
    visit("t_embedder", self.t_embedder);
    visit("y_embedder", self.y_embedder);
    if (self.config.use_pos_embed) visit("pos_embed", self.pos_embed);
    visit("enc_feat_rope", self.enc_feat_rope);
    visit("dec_feat_rope", self.dec_feat_rope);
    visit("blocks", self.blocks);
    visit("final_layer", self.final_layer);
  }

  // The ada_ln of all encoder blocks as one product, where the device joins matrices: they share their input.
  std::shared_ptr<const backend::PackedMatrix> encoder_ada_ln;  // [depth*6D,D]
  Tensor encoder_ada_ln_bias;

  // Computes the tables that the checkpoint did not bring.
  void complete();
  void prepare(const backend::Kernels& kernels);

  // See RAEDiT2DModel, for all of these.
  RAEDiTConditioning condition(Context& ctx, const Tensor& timestep, const Tensor& class_labels) const;
  // condition() with the modulations of all encoder blocks, one product after another where they are not joined.
  RAEDiTConditioning condition_all(Context& ctx, const Tensor& timestep, const Tensor& class_labels) const;
  Tensor forward(Context& ctx, const Tensor& hidden_states, const RAEDiTConditioning& conditioning,
                 const Tensor& conditioning_hidden_states, const ForwardObserver& observe) const;
  Tensor forward(Context& ctx, const Tensor& hidden_states, const Tensor& timestep, const Tensor& class_labels,
                 const Tensor& conditioning_hidden_states, const ForwardObserver& observe) const;
  Tensor encoder_stream(Context& ctx, const Tensor& hidden_states, const RAEDiTConditioning& conditioning,
                        const ForwardObserver& observe) const;
  Tensor decoder_stream(Context& ctx, const Tensor& hidden_states, const Tensor& tokens, const Tensor& timestep,
                        const ForwardObserver& observe) const;

  // Throws Error(invalid_argument) for what forward() does not take. Labels on a device were looked at before.
  void check_condition(int64_t batch, const Tensor& timestep, const Tensor& class_labels) const;

 private:
  void check_latents(const Tensor& hidden_states, const Tensor& conditioning_hidden_states) const;
  void check_conditioning(const Tensor& hidden_states, const RAEDiTConditioning& conditioning) const;
  // Tokens from the noisy latent: [B,C,S,S] -> [B,N,D].
  Tensor encode(Context& ctx, const Tensor& latents, const RAEDiTConditioning& conditioning,
                const ForwardObserver& observe) const;
  // Velocity from the noisy latent under condition tokens s [B,M,D].
  Tensor decode(Context& ctx, const Tensor& latents, Tensor s, const ForwardObserver& observe) const;
};

// Maps tokens [B,M,D] of a square grid onto a grid of `count` tokens: nearest when the side grows by a whole factor,
// the mean when it shrinks by one. One token is left alone: it broadcasts. Throws Error(invalid_argument) otherwise.
Tensor expand_conditioning_tokens(Context& ctx, const Tensor& tokens, int64_t count);

RAEDiT2DModelConfig parse_rae_dit_config(const Json& json, const std::string& where);

}  // namespace raedit::models
