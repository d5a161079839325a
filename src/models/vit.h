// What the frozen encoders share: the block of a vision transformer with the norm first (Dosovitskiy et al.,
// 2010.11929), and learned positions that are resized to the picture at hand.
#pragma once

#include "nn/embeddings.h"
#include "nn/layers.h"
#include "ops/resample.h"

namespace raedit::models {

// transformers has renamed the parts of its vision models. A checkpoint has the names of the version that wrote it.
enum class Spelling { classic, modern };

inline constexpr int64_t kVitHeadWidth = 64;  // of every encoder that the reference builds

struct VitBlockNames {
  const char *norm1, *attention, *norm2, *fc1, *fc2;
  nn::AttentionNames parts;  // of the attention
};

struct VitBlockConfig {
  int64_t width;
  int64_t mlp_width;
  float norm_eps;
  nn::Activation activation = nn::Activation::gelu;
  bool layer_scale = false;  // a learned factor per channel on each branch (2103.17239)
};

struct VitBlock {
  VitBlockNames names;
  nn::Activation activation;
  nn::Norm norm1, norm2;
  nn::Attention attention;
  nn::Linear fc1, fc2;
  std::optional<nn::Parameter> layer_scale1, layer_scale2;

  VitBlock(const VitBlockConfig& config, const VitBlockNames& parts);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit(self.names.norm1, self.norm1);
    visit(self.names.attention, self.attention);
    visit("layer_scale1.lambda1", self.layer_scale1);
    visit(self.names.norm2, self.norm2);
    visit(self.names.fc1, self.fc1);
    visit(self.names.fc2, self.fc2);
    visit("layer_scale2.lambda1", self.layer_scale2);
  }

  // x [B,N,D]
  Tensor forward(Context& ctx, Tensor x) const;
};

// Positions [1,S*S,D] of a square grid -> [1,height*width,D].
Tensor resize_positions(Context& ctx, const Tensor& trained, int64_t height, int64_t width, ops::Filter filter);

// Tokens [1,S,D] that every picture gets, in front of its patches [B,N,D] -> [B,S+N,D].
Tensor prepend_tokens(Context& ctx, const Tensor& tokens, const Tensor& patches);

}  // namespace raedit::models
