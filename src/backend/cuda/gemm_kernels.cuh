// What stands around the products: results with bias and activation, and a product of our own for what cuBLASLt has no
// algorithm for. Only for gemm.cu.
#pragma once

#include <cstdint>

#include "backend/cuda/gemm_finish.cuh"
#include "backend/cuda/numbers.cuh"

namespace raedit::backend::cuda {

// A matrix that is read: element (i,j) at data[i * row_stride + j * column_stride].
template <class T>
struct MatrixSource {
  const T* data;
  int64_t row_stride;
  int64_t column_stride;
  int64_t rows;
  int64_t columns;
};

// out[i,j] = act(product[i,j] + bias[j]); a null product is zero. Vectors: V columns a thread, all rows and the bias
// 16-byte aligned, columns a multiple of V; otherwise neighbouring threads have neighbouring columns.
template <int V, class P, class O>
__global__ void __launch_bounds__(128)
    finish_product(const P* product, int64_t product_stride, const float* bias, Activation kind, O* out,
                   int64_t out_stride, int64_t rows, int64_t columns) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * V;
  if (row >= rows || column >= columns) return;
  const P* from = product + row * product_stride + column;
  O* to = out + row * out_stride + column;
  if constexpr (V == 1) {
    *to = finished<O>(product != nullptr ? to_float(*from) : 0.0f, bias != nullptr ? bias[column] : 0.0f, kind);
  } else {
    constexpr int PV = V < kPackOf<P> ? V : kPackOf<P>;
    constexpr int OV = V < kPackOf<O> ? V : kPackOf<O>;
    Pack<P, PV> in[V / PV] = {};
    Pack<float, 4> add[V / 4] = {};
    Pack<O, OV> result[V / OV];
    if (product != nullptr) {
#pragma unroll
      for (int i = 0; i < V / PV; ++i) in[i] = reinterpret_cast<const Pack<P, PV>*>(from)[i];
    }
    if (bias != nullptr) {
#pragma unroll
      for (int i = 0; i < V / 4; ++i) add[i] = reinterpret_cast<const Pack<float, 4>*>(bias + column)[i];
    }
#pragma unroll
    for (int i = 0; i < V; ++i)
      result[i / OV].at[i % OV] = finished<O>(to_float(in[i / PV].at[i % PV]), add[i / 4].at[i % 4], kind);
#pragma unroll
    for (int i = 0; i < V / OV; ++i) reinterpret_cast<Pack<O, OV>*>(to)[i] = result[i];
  }
}

// target[padded] = bias rounded to bfloat16, then zeros; inexact[0] = 1 when a number changed.
__global__ void round_bias(const float* bias, int64_t n, bf16* target, int64_t padded, int* inexact) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= padded) return;
  const float value = i < n ? bias[i] : 0.0f;
  const bf16 rounded = from_float<bf16>(value);
  target[i] = rounded;
  if (to_float(rounded) != value) *inexact = 1;
}

inline constexpr int kPlainTile = 16;

// out[i,j] (+)= sum of a(i,l) b(l,j) + bias[j], in the order of l; operands of any strides.
template <class T, class O>
__global__ void __launch_bounds__(kPlainTile* kPlainTile)
    plain_product(const MatrixSource<T> a, const MatrixSource<T> b, const O* bias, O* out, int64_t out_stride,
                  bool accumulate) {
  __shared__ float as[kPlainTile][kPlainTile + 1], bs[kPlainTile][kPlainTile + 1];
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kPlainTile + x;
  const int64_t depth = a.columns;
  for (int64_t top = static_cast<int64_t>(blockIdx.y) * kPlainTile; top < a.rows;
       top += static_cast<int64_t>(gridDim.y) * kPlainTile) {
    const int64_t i = top + y;
    float sum = 0.0f;
    for (int64_t l = 0; l < depth; l += kPlainTile) {
      const bool a_inside = i < a.rows && l + x < depth, b_inside = l + y < depth && j < b.columns;
      as[y][x] = a_inside ? to_float(a.data[i * a.row_stride + (l + x) * a.column_stride]) : 0.0f;
      bs[y][x] = b_inside ? to_float(b.data[(l + y) * b.row_stride + j * b.column_stride]) : 0.0f;
      __syncthreads();
#pragma unroll
      for (int d = 0; d < kPlainTile; ++d) sum += as[y][d] * bs[d][x];
      __syncthreads();
    }
    if (i >= a.rows || j >= b.columns) continue;
    O* to = out + i * out_stride + j;
    if (bias != nullptr) sum += to_float(bias[j]);
    *to = from_float<O>(accumulate ? to_float(*to) + sum : sum);
  }
}

// Numbers in [-1, 1) from a counter (the finaliser of MurmurHash3, public domain), for measuring.
template <class T>
__global__ void fill_random(T* target, int64_t count, uint32_t seed) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    uint32_t h = static_cast<uint32_t>(i) ^ seed;
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    h ^= h >> 16;
    target[i] = from_float<T>(static_cast<float>(static_cast<int32_t>(h)) * 0x1p-31f);
  }
}

// The result is written only if it cannot be: memory holds zeros.
__global__ void read_words(const uint4* memory, int64_t count, uint32_t* never) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  uint32_t all = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const uint4 word = memory[i];
    all |= word.x | word.y | word.z | word.w;
  }
  if (all != 0) *never = all;
}

}  // namespace raedit::backend::cuda
