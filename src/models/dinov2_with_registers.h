// The frozen encoder: DINOv2 with four register tokens (Oquab et al., 2304.07193; Darcet et al., 2309.16588), as in
// transformers' models/dinov2_with_registers, without the affine part of its last norm, which RAE strips.
#pragma once

#include <vector>

#include "nn/embeddings.h"
#include "nn/layers.h"

namespace raedit::models {

struct Dinov2Layer {
  nn::Norm norm1, norm2;
  nn::Attention attention;
  nn::Parameter layer_scale1, layer_scale2;
  nn::Linear fc1, fc2;

  explicit Dinov2Layer(int64_t width);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("norm1", self.norm1);
    visit("attention", self.attention);
    visit("layer_scale1.lambda1", self.layer_scale1);
    visit("norm2", self.norm2);
    visit("mlp.fc1", self.fc1);
    visit("mlp.fc2", self.fc2);
    visit("layer_scale2.lambda1", self.layer_scale2);
  }

  Tensor forward(Context& ctx, Tensor x) const;
};

struct Dinov2WithRegisters {
  static constexpr int64_t kRegisters = 4;
  static constexpr int64_t kTrainedImageSize = 518;  // side of the pictures that position_embeddings were trained on

  int64_t patch_size = 14;
  nn::Parameter cls_token, mask_token, register_tokens, position_embeddings;
  nn::PatchEmbed patch_embeddings;
  std::vector<Dinov2Layer> layers;
  nn::Norm layernorm;

  Dinov2WithRegisters() = default;
  Dinov2WithRegisters(int64_t width, int64_t patch, int64_t depth);

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

 private:
  // [1,N,D] for a grid of height x width patches.
  Tensor patch_positions(Context& ctx, int64_t height, int64_t width) const;
};

}  // namespace raedit::models
