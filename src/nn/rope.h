// Rotary positions on a square grid of tokens: half of a head turns with the row, half with the column.
#pragma once

#include "nn/parameter.h"

namespace raedit::nn {

// Tables [N,Dh] that a checkpoint may bring (freqs_cos, freqs_sin) or that are computed: angles position *
// theta^(-2k/d) with d = Dh/2, theta 10000, each angle standing for the pair (2k, 2k+1). Source: RoFormer (2104.09864);
// diffusers transformer_rae_dit.py, VisionRotaryEmbedding.
struct Rope {
  Parameter freqs_cos, freqs_sin;

  Rope() = default;
  // `side`: tokens along an edge. head_width is a multiple of 4.
  Rope(int64_t side, int64_t head_width);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("freqs_cos", self.freqs_cos);
    visit("freqs_sin", self.freqs_sin);
  }

  // Computes the tables that the checkpoint did not have.
  void complete();
  // x [B,N,H,Dh]
  Tensor forward(Context& ctx, const Tensor& x) const;

 private:
  int64_t side_ = 0;
};

}  // namespace raedit::nn
