// Products of a few rows with a large bfloat16 weight (a model's conditioning at small batches): the weight is read
// once, as fast as memory gives it.
#pragma once

#include "backend/cuda/gemm.h"

namespace raedit::backend::cuda {

inline constexpr int64_t kSkinnyRows = 32;

// Whether `call` below can be done: bfloat16 weight, 1 to kSkinnyRows rows.
bool skinny_fits(const CudaPackedMatrix& w, int64_t rows);

// out [rows,n] = act(x w^T + bias), float32 or bfloat16, rounded before the activation. x: bfloat16 rows on 16-byte
// addresses, w.padded_k long. A row's bits depend on the row alone.
void skinny_linear(const Runtime& rt, const Matrix& x, const CudaPackedMatrix& w, const float* bias, Activation act,
                   const Matrix& out);

}  // namespace raedit::backend::cuda
