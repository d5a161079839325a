// Strided iteration on the device: tensors of one shape that differ in strides, walked together in 32-bit arithmetic,
// 16 bytes at a time where the rows allow it, and maps over them. Only for .cu files.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "backend/cuda/dispatch.h"
#include "backend/cuda/numbers.cuh"
#include "backend/cuda/overlap.cuh"
#include "backend/cuda/runtime.h"
#include "raedit/tensor.h"

namespace raedit::backend::cuda {

// ---- elements of any floating dtype, rounded once; from float64 by way of float32, as on the CPU

__device__ inline float load_any(DType dtype, const void* data, int64_t i) {
  switch (dtype) {
    case DType::float64: return static_cast<float>(static_cast<const double*>(data)[i]);
    case DType::float16: return __half2float(static_cast<const __half*>(data)[i]);
    case DType::bfloat16: return __bfloat162float(static_cast<const bf16*>(data)[i]);
    case DType::float8_e4m3fn:
      return __half2float(__half(__nv_cvt_fp8_to_halfraw(static_cast<const uint8_t*>(data)[i], __NV_E4M3)));
    case DType::float8_e5m2:
      return __half2float(__half(__nv_cvt_fp8_to_halfraw(static_cast<const uint8_t*>(data)[i], __NV_E5M2)));
    default: return static_cast<const float*>(data)[i];
  }
}

__device__ inline void store_any(DType dtype, void* data, int64_t i, float x) {
  switch (dtype) {
    case DType::float64: static_cast<double*>(data)[i] = x; break;
    case DType::float16: static_cast<__half*>(data)[i] = __float2half_rn(x); break;
    case DType::bfloat16: static_cast<bf16*>(data)[i] = __float2bfloat16_rn(x); break;
    case DType::float8_e4m3fn:  // without infinities: what is too large becomes the largest
      static_cast<uint8_t*>(data)[i] = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
      break;
    case DType::float8_e5m2: static_cast<uint8_t*>(data)[i] = __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E5M2); break;
    default: static_cast<float*>(data)[i] = x;
  }
}

// ---- the axes of several tensors, on the host

template <int K>
using Tensors = std::array<Tensor, K>;

template <int K>
struct Axis {
  int64_t size = 1;
  std::array<int64_t, K> strides{};  // in elements
};

// In row-major order of the shape, without axes of size 1; neighbours that every tensor walks through evenly are one.
template <int K>
struct AxisList {
  int count = 0;
  std::array<Axis<K>, Shape::kMaxRank> axes{};

  void add(const Axis<K>& axis) {
    if (axis.size == 1) return;
    bool even = count > 0;
    for (size_t k = 0; even && k < K; ++k) even = last().strides[k] == axis.size * axis.strides[k];
    if (!even) {
      axes[static_cast<size_t>(count++)] = axis;
      return;
    }
    const int64_t size = last().size * axis.size;
    last() = axis;
    last().size = size;
  }
  Axis<K>& last() { return axes[static_cast<size_t>(count - 1)]; }
  const Axis<K>& operator[](int i) const { return axes[static_cast<size_t>(i)]; }
  // The axis along which tensor k has stride 1, or -1.
  int along(int k) const {
    for (int i = count - 1; i >= 0; --i)
      if ((*this)[i].strides[static_cast<size_t>(k)] == 1) return i;
    return -1;
  }
  void move_to_end(int i) {
    const auto first = axes.begin() + i;
    std::rotate(first, first + 1, axes.begin() + count);
  }
};

template <int K>
AxisList<K> axes_of(const Tensors<K>& tensors) {
  AxisList<K> list;
  for (int i = 0; i < tensors[0].rank(); ++i) {
    Axis<K> axis;
    axis.size = tensors[0].dim(i);
    for (size_t k = 0; k < K; ++k) axis.strides[k] = tensors[k].stride(i);
    list.add(axis);
  }
  return list;
}

inline bool repeats(const Tensor& tensor) {
  for (int i = 0; i < tensor.rank(); ++i)
    if (tensor.dim(i) > 1 && tensor.stride(i) == 0) return true;
  return false;
}

