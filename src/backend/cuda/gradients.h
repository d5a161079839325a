// Adding to gradients: maps into one or two of them, and one deterministic sum for those of what was broadcast, over
// the strided iteration of walk.h. Only for .cu files.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "backend/cuda/walk.h"

namespace raedit::backend::cuda {

// ---- two gradients at once

// f(a, b, in...) on V elements
template <int V, class F, class... I>
__device__ inline void add_pair(const F& f, const int64_t (&at)[2 + sizeof...(I)], float* a, float* b, const I*... in) {
  float first[V], second[V], x[sizeof...(I)][V];
  load_values<V>(a + at[0], first);
  load_values<V>(b + at[1], second);
  int k = 0;
  ((load_values<V>(in + at[2 + k], x[k]), ++k), ...);
  const auto apply = [&]<size_t... N>(int i, std::index_sequence<N...>) {
    f(first[i], second[i], x[N][i]...);
  };
#pragma unroll
  for (int i = 0; i < V; ++i) apply(i, std::index_sequence_for<I...>());
  store_values<V>(first, a + at[0]);
  store_values<V>(second, b + at[1]);
}

template <int V, class F, class... I>
__global__ void __launch_bounds__(kThreads)
    map_pairs(F f, Walk<2 + sizeof...(I)> walk, float* a, float* b, const I*... in) {
  const uint32_t unit = blockIdx.x * kThreads + threadIdx.x;
  if (unit >= walk.units) return;
  int64_t at[2 + sizeof...(I)];
  const uint32_t column = walk.place(unit, at);
  if (column + V <= walk.inner) return add_pair<V>(f, at, a, b, in...);
  for (uint32_t i = column; i < walk.inner; ++i) {
    add_pair<1>(f, at, a, b, in...);
#pragma unroll
    for (int k = 0; k < 2 + static_cast<int>(sizeof...(I)); ++k) at[k] += 1;
  }
}

// tensors: the two targets, in...
template <class F, class... I>
void pairs_part(const Runtime& rt, const char* name, const F& f, const Tensors<2 + sizeof...(I)>& tensors) {
  constexpr int K = 2 + sizeof...(I);
  constexpr int V = (... && (sizeof(I) == 4)) ? 4 : 8;
  const Walk<K> walk = walk_along_first<K>(tensors, V);
  void (*kernel)(F, Walk<K>, float*, float*, const I*...) =
      walk.width == V ? map_pairs<V, F, I...> : map_pairs<1, F, I...>;
  const auto run = [&]<size_t... N>(std::index_sequence<N...>) {
    launch(rt, name, kernel, dim3(static_cast<unsigned>(ceil_div(walk.units, kThreads))), dim3(kThreads), 0, f, walk,
           pointer<float>(tensors[0]), pointer<float>(tensors[1]), pointer<const I>(tensors[N + 2])...);
  };
  run(std::index_sequence_for<I...>());
}

// ---- sums over what a target repeats

inline constexpr int kColumnThreads = 32;  // along the columns
inline constexpr int kRowThreads = 8;      // along the rows that are summed

// The target keeps the columns: partials[y][column], or straight into the target where blocks share out no rows.
template <int V, class F, class... I>
__global__ void __launch_bounds__(kColumnThreads* kRowThreads)
    sum_columns(F f, Walk<1 + sizeof...(I)> kept, Axes<1 + sizeof...(I)> repeated, uint32_t share, float* target,
                float* partials, const I*... in) {
  constexpr int K = 1 + sizeof...(I);
  __shared__ float sums[kRowThreads][V][kColumnThreads];
  const uint32_t unit = blockIdx.x * kColumnThreads + threadIdx.x;
  const bool inside = unit < kept.units;
  int64_t place[K] = {};
  if (inside) kept.place(unit, place);
  float sum[V] = {};
  const uint32_t end = min((blockIdx.y + 1) * share, repeated.count);
  if (inside) {
#pragma unroll 4
    for (uint32_t row = blockIdx.y * share + threadIdx.y; row < end; row += kRowThreads) {
      int64_t at[K];
#pragma unroll
      for (int k = 0; k < K; ++k) at[k] = place[k];
      repeated.add_offsets(row, at);
      if constexpr (V == 1) {
        sum[0] += at_offsets(f, at, in...);
      } else {
        float y[V];
        vector_at_offsets<V>(f, at, y, in...);
#pragma unroll
        for (int i = 0; i < V; ++i) sum[i] += y[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) sums[threadIdx.y][i][threadIdx.x] = sum[i];
  __syncthreads();
  if (threadIdx.y != 0 || !inside) return;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    for (int y = 1; y < kRowThreads; ++y) sum[i] += sums[y][i][threadIdx.x];
    if (partials != nullptr)
      partials[(static_cast<int64_t>(blockIdx.y) * V + i) * kept.units + unit] = sum[i];
    else
      target[place[0] + i * kept.inner_strides[0]] += sum[i];
  }
}

// partials[shares][V][units] into the target
template <int K>
__global__ void __launch_bounds__(kThreads)
    add_column_sums(Walk<K> kept, uint32_t shares, const float* partials, float* target) {
  const uint32_t unit = blockIdx.x * kThreads + threadIdx.x;
  if (unit >= kept.units) return;
  const uint32_t i = blockIdx.y, width = gridDim.y;
  float sum = 0;
#pragma unroll 8
  for (uint32_t share = 0; share < shares; ++share)
    sum += partials[(static_cast<int64_t>(share) * width + i) * kept.units + unit];
  int64_t at[K];
  kept.place(unit, at);
  target[at[0] + i * kept.inner_strides[0]] += sum;
}

// The target repeats along the inner axis: a block sums one number. partials[element][share]
template <class F, class... I>
__global__ void __launch_bounds__(kThreads) sum_rows(F f, Axes<1 + sizeof...(I)> kept, Axes<1 + sizeof...(I)> repeated,
                                                     uint32_t share, float* target, float* partials, const I*... in) {
  constexpr int K = 1 + sizeof...(I);
  __shared__ float shared[32];
  int64_t place[K] = {};
  kept.add_offsets(blockIdx.x, place);
  float sum = 0;
  const uint32_t end = min((blockIdx.y + 1) * share, repeated.count);
#pragma unroll 4
  for (uint32_t i = blockIdx.y * share + threadIdx.x; i < end; i += blockDim.x) {
    int64_t at[K];
#pragma unroll
    for (int k = 0; k < K; ++k) at[k] = place[k];
    repeated.add_offsets(i, at);
    sum += at_offsets(f, at, in...);
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x != 0) return;
  if (partials != nullptr)
    partials[static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y] = sum;
  else
    target[place[0]] += sum;
}

template <int K>
__global__ void __launch_bounds__(kThreads)
    add_row_sums(Axes<K> kept, uint32_t shares, const float* partials, float* target) {
  __shared__ float shared[32];
  float sum = 0;
  for (uint32_t i = threadIdx.x; i < shares; i += kThreads)
    sum += partials[static_cast<int64_t>(blockIdx.x) * shares + i];
  sum = block_sum(sum, shared);
  int64_t at[K] = {};
  kept.add_offsets(blockIdx.x, at);
  if (threadIdx.x == 0) target[at[0]] += sum;
}

// Into how many parts to cut sums of `count` terms, so that `blocks` blocks for each keep the device busy. The number
// depends on the device, never on chance.
inline int64_t shares_of(const Runtime& rt, int64_t blocks, int64_t count, int64_t least) {
  const int64_t wanted = 4 * static_cast<int64_t>(rt.multiprocessors()) / std::max<int64_t>(blocks, 1);
  return std::clamp<int64_t>(std::min(wanted, count / least), 1, 256);
}

template <int V, class F, class... I>
void sum_columns_of(const Runtime& rt, const char* name, const F& f, const AxisList<1 + sizeof...(I)>& kept_axes,
                    const AxisList<1 + sizeof...(I)>& repeated_axes, float* target, const I*... in) {
  constexpr int K = 1 + sizeof...(I);
  const Walk<K> kept(kept_axes, kept_axes.count - 1, V);
  const Axes<K> repeated(repeated_axes, -1);
  const int64_t blocks = ceil_div(kept.units, kColumnThreads);
  const int64_t wanted = shares_of(rt, blocks, repeated.count, 4 * kRowThreads);
  const int64_t share = ceil_div(repeated.count, wanted), shares = ceil_div(repeated.count, share);
  float* partials = nullptr;
  if (shares > 1)
    partials = reinterpret_cast<float*>(rt.workspace(static_cast<size_t>(shares) * V * kept.units * sizeof(float)));
  void (*kernel)(F, Walk<K>, Axes<K>, uint32_t, float*, float*, const I*...) = sum_columns<V, F, I...>;
  launch(rt, name, kernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(shares)),
         dim3(kColumnThreads, kRowThreads), 0, f, kept, repeated, static_cast<uint32_t>(share), target, partials,
         in...);
  if (shares > 1)
    launch(rt, name, add_column_sums<K>, dim3(static_cast<unsigned>(ceil_div(kept.units, kThreads)), V), dim3(kThreads),
           0, kept, static_cast<uint32_t>(shares), partials, target);
}

template <class F, class... I>
void sum_rows_of(const Runtime& rt, const char* name, const F& f, const AxisList<1 + sizeof...(I)>& kept_axes,
                 const AxisList<1 + sizeof...(I)>& repeated_axes, float* target, const I*... in) {
  constexpr int K = 1 + sizeof...(I);
  const Axes<K> kept(kept_axes, -1), repeated(repeated_axes, -1);
  const int64_t wanted = shares_of(rt, kept.count, repeated.count, 4 * kThreads);
  const int64_t share = ceil_div(repeated.count, wanted), shares = ceil_div(repeated.count, share);
  int threads = 32;
  while (threads < kThreads && threads * 2 <= share) threads *= 2;
  float* partials = nullptr;
  if (shares > 1)
    partials = reinterpret_cast<float*>(rt.workspace(static_cast<size_t>(shares) * kept.count * sizeof(float)));
  void (*kernel)(F, Axes<K>, Axes<K>, uint32_t, float*, float*, const I*...) = sum_rows<F, I...>;
  launch(rt, name, kernel, dim3(kept.count, static_cast<unsigned>(shares)), dim3(static_cast<unsigned>(threads)), 0, f,
         kept, repeated, static_cast<uint32_t>(share), target, partials, in...);
  if (shares > 1)
    launch(rt, name, add_row_sums<K>, dim3(kept.count), dim3(kThreads), 0, kept, static_cast<uint32_t>(shares),
           partials, target);
}

// tensors: target, in...
template <class F, class... I>
void sum_part(const Runtime& rt, const char* name, const F& f, const Tensors<1 + sizeof...(I)>& tensors) {
  constexpr int K = 1 + sizeof...(I);
  AxisList<K> axes = axes_of<K>(tensors);
  const int along = axes.along(1);
  const bool rows = along >= 0 && axes[along].strides[0] == 0;
  if (along >= 0) axes.move_to_end(along);
  AxisList<K> kept, repeated;
  for (int i = 0; i < axes.count; ++i) (axes[i].strides[0] == 0 ? repeated : kept).add(axes[i]);
  constexpr int V = 4;
  bool vectors = !rows && kept.count > 0 && axes[axes.count - 1].strides[0] != 0 && kept.last().size % V == 0;
  for (int k = 1; vectors && k < K; ++k) vectors = vectors_fit<K>(axes, axes.count - 1, tensors, k);
  const auto run = [&]<size_t... N>(std::index_sequence<N...>) {
    const auto sum = [&](const auto& run) { run(pointer<float>(tensors[0]), pointer<const I>(tensors[N + 1])...); };
    if (rows || kept.count == 0)
      sum([&](auto... p) { sum_rows_of(rt, name, f, kept, repeated, p...); });
    else if (vectors)
      sum([&](auto... p) { sum_columns_of<V>(rt, name, f, kept, repeated, p...); });
    else
      sum([&](auto... p) { sum_columns_of<1>(rt, name, f, kept, repeated, p...); });
  };
  run(std::index_sequence_for<I...>());
}

// ---- what the kernels call

template <class F>
struct Plus {
  F f;
  template <class... X>
  __device__ float operator()(float old, X... x) const {
    return old + f(x...);
  }
};

// target += f(dout, in...), summed where the target repeats; target and dout are float32. Nothing where the target is
// undefined.
template <class F, class... In>
void add_map(const Runtime& rt, const char* name, const F& f, const Tensor& target, const Tensor& dout,
             const In&... in) {
  if (!target.defined()) return;
  check_dtype(name, target, DType::float32);
  check_dtype(name, dout, DType::float32);
  const auto run = [&]<class... I>(Type<I>...) {
    each_part<2 + sizeof...(I)>({target, dout, in...}, [&](const auto& parts) {
      if (repeats(parts[0])) return sum_part<F, float, I...>(rt, name, f, parts);
      Tensors<3 + sizeof...(I)> all;
      all[0] = parts[0];
      std::copy(parts.begin(), parts.end(), all.begin() + 1);
      map_part<Plus<F>, float, float, float, I...>(rt, name, Plus<F>{f}, all);
    });
  };
  with_types(run, in...);
}

// f(a, b, dout, in...) adds to both of two targets that do not overlap, in one pass. False, and nothing done, where one
// of them is undefined or repeats.
template <class F, class... In>
bool add_pairs(const Runtime& rt, const char* name, const F& f, const Tensor& a, const Tensor& b, const Tensor& dout,
               const In&... in) {
  if (!a.defined() || !b.defined() || repeats(a) || repeats(b)) return false;
  for (const Tensor* tensor : {&a, &b, &dout}) check_dtype(name, *tensor, DType::float32);
  with_types(
      [&]<class... I>(Type<I>...) {
        each_part<3 + sizeof...(I)>({a, b, dout, in...},
                                    [&](const auto& parts) { pairs_part<F, float, I...>(rt, name, f, parts); });
      },
      in...);
  return true;
}

struct Identity {
  __device__ float operator()(float x) const { return x; }
};

}  // namespace raedit::backend::cuda
