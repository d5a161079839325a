// Embeddings: patches, times, classes and positions.
#pragma once

#include "nn/layers.h"

namespace raedit::nn {

// A convolution whose stride is its kernel: every patch of a picture becomes a token. Weight [D,C,p,p].
struct PatchEmbed {
  int64_t patch_size = 1;
  Linear proj;

  PatchEmbed() = default;
  PatchEmbed(int64_t channels, int64_t width, int64_t patch);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("proj", self.proj);
  }

  // [B,C,H,W] -> [B,N,D]
  Tensor forward(Context& ctx, const Tensor& x) const;
};

// sin and cos of random frequencies of the time, then a two-layer perceptron (Tancik et al., 2006.10739).
struct GaussianFourierEmbedding {
  static constexpr int64_t kFrequencies = 256;
  Parameter w;  // frozen, float32 always: bfloat16 times and frequencies would turn phases by whole degrees
  Linear mlp0, mlp2;

  GaussianFourierEmbedding() = default;
  explicit GaussianFourierEmbedding(int64_t width);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("W", self.w);
    visit("mlp.0", self.mlp0);
    visit("mlp.2", self.mlp2);
  }

  // t [B] float32 -> [B,D] in `dtype`
  Tensor forward(Context& ctx, const Tensor& t, DType dtype) const;
};

// One row per class, and one for the null class where labels are dropped in training.
struct LabelEmbedder {
  Parameter table;

  LabelEmbedder() = default;
  LabelEmbedder(int64_t num_classes, int64_t width, bool with_null_class);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("embedding_table.weight", self.table);
  }

  // labels [B] int64 -> [B,D] in `dtype`
  Tensor forward(Context& ctx, const Tensor& labels, DType dtype) const;
};

// Fixed sine-cosine positions of a square grid, [side*side (+1), width] float32: the first half of the channels encodes
// the column, the second the row, each as [sines, cosines]. Coordinates span 0..base_size whatever the side, as
// diffusers does (get_2d_sincos_pos_embed in models/embeddings.py); a leading row of zeros for a class token.
Tensor sincos_pos_embed_2d(int64_t width, int64_t side, bool class_token, int64_t base_size = 16);

}  // namespace raedit::nn
