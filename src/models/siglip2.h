// The picture half of SigLIP 2 at a fixed size (Zhai et al., 2303.15343; Tschannen et al., 2502.14786), as in
// transformers' models/siglip, without the affine part of its last norm, which RAE strips.
#pragma once

#include <string>
#include <vector>

#include "models/vit.h"

namespace raedit::models {

// Pools the tokens into one vector. RAE wants the tokens, so this is only kept for those who open the file after us.
struct Siglip2Head {
  nn::Parameter probe, in_proj_weight, in_proj_bias, out_proj_weight, out_proj_bias;
  nn::Parameter layernorm_weight, layernorm_bias;
  nn::Parameter fc1_weight, fc1_bias, fc2_weight, fc2_bias;

  explicit Siglip2Head(int64_t width);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("probe", self.probe);
    visit("attention.in_proj_weight", self.in_proj_weight);
    visit("attention.in_proj_bias", self.in_proj_bias);
    visit("attention.out_proj.weight", self.out_proj_weight);
    visit("attention.out_proj.bias", self.out_proj_bias);
    visit("layernorm.weight", self.layernorm_weight);
    visit("layernorm.bias", self.layernorm_bias);
    visit("mlp.fc1.weight", self.fc1_weight);
    visit("mlp.fc1.bias", self.fc1_bias);
    visit("mlp.fc2.weight", self.fc2_weight);
    visit("mlp.fc2.bias", self.fc2_bias);
  }
};

struct Siglip2 {
  static constexpr int64_t kTrainedImageSize = 256;  // side of the pictures that position_embedding was trained on

  Spelling spelling = Spelling::classic;  // with "vision_model." before every name
  int64_t patch_size = 16;
  nn::Parameter position_embedding;  // [S*S,D]: there is no class token
  nn::PatchEmbed patch_embedding;
  std::vector<VitBlock> layers;
  nn::Norm post_layernorm;
  Siglip2Head head;

  Siglip2(int64_t width, int64_t patch, int64_t depth, Spelling names = Spelling::classic);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    const std::string model = self.spelling == Spelling::classic ? "vision_model." : "";
    visit(model + "embeddings.patch_embedding", self.patch_embedding.proj);
    visit(model + "embeddings.position_embedding.weight", self.position_embedding);
    visit(model + "encoder.layers", self.layers);
    visit(model + "head", self.head);
  }

  // Normalised pixels [B,3,H,W] -> patch tokens [B,N,D].
  Tensor forward(Context& ctx, const Tensor& pixels, DType dtype) const;
};

}  // namespace raedit::models
