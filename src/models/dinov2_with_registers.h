// The frozen encoder: DINOv2 with four register tokens (Oquab et al., 2304.07193; Darcet et al., 2309.16588), as in
// transformers' models/dinov2_with_registers, without the affine part of its last norm, which RAE strips.
#pragma once

#include <vector>

#include "models/vit.h"

namespace raedit::models {

struct Dinov2WithRegisters {
  static constexpr int64_t kRegisters = 4;
  static constexpr int64_t kTrainedImageSize = 518;  // side of the pictures that position_embeddings were trained on

  int64_t patch_size = 14;
  nn::Parameter cls_token, mask_token, register_tokens, position_embeddings;
  nn::PatchEmbed patch_embeddings;
  std::vector<VitBlock> layers;
  nn::Norm layernorm;

  Dinov2WithRegisters() = default;
  Dinov2WithRegisters(int64_t width, int64_t patch, int64_t depth, Spelling spelling = Spelling::classic);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("embeddings.cls_token", self.cls_token);
    visit("embeddings.mask_token", self.mask_token);  // only for masked training, never read here
    visit("embeddings.register_tokens", self.register_tokens);
    visit("embeddings.position_embeddings", self.position_embeddings);
    visit("embeddings.patch_embeddings.projection", self.patch_embeddings.proj);
    visit("encoder.layer", self.layers);
  }

  // Normalised pixels [B,3,H,W] -> patch tokens [B,N,D], class and register tokens dropped.
  Tensor forward(Context& ctx, const Tensor& pixels, DType dtype) const;
};

}  // namespace raedit::models
