// What the backward kernels of a bfloat16 model share: where gradients go, operands that fit them, and sums over rows.
// Only for .cu files.
#pragma once

#include <algorithm>

#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/walk.h"

namespace raedit::backend::cuda {

inline constexpr int kPack = 8;  // elements that travel together: 16 bytes of bfloat16

// What a gradient is written to or added to; which is the same for a whole launch.
struct Target {
  void* data = nullptr;
  bool half = false;
  bool add = false;  // float32 then

  Target() = default;
  explicit Target(const Gradient& g) {
    if (!g.wanted()) return;
    data = g.at.raw();
    half = g.at.dtype() == DType::bfloat16;
    add = !g.fresh;
  }
  template <int V>
  __device__ __forceinline__ void store(int64_t at, float (&values)[V]) const {
    if (half) return store_values<V>(values, static_cast<bf16*>(data) + at);
    auto* to = static_cast<float*>(data) + at;
    if (add) {
      float old[V];
      load_values<V>(to, old);
#pragma unroll
      for (int i = 0; i < V; ++i) values[i] += old[i];
    }
    store_values<V>(values, to);
  }
};

inline bool is_half(const Tensor& t) {
  return t.dtype() == DType::bfloat16;
}
inline bool computable(const Tensor& t) {
  return is_half(t) || t.dtype() == DType::float32;
}
inline bool on_sixteen(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0;
}
// A flat run of memory from end to end.
inline bool is_flat(const Tensor& t) {
  return computable(t) && t.is_contiguous();
}
inline bool is_flat(const Gradient& g) {
  return !g.wanted() || is_flat(g.at);
}
inline bool share_memory(const Gradient& a, const Gradient& b) {
  return a.wanted() && b.wanted() && a.at.storage() == b.at.storage();
}
inline unsigned blocks_of(int64_t units) {
  return static_cast<unsigned>(ceil_div(units, kThreads));
}
inline constexpr int64_t kMostUnits = int64_t{1} << 31;

// ---- sums over rows

inline constexpr int kSumColumns = 32, kSumRows = 8;

// Threads (32 columns of V, 8 rows): the sums of a chunk of rows, blockIdx.y, to row blockIdx.y of `sums`.
template <int V, class T>
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    column_sums_kernel(const T* x, int64_t rows, int64_t columns, int64_t chunk, Target sums) {
  __shared__ float shared[kSumRows][kSumColumns * V + 1];
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kSumColumns + threadIdx.x) * V;
  const int64_t begin = blockIdx.y * chunk, end = min(rows, begin + chunk);
  float sum[V]{};
  if (column < columns) {
#pragma unroll 8
    for (int64_t row = begin + threadIdx.y; row < end; row += kSumRows) {
      float values[V];
      load_values<V>(x + row * columns + column, values);
#pragma unroll
      for (int i = 0; i < V; ++i) sum[i] += values[i];
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) shared[threadIdx.y][threadIdx.x * V + i] = sum[i];
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    float one[1]{sum[i]};
    for (int y = 1; y < kSumRows; ++y) one[0] += shared[y][threadIdx.x * V + i];
    sums.store<1>(blockIdx.y * columns + column + i, one);
  }
}

template <class T>
void launch_column_sums(const Runtime& rt, const T* x, int64_t rows, int64_t columns, int64_t chunk,
                        const Target& sums) {
  const auto chunks = static_cast<unsigned>(ceil_div(rows, chunk));
  const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0;
  const auto run = [&](auto kernel, int64_t v) {
    launch(rt, "column_sums", kernel, dim3(static_cast<unsigned>(ceil_div(columns, kSumColumns * v)), chunks),
           dim3(kSumColumns, kSumRows), 0, x, rows, columns, chunk, sums);
  };
  if (aligned && columns % 8 == 0)
    run(column_sums_kernel<8, T>, 8);
  else if (aligned && columns % 2 == 0)
    run(column_sums_kernel<2, T>, 2);
  else
    run(column_sums_kernel<1, T>, 1);
}

// A row of partial sums for each chunk of `rows` rows.
struct Chunks {
  int64_t size, count;
  Chunks(int64_t rows, int64_t wanted)
      : size(std::max<int64_t>(ceil_div(rows, wanted), 16)), count(ceil_div(rows, size)) {}
};

// Strides of [B,N,...] whose last dimension lies in a row, on 16-byte addresses.
inline bool packs_fit(const Tensor& t) {
  return computable(t) && rows_aligned(t) && t.dim(-1) % kPack == 0 && t.stride(-1) == 1;
}

}  // namespace raedit::backend::cuda
