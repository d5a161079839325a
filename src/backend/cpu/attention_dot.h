// Attention of bfloat16 operands on the dot product of AVX-512 or the tiles of AMX, for machines that have it and an
// even head width. All sums are float32; probabilities and their gradients are rounded to bfloat16 where they enter a
// product.
#pragma once

#include "backend/kernels.h"
#include "tensor/arena.h"

namespace raedit::backend::cpu {

// Where pairs of queries of a head's scores are: elements from one to the next, from 16 keys to the next 16, and what a
// product takes for the distance of its left rows.
struct PairLayout {
  int64_t pair, panel, lda;
};

// row[i] = exp(row[i] * scale - max) / sum, i < n; row[n..padded) = 0. `padded` is a multiple of 16.
void softmax_row(float* row, int64_t n, int64_t padded, float scale);

// Of one head width, all bfloat16.
bool fits_dot_attention(const Tensor& q, const Tensor& k, const Tensor& v);
void dot_attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale, const Tensor& out, Arena& arena,
                   int threads);
void dot_attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                            const Gradient& dq, const Gradient& dk, const Gradient& dv, Arena& arena, int threads);

}  // namespace raedit::backend::cpu
