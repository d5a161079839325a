// The encoder of a masked autoencoder (He et al., 2111.06377), as in transformers' models/vit_mae, without the affine
// part of its last norm, which RAE strips. Nothing is masked here, so the patches keep their order.
#pragma once

#include <vector>

#include "models/vit.h"

namespace raedit::models {

struct VitMae {
  static constexpr int64_t kTrainedImageSize = 224;  // side of the pictures that position_embeddings belong to

  Spelling spelling = Spelling::modern;
  int64_t patch_size = 16;
  nn::Parameter cls_token;
  nn::Parameter position_embeddings;  // sines and cosines at first; what the checkpoint holds is what counts
  nn::PatchEmbed patch_embeddings;
  std::vector<VitBlock> layers;
  nn::Norm layernorm;

  VitMae(int64_t width, int64_t patch, int64_t depth, Spelling names = Spelling::modern);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("embeddings.cls_token", self.cls_token);
    visit("embeddings.position_embeddings", self.position_embeddings);
    visit("embeddings.patch_embeddings.projection", self.patch_embeddings.proj);
    visit(self.spelling == Spelling::modern ? "layers" : "encoder.layer", self.layers);
  }

  // Normalised pixels [B,3,H,W] -> patch tokens [B,N,D], the class token dropped.
  Tensor forward(Context& ctx, const Tensor& pixels, DType dtype) const;
};

}  // namespace raedit::models
