// Copies between layouts and element types: rows in 16-byte pieces, tiles through shared memory where source and target
// run along different axes, and element by element otherwise.
#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/gradients.h"
#include "backend/cuda/walk.h"
#include "core/check.h"

namespace raedit::backend::cuda {
namespace {

// How an element becomes the target's. Equal types keep their bits.
template <class T>
struct Keep {
  using From = T;
  using To = T;
  static constexpr int kVector = 16 / sizeof(T);
  __device__ To operator()(From x) const { return x; }
};
template <class F, class T>
struct Round {
  using From = F;
  using To = T;
  static constexpr int kVector = 8;
  __device__ To operator()(From x) const { return from_float<To>(to_float(x)); }
};

constexpr int kTile = 32;
constexpr int kTileRows = 8;

template <class C>
__global__ void __launch_bounds__(kThreads)
    copy_vectors(Walk<2> walk, typename C::To* target, const typename C::From* source) {
  using From = typename C::From;
  using To = typename C::To;
  constexpr int V = C::kVector;
  constexpr int kFrom = V < 16 / static_cast<int>(sizeof(From)) ? V : 16 / sizeof(From);
  constexpr int kTo = V < 16 / static_cast<int>(sizeof(To)) ? V : 16 / sizeof(To);
  const uint32_t unit = blockIdx.x * kThreads + threadIdx.x;
  if (unit >= walk.units) return;
  int64_t at[2];
  const uint32_t column = walk.place(unit, at);
  const C convert;
  if (column + V > walk.inner) {
    for (uint32_t i = 0; column + i < walk.inner; ++i) target[at[0] + i] = convert(source[at[1] + i]);
    return;
  }
  Pack<From, kFrom> from[V / kFrom];
#pragma unroll
  for (int i = 0; i < V / kFrom; ++i) from[i] = *reinterpret_cast<const Pack<From, kFrom>*>(source + at[1] + i * kFrom);
#pragma unroll
  for (int i = 0; i < V / kTo; ++i) {
    Pack<To, kTo> to;
#pragma unroll
    for (int j = 0; j < kTo; ++j) to.at[j] = convert(from[(i * kTo + j) / kFrom].at[(i * kTo + j) % kFrom]);
    *reinterpret_cast<Pack<To, kTo>*>(target + at[0] + i * kTo) = to;
  }
}

template <class C>
__global__ void __launch_bounds__(kThreads)
    copy_elements(Walk<2> walk, typename C::To* target, const typename C::From* source) {
  const uint32_t first = blockIdx.x * (kThreads * kElementsOfThread) + threadIdx.x;
  typename C::From x[kElementsOfThread];
  int64_t to[kElementsOfThread];
#pragma unroll
  for (int j = 0; j < kElementsOfThread; ++j) {
    const uint32_t unit = first + j * kThreads;
    if (unit >= walk.units) continue;
    int64_t at[2];
    walk.place(unit, at);
    x[j] = source[at[1]];
    to[j] = at[0];
  }
#pragma unroll
  for (int j = 0; j < kElementsOfThread; ++j)
    if (first + j * kThreads < walk.units) target[to[j]] = C()(x[j]);
}

// The source runs along an axis of `size` elements, the target along the last of all the other axes, `positions`, and
// along the source's with a stride. Squares of both, read along the one and written along the other.
template <class C>
__global__ void __launch_bounds__(kTile* kTileRows)
    copy_tiles(Axes<2> positions, Divider tiles_of_size, uint32_t size, int64_t target_stride, typename C::To* target,
               const typename C::From* source) {
  __shared__ typename C::From tile[kTile][kTile + 1];
  __shared__ int64_t from[kTile];
  const uint32_t lane = threadIdx.x, block = tiles_of_size.quotient(blockIdx.x);
  const uint32_t column = (blockIdx.x - block * tiles_of_size.divisor) * kTile, position = block * kTile;
  int64_t at[2] = {};
  if (position + lane < positions.count) positions.add_offsets(position + lane, at);
  if (threadIdx.y == 0) from[lane] = at[1];
  __syncthreads();
#pragma unroll
  for (uint32_t j = threadIdx.y; j < kTile; j += kTileRows)
    if (position + j < positions.count && column + lane < size) tile[j][lane] = source[from[j] + column + lane];
  __syncthreads();
#pragma unroll
  for (uint32_t j = threadIdx.y; j < kTile; j += kTileRows)
    if (position + lane < positions.count && column + j < size)
      target[at[0] + static_cast<int64_t>(column + j) * target_stride] = C()(tile[lane][j]);
}

__global__ void __launch_bounds__(kThreads)
    convert_elements(Walk<2> walk, DType to, DType from, void* target, const void* source) {
  const uint32_t unit = blockIdx.x * kThreads + threadIdx.x;
  if (unit >= walk.units) return;
  int64_t at[2];
  walk.place(unit, at);
  store_any(to, target, at[0], load_any(from, source, at[1]));
}

// In the order of the target's memory.
AxisList<2> target_order(const Tensors<2>& tensors) {
  AxisList<2> axes = axes_of<2>(tensors), ordered;
  std::stable_sort(axes.axes.begin(), axes.axes.begin() + axes.count,
                   [](const Axis<2>& a, const Axis<2>& b) { return a.strides[0] > b.strides[0]; });
  for (int i = 0; i < axes.count; ++i) ordered.add(axes[i]);
  return ordered;
}

dim3 blocks_for(int64_t count, int64_t of_block) {
  return dim3(static_cast<unsigned>(ceil_div(count, of_block)));
}

template <class C>
void copy_as(const Runtime& rt, const AxisList<2>& axes, const Tensors<2>& tensors) {
  auto* target = pointer<typename C::To>(tensors[0]);
  const auto* source = pointer<const typename C::From>(tensors[1]);
  const int inner = axes.count - 1, across = axes.along(1);
  if (inner >= 0 && axes[inner].size >= C::kVector && vectors_fit<2>(axes, inner, tensors, 0) &&
      vectors_fit<2>(axes, inner, tensors, 1)) {
    const Walk<2> walk(axes, inner, C::kVector);
    return launch(rt, "copy_vectors", copy_vectors<C>, blocks_for(walk.units, kThreads), dim3(kThreads), 0, walk,
                  target, source);
  }
  if (across >= 0 && across != inner && axes[across].size >= kTile / 2) {
    const Axes<2> positions(axes, across);
    const int64_t size = axes[across].size, tiles = ceil_div(size, kTile);
    return launch(rt, "copy_tiles", copy_tiles<C>, blocks_for(ceil_div(positions.count, kTile) * tiles, 1),
                  dim3(kTile, kTileRows), 0, positions, Divider(tiles), static_cast<uint32_t>(size),
                  axes[across].strides[0], target, source);
  }
  const Walk<2> walk(axes, inner, 1);
  launch(rt, "copy_elements", copy_elements<C>, blocks_for(walk.units, kThreads * kElementsOfThread), dim3(kThreads), 0,
         walk, target, source);
}

void check_convertible(DType source, DType target) {
  RAEDIT_CHECK(is_floating(source) && is_floating(target),
               {.code = ErrorCode::unsupported,
                .what = "the CUDA device cannot convert these types",
                .where = "copy",
                .found = std::string(name_of(source)) + " to " + std::string(name_of(target)),
                .expected = "floating types, or one type on both sides"});
}

// tensors: target, source
void copy_part(const Runtime& rt, const Tensors<2>& tensors) {
  const AxisList<2> axes = target_order(tensors);
  const DType to = tensors[0].dtype(), from = tensors[1].dtype();
  if (to == from) {
    switch (size_of(to)) {
      case 1: return copy_as<Keep<uint8_t>>(rt, axes, tensors);
      case 2: return copy_as<Keep<uint16_t>>(rt, axes, tensors);
      case 4: return copy_as<Keep<uint32_t>>(rt, axes, tensors);
      default: return copy_as<Keep<uint64_t>>(rt, axes, tensors);
    }
  }
  if (to == DType::bfloat16 && from == DType::float32) return copy_as<Round<float, bf16>>(rt, axes, tensors);
  if (to == DType::float32 && from == DType::bfloat16) return copy_as<Round<bf16, float>>(rt, axes, tensors);
  check_convertible(from, to);
  const Walk<2> walk(axes, axes.count - 1, 1);
  launch(rt, "convert_elements", convert_elements, blocks_for(walk.units, kThreads), dim3(kThreads), 0, walk, to, from,
         pointer<void>(tensors[0]), pointer<const void>(tensors[1]));
}

}  // namespace

void CudaKernels::copy(const Tensor& source, const Tensor& target) const {
  each_part<2>({target, source}, [&](const Tensors<2>& parts) { copy_part(rt_, parts); });
}

void CudaKernels::accumulate(const Tensor& source, const Tensor& target) const {
  add_map(rt_, "accumulate", Identity{}, target, source);
}

}  // namespace raedit::backend::cuda