// Whether tensor k begins on a 16-byte address in every row of `inner`, along which it has stride 1.
template <int K>
bool vectors_fit(const AxisList<K>& list, int inner, const Tensors<K>& tensors, int k) {
  const Tensor& tensor = tensors[static_cast<size_t>(k)];
  if (list[inner].strides[static_cast<size_t>(k)] != 1) return false;
  if (reinterpret_cast<uintptr_t>(tensor.raw()) % 16 != 0) return false;
  const auto size = static_cast<int64_t>(size_of(tensor.dtype()));
  for (int i = 0; i < list.count; ++i)
    if (i != inner && list[i].strides[static_cast<size_t>(k)] * size % 16 != 0) return false;
  return true;
}

// Kernels count elements in 32 bits. body(tensors) for parts of the tensors that are small enough for that.
inline constexpr int64_t kMostElements = (int64_t{1} << 31) - 1;

template <int K, class Body>
void each_part(const Tensors<K>& tensors, const Body& body) {
  const Tensor& first = tensors[0];
  if (first.numel() == 0) return;
  if (first.numel() <= kMostElements) return body(tensors);
  int widest = 0;
  for (int i = 1; i < first.rank(); ++i)
    if (first.dim(i) > first.dim(widest)) widest = i;
  const int64_t size = first.dim(widest), middle = size / 2;
  for (const auto [begin, end] : {std::pair(int64_t{0}, middle), std::pair(middle, size)}) {
    Tensors<K> part;
    for (size_t k = 0; k < K; ++k) part[k] = tensors[k].slice(widest, begin, end);
    each_part<K>(part, body);
  }
}

// ---- the same on the device

// n / divisor for n < 2^31 as a product and a shift. Granlund and Montgomery, "Division by Invariant Integers using
// Multiplication", 1994.
struct Divider {
  uint32_t divisor = 1;
  uint32_t multiplier = 1;
  uint32_t shift = 0;

  Divider() = default;
  explicit Divider(int64_t value) : divisor(static_cast<uint32_t>(value)) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    const uint64_t rest = (uint64_t{1} << shift) - divisor;
    multiplier = static_cast<uint32_t>((rest << 32) / divisor + 1);
  }
  __host__ __device__ uint32_t quotient(uint32_t n) const {
    const auto high = static_cast<uint32_t>((static_cast<uint64_t>(n) * multiplier) >> 32);
    return (high + n) >> shift;
  }
};

// From a flat index to the offset of each of K tensors.
template <int K>
struct Axes {
  int rank = 0;
  uint32_t count = 1;
  Divider sizes[Shape::kMaxRank];
  int64_t strides[Shape::kMaxRank][K];

  Axes() = default;
  Axes(const AxisList<K>& list, int without) {
    for (int i = 0; i < list.count; ++i) {
      if (i == without) continue;
      sizes[rank] = Divider(list[i].size);
      for (size_t k = 0; k < K; ++k) strides[rank][k] = list[i].strides[k];
      count *= static_cast<uint32_t>(list[i].size);
      ++rank;
    }
  }
  __device__ void add_offsets(uint32_t index, int64_t (&at)[K]) const {
    for (int i = rank - 1; i > 0; --i) {
      const uint32_t next = sizes[i].quotient(index);
      const int64_t here = index - next * sizes[i].divisor;
#pragma unroll
      for (int k = 0; k < K; ++k) at[k] += here * strides[i][k];
      index = next;
    }
    if (rank > 0) {
#pragma unroll
      for (int k = 0; k < K; ++k) at[k] += static_cast<int64_t>(index) * strides[0][k];
    }
  }
};

// Rows of `inner` elements in units of `width` (the last one of a row may be short).
template <int K>
struct Walk {
  Axes<K> rows;
  uint32_t inner = 1;
  uint32_t units = 1;
  uint32_t width = 1;
  Divider units_of_row;
  int64_t inner_strides[K];

