// Weights and activations in float8 e4m3 (Hopper and newer), as an option of inference: one scale for each output
// channel of a weight and one for each row of x, the largest magnitude of the row over 448; products are summed in
// float32 and scaled by both. Source: Micikevicius et al., "FP8 Formats for Deep Learning" (arXiv 2209.05433); the
// scales per row and channel are cuBLASLt's CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F.
//
// Quantising reads x twice, the second time from the cache, and writes half of it: 3 bytes a number.
#include "backend/cuda/gemm.h"

#include <cuda_fp8.h>

#include "backend/cuda/dispatch.h"
#include "backend/cuda/numbers.cuh"

namespace raedit::backend::cuda {
namespace {

constexpr int kRowsOfBlock = 8;  // one for each warp
constexpr int kUnit = 8;         // numbers of a thread at a time
constexpr float kLargest = 448.0f;
constexpr float kLeast = 1e-30f;  // of a row's largest magnitude: 448 / it is finite

// Eight numbers of a row from `column` on, zeros from `columns` on.
template <class T>
__device__ __forceinline__ void load_unit(const T* row, int64_t column, int64_t columns, bool vectors,
                                          float (&to)[kUnit]) {
  if (vectors && column + kUnit <= columns) {
    constexpr int V = kPackOf<T>;
#pragma unroll
    for (int i = 0; i < kUnit / V; ++i) {
      const auto pack = reinterpret_cast<const Pack<T, V>*>(row + column)[i];
#pragma unroll
      for (int j = 0; j < V; ++j) to[i * V + j] = to_float(pack.at[j]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kUnit; ++i) to[i] = column + i < columns ? to_float(row[column + i]) : 0.0f;
}

// out [rows, padded] e4m3, scales [rows]: x is about out * scale.
template <class T>
__global__ void __launch_bounds__(32 * kRowsOfBlock)
    quantize_kernel(const T* x, int64_t stride, int64_t rows, int64_t columns, bool vectors, uint2* out, int64_t padded,
                    float* scales) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= rows) return;  // whole warps
  const T* from = x + row * stride;
  float largest = 0.0f;
  for (int64_t column = lane * kUnit; column < columns; column += 32 * kUnit) {
    float v[kUnit];
    load_unit(from, column, columns, vectors, v);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) largest = fmaxf(largest, fabsf(v[i]));
  }
  largest = fmaxf(warp_max(largest), kLeast);
  const float inverse = kLargest / largest;
  for (int64_t column = lane * kUnit; column < padded; column += 32 * kUnit) {
    float v[kUnit];
    load_unit(from, column, columns, vectors, v);
    uint32_t pairs[kUnit / 2];
#pragma unroll
    for (int i = 0; i < kUnit / 2; ++i)
      pairs[i] =
          __nv_cvt_float2_to_fp8x2(make_float2(v[2 * i] * inverse, v[2 * i + 1] * inverse), __NV_SATFINITE, __NV_E4M3);
    out[(row * padded + column) / kUnit] = make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
  }
  if (lane == 0) scales[row] = largest / kLargest;
}

}  // namespace

void quantize_rows(const Runtime& rt, const Matrix& x, std::byte* out, int64_t padded, float* scales) {
  with_type(x.dtype, [&]<class T>(Type<T>) {
    launch(rt, "quantize_rows", quantize_kernel<T>, dim3(static_cast<unsigned>(ceil_div(x.rows, kRowsOfBlock))),
           dim3(32 * kRowsOfBlock), 0, reinterpret_cast<const T*>(x.data), x.row_stride, x.rows, x.columns, x.aligned(),
           reinterpret_cast<uint2*>(out), padded, scales);
  });
}

}  // namespace raedit::backend::cuda
