// Positions, classes and times: rotary embedding, table lookup, Fourier features.
#pragma once

#include "backend/kernels.h"
#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::ops {

// Rotates the neighbours (2k, 2k+1) of x [B,N,H,Dh]: (a, b) -> (a cos - b sin, b cos + a sin), cos and sin [N,Dh]
// float32 (Su et al., "RoFormer", 2104.09864; interleaved pairs as in diffusers' apply_rotary_emb).
Tensor rope(Context& ctx, const Tensor& x, const Tensor& cos, const Tensor& sin);

// rope(norm(x)) over the last dimension of x [B,N,H,Dh]; without cos and sin the norm alone. One pass where nobody
// records and the device has it.
Tensor norm_rope(Context& ctx, const Tensor& x, backend::NormKind kind, float eps, const Tensor& weight,
                 const Tensor& bias, const Tensor& cos, const Tensor& sin);

// Rows of table [V,D] for ids [B] int64, in `dtype`. Ids outside the table are an Error(invalid_argument).
Tensor embedding(Context& ctx, const Tensor& table, const Tensor& ids, DType dtype);

// [sin(2 pi t w), cos(2 pi t w)]: t [B] float32, w [F] float32 -> [B,2F] float32. Not on the tape: w is frozen.
Tensor fourier_features(Context& ctx, const Tensor& t, const Tensor& w);

}  // namespace raedit::ops

namespace raedit::composite {
Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin);
Tensor embedding(const Tensor& table, const Tensor& ids);
}  // namespace raedit::composite