  Walk() = default;
  // `axis`: the inner one, -1 where there is none.
  Walk(const AxisList<K>& list, int axis, int width_of_unit)
      : rows(list, axis), width(static_cast<uint32_t>(width_of_unit)) {
    if (axis >= 0) inner = static_cast<uint32_t>(list[axis].size);
    for (size_t k = 0; k < K; ++k) inner_strides[k] = axis >= 0 ? list[axis].strides[k] : 1;
    units_of_row = Divider(ceil_div(inner, width));
    units = rows.count * units_of_row.divisor;
  }
  // The offsets of a unit's first element, and its column.
  __device__ uint32_t place(uint32_t unit, int64_t (&at)[K]) const {
    const uint32_t row = units_of_row.quotient(unit);
    const uint32_t column = (unit - row * units_of_row.divisor) * width;
#pragma unroll
    for (int k = 0; k < K; ++k) at[k] = static_cast<int64_t>(column) * inner_strides[k];
    rows.add_offsets(row, at);
    return column;
  }
};

// ---- loads, stores, functions of several operands

// V elements in accesses of N: as many as 16 bytes hold, or 1 where nothing is known of the address.
template <class T, int V>
inline constexpr int kAccess = V < kPackOf<T> ? V : kPackOf<T>;

template <int V, class T, int N = kAccess<T, V>>
__device__ inline void load_values(const T* from, float (&to)[V]) {
#pragma unroll
  for (int i = 0; i < V; i += N) {
    const auto pack = *reinterpret_cast<const Pack<T, N>*>(from + i);
#pragma unroll
    for (int j = 0; j < N; ++j) to[i + j] = to_float(pack.at[j]);
  }
}

template <int V, class T, int N = kAccess<T, V>>
__device__ inline void store_values(const float (&from)[V], T* to) {
#pragma unroll
  for (int i = 0; i < V; i += N) {
    Pack<T, N> pack;
#pragma unroll
    for (int j = 0; j < N; ++j) pack.at[j] = from_float<T>(from[i + j]);
    *reinterpret_cast<Pack<T, N>*>(to + i) = pack;
  }
}

// f(in[0][offset[1]], in[1][offset[2]], ...)
template <int K, class F, class... I>
__device__ inline float at_offsets(const F& f, const int64_t (&at)[K], const I*... in) {
  static_assert(K == 1 + sizeof...(I));
  float x[K];
  int k = 0;
  ((++k, x[k] = to_float(in[at[k]])), ...);
  const auto result = [&]<size_t... N>(std::index_sequence<N...>) {
    return f(x[N + 1]...);
  };
  return result(std::index_sequence_for<I...>());
}

template <int V, int K, class F, class... I>
__device__ inline void vector_at_offsets(const F& f, const int64_t (&at)[K], float (&out)[V], const I*... in) {
  float x[K][V];
  int k = 0;
  ((++k, load_values<V>(in + at[k], x[k])), ...);
  const auto result = [&]<size_t... N>(int i, std::index_sequence<N...>) {
    return f(x[N + 1][i]...);
  };
#pragma unroll
  for (int i = 0; i < V; ++i) out[i] = result(i, std::index_sequence_for<I...>());
}

inline constexpr int kThreads = 256;
inline constexpr int kElementsOfThread = 4;

// out = f(in...), V elements a thread
template <int V, class F, class O, class... I>
__global__ void __launch_bounds__(kThreads) map_vectors(F f, Walk<1 + sizeof...(I)> walk, O* out, const I*... in) {
  wait_for_inputs();
  const uint32_t unit = blockIdx.x * kThreads + threadIdx.x;
  if (unit >= walk.units) return;
  int64_t at[1 + sizeof...(I)];
  const uint32_t column = walk.place(unit, at);
  if (column + V <= walk.inner) {
    float y[V];
    vector_at_offsets<V>(f, at, y, in...);
    store_values<V>(y, out + at[0]);
    return;
  }
  for (uint32_t i = column; i < walk.inner; ++i) {
    out[at[0]] = from_float<O>(at_offsets(f, at, in...));
#pragma unroll
    for (int k = 0; k < 1 + static_cast<int>(sizeof...(I)); ++k) at[k] += 1;
  }
}

// The same for any strides: neighbouring threads have neighbouring elements, and each has several on the way.
template <class F, class O, class... I>
__global__ void __launch_bounds__(kThreads) map_elements(F f, Walk<1 + sizeof...(I)> walk, O* out, const I*... in) {
  wait_for_inputs();
  const uint32_t first = blockIdx.x * (kThreads * kElementsOfThread) + threadIdx.x;
  float y[kElementsOfThread];
  int64_t to[kElementsOfThread];
#pragma unroll
  for (int j = 0; j < kElementsOfThread; ++j) {
    const uint32_t unit = first + j * kThreads;
    if (unit >= walk.units) continue;
    int64_t at[1 + sizeof...(I)];
    walk.place(unit, at);
    y[j] = at_offsets(f, at, in...);
    to[j] = at[0];
  }
#pragma unroll
  for (int j = 0; j < kElementsOfThread; ++j)
    if (first + j * kThreads < walk.units) out[to[j]] = from_float<O>(y[j]);
}

// Along the axis in which the first tensor is contiguous: `width` elements a unit where all of them allow it, or one.
template <int K>
Walk<K> walk_along_first(const Tensors<K>& tensors, int width) {
  const AxisList<K> axes = axes_of<K>(tensors);
  int inner = axes.along(0);
  if (inner < 0) inner = axes.count - 1;
  bool vectors = inner >= 0 && axes[inner].size >= width;
  for (int k = 0; vectors && k < K; ++k) vectors = vectors_fit<K>(axes, inner, tensors, k);
  return Walk<K>(axes, inner, vectors ? width : 1);
}

// tensors: out, in...
template <class F, class O, class... I>
void map_part(const Runtime& rt, const char* name, const F& f, const Tensors<1 + sizeof...(I)>& tensors) {
  constexpr int K = 1 + sizeof...(I);
  constexpr int V = ((sizeof(O) == 4) && ... && (sizeof(I) == 4)) ? 4 : 8;
  const Walk<K> walk = walk_along_first<K>(tensors, V);
  const bool vectors = walk.width == V;
  void (*kernel)(F, Walk<K>, O*, const I*...) = vectors ? map_vectors<V, F, O, I...> : map_elements<F, O, I...>;
  const int64_t blocks = ceil_div(walk.units, vectors ? kThreads : kThreads * kElementsOfThread);
  const auto run = [&]<size_t... N>(std::index_sequence<N...>) {
    launch_overlapping(rt, name, kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, f, walk,
                       pointer<O>(tensors[0]), pointer<const I>(tensors[N + 1])...);
  };
  run(std::index_sequence_for<I...>());
}

// ---- what the kernels call

template <class Call>
void with_types(const Call& call) {
  call();
}
// call(tags...), one for each tensor
template <class Call, class... Rest>
void with_types(const Call& call, const Tensor& first, const Rest&... rest) {
  with_type(first.dtype(), [&](auto tag) { with_types([&](auto... others) { call(tag, others...); }, rest...); });
}

inline void check_dtype(const char* name, const Tensor& tensor, DType expected) {
  RAEDIT_CHECK(tensor.dtype() == expected, {.code = ErrorCode::internal,
                                            .what = "an operand of a kernel has the wrong type",
                                            .where = name,
                                            .found = std::string(name_of(tensor.dtype())),
                                            .expected = std::string(name_of(expected))});
}

// out = f(in...), out of the first input's type. f is a function object of floats.
template <class F, class... Rest>
void map(const Runtime& rt, const char* name, const F& f, const Tensor& out, const Tensor& first, const Rest&... rest) {
  check_dtype(name, out, first.dtype());
  with_types(
      [&]<class T, class... U>(Type<T>, Type<U>...) {
        each_part<2 + sizeof...(U)>({out, first, rest...},
                                    [&](const auto& parts) { map_part<F, T, T, U...>(rt, name, f, parts); });
      },
      first, rest...);
}

}  // namespace raedit::backend::cuda
