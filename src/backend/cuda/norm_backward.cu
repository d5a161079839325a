// The gradients of the norms. Formulas: norm.cuh; with xhat = (x - mean) rstd and g = dout (1 + scale) weight,
//   dx = rstd (g - mean(g) - xhat mean(g xhat)), without mean(g) for rms,
//   dweight = sum dout (1 + scale) xhat, dbias = sum dout (1 + scale),
//   dscale = sum dout (xhat weight + bias), dshift = sum dout, each over the rows that its operand is repeated over.
//
// A block takes a chunk of the rows of one batch element: moments and dx of each row, which stays in registers, and the
// sums over the chunk of dout xhat and of dout, from which all four partial sums follow (weight, bias, scale and shift
// are the same for the whole chunk). They go to the workspace; a second kernel adds them up in a fixed order.
// Bytes a number with x in bfloat16: 14 (dout 4, x 2, dx read and written 8), and 4 / (rows of a chunk) for each
// gradient of an operand. 16384 rows of 1152: 264 MB, 88 us at 3 TB/s. A scale and shift of each token's own: another 2
// for reading the scale, 14 for dscale (dout, x, dscale twice) and 12 for dshift, in a pass for each.
// Wider rows than the registers hold, and a shift that is repeated while the scale is not: a pass for dx, one for sums.
#include <algorithm>
#include <utility>

#include "backend/cuda/norm.cuh"

namespace raedit::backend::cuda {
namespace {

struct NormBackward {
  NormSize size;
  unsigned batch = 0;
  float eps = 0;
  bool layer = false;
  NormOperand x, scale, dout, dx;
  const float* weight = nullptr;
  const float* bias = nullptr;
  NormMoments* moments = nullptr;  // of each row, in the workspace
};

// ---- rows

// g, the gradient at the normalised row.
template <bool aligned>
__device__ __forceinline__ void inner_gradient(const NormBackward& call, const NormPlace& place, int pack,
                                               float (&g)[kNormPack]) {
  const int width = call.size.width;
  const RawPack dout = fetch_operand<aligned>(call.dout, place, pack, width);
  RawPack scale, weight;
  if (call.scale.data != nullptr) scale = fetch_operand<aligned>(call.scale, place, pack, width);
  if (call.weight != nullptr) weight = fetch_floats<aligned>(call.weight, pack, width);
  unpack<aligned>(dout, call.dout.half, g);
  if (call.scale.data != nullptr) {
    float modulation[kNormPack];
    unpack<aligned>(scale, call.scale.half, modulation);
#pragma unroll
    for (int e = 0; e < kNormPack; ++e) g[e] *= 1.0f + modulation[e];
  }
  if (call.weight != nullptr) {
#pragma unroll
    for (int e = 0; e < kNormPack; ++e) g[e] *= float_at(weight, e);
  }
}

template <class Layout, bool aligned>
__global__ void norm_backward_rows_kernel(const NormBackward call) {
  alignas(16) __shared__ float shared[RowSum<Layout>::kShared];
  RowSum<Layout> row_sum(shared);
  const NormPlace place = norm_place<Layout>(call.size);
  const int width = call.size.width;
  const auto fetch_x = [&](int pack, float(&to)[kNormPack]) {
    unpack<aligned>(fetch_operand<aligned>(call.x, place, pack, width), call.x.half, to);
  };

  float v[kNormKept<Layout>][kNormPack], g[kNormKept<Layout>][kNormPack];
  float own_sum = 0.0f, g_sum = 0.0f;
  each_pack<Layout>(place, [&](int pack, int i, bool own) {
    if (call.dx.data != nullptr) inner_gradient<aligned>(call, place, pack, g[i]);
    fetch_x(pack, v[i]);
    own_sum += own ? tree_sum(v[i]) : 0.0f;
    if (call.dx.data != nullptr) g_sum += own ? tree_sum(g[i]) : 0.0f;
  });
  const NormMoments moments =
      norm_moments<Layout, aligned>(place, width, call.layer, call.eps, v, own_sum, row_sum, fetch_x);
  if (place.first == 0 && place.exists) call.moments[place.row] = moments;
  if (call.dx.data == nullptr) return;

  float product = 0.0f;
  each_pack<Layout>(place, [&](int pack, int i, bool own) {
    if constexpr (Layout::items == 0) {
      fetch_x(pack, v[0]);
      deviate<aligned>(v[0], pack, width, call.layer, moments.mean);
      inner_gradient<aligned>(call, place, pack, g[0]);
    }
    float products[kNormPack];
#pragma unroll
    for (int e = 0; e < kNormPack; ++e) products[e] = g[i][e] * (v[i][e] * moments.rstd);
    product += own ? tree_sum(products) : 0.0f;
  });
  const float count = static_cast<float>(width);
  const float product_mean = row_sum(product) / count;
  const float g_mean = call.layer ? row_sum(g_sum) / count : 0.0f;
  each_pack<Layout>(place, [&](int pack, int i, bool own) {
    if constexpr (Layout::items == 0) {
      fetch_x(pack, v[0]);
      deviate<aligned>(v[0], pack, width, call.layer, moments.mean);
      inner_gradient<aligned>(call, place, pack, g[0]);
    }
    float dx[kNormPack];
    unpack<aligned>(fetch_operand<aligned>(call.dx, place, pack, width), false, dx);
#pragma unroll
    for (int e = 0; e < kNormPack; ++e)
      dx[e] += moments.rstd * fmaf(-(v[i][e] * moments.rstd), product_mean, g[i][e] - g_mean);
    if (own)
      store_pack<aligned>(reinterpret_cast<float*>(call.dx.data) + place.offset(call.dx), pack * kNormPack, width, dx);
  });
}

// ---- partial sums

// Partial sums [batch * chunks, D] of each gradient; null where it is not wanted.
struct NormPartials {
  float* weight = nullptr;
  float* bias = nullptr;
  float* scale = nullptr;
  float* shift = nullptr;
  unsigned chunks = 0;  // of each batch element
  unsigned rows = 0;    // of a chunk, the last one's may be fewer
};

// ---- rows and their sums in one pass

// The sums over the threads that hold the same pack of different rows, for those of the first row.
template <class Layout>
__device__ __forceinline__ void sum_groups(float (&products)[kNormPack], float (&sums)[kNormPack]) {
  if constexpr (Layout::group > 0) {
    __shared__ float shared[2 * kNormPack][kNormGroupThreads];
#pragma unroll
    for (int e = 0; e < kNormPack; ++e) {
      shared[e][threadIdx.x] = products[e];
      shared[kNormPack + e][threadIdx.x] = sums[e];
    }
    __syncthreads();
    if (threadIdx.x >= Layout::group) return;
    for (int other = threadIdx.x + Layout::group; other < kNormGroupThreads; other += Layout::group) {
#pragma unroll
      for (int e = 0; e < kNormPack; ++e) {
        products[e] += shared[e][other];
        sums[e] += shared[kNormPack + e][other];
      }
    }
  }
}

// From the sums of dout xhat and of dout over a chunk, where `outer` is its 1 + scale (1 if that is in the sums).
__device__ __forceinline__ void store_partials(const NormBackward& call, const NormPartials& partials, int column,
                                               const float (&outer)[kNormPack], const float (&products)[kNormPack],
                                               const float (&sums)[kNormPack]) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * call.size.width;
#pragma unroll
  for (int e = 0; e < kNormPack; ++e) {
    const int at = column + e;
    if (at >= call.size.width) continue;
    if (partials.weight != nullptr) partials.weight[row + at] = outer[e] * products[e];
    if (partials.bias != nullptr) partials.bias[row + at] = outer[e] * sums[e];
    if (partials.shift != nullptr) partials.shift[row + at] = sums[e];
    if (partials.scale == nullptr) continue;
    const float product = call.weight != nullptr ? call.weight[at] * products[e] : products[e];
    partials.scale[row + at] = call.bias != nullptr ? fmaf(call.bias[at], sums[e], product) : product;
  }
}

// 1 + scale, 1 where there is none.
template <bool aligned>
__device__ __forceinline__ void load_outer(const NormBackward& call, const NormPlace& place,
                                           float (&outer)[kNormPack]) {
  if (call.scale.data != nullptr)
    unpack<aligned>(fetch_operand<aligned>(call.scale, place, place.first, call.size.width), call.scale.half, outer);
#pragma unroll
  for (int e = 0; e < kNormPack; ++e) outer[e] = call.scale.data != nullptr ? 1.0f + outer[e] : 1.0f;
}

// For the registers: three blocks of 256 threads, and more of fewer, keep enough loads under way. The rare forms need
// more registers than that leaves.
template <class Layout>
inline constexpr int kChunkThreads = Layout::group > 0 ? kNormGroupThreads : 256;
template <class Layout, bool usual>
inline constexpr int kChunkBlocks = (usual ? 768 : 512) / kChunkThreads<Layout>;

// What a thread holds of a row: zeros where it holds nothing.
struct ChunkRow {
  float v[1][kNormPack];  // x, then x - mean, then xhat
  float d[kNormPack];     // dout, times 1 + scale if that is the row's own, then g
  RawPack dx;
};

template <bool aligned, bool by_token>
__device__ __forceinline__ ChunkRow load_row(const NormBackward& call, const NormPlace& place) {
  ChunkRow row{};
  if (!place.exists) return row;
  const int width = call.size.width;
  const RawPack x = fetch_operand<aligned>(call.x, place, place.first, width);
  const RawPack dout = fetch_operand<aligned>(call.dout, place, place.first, width);
  if (call.dx.data != nullptr) row.dx = fetch_operand<aligned>(call.dx, place, place.first, width);
  float outer[kNormPack];
  if constexpr (by_token) load_outer<aligned>(call, place, outer);
  unpack<aligned>(x, call.x.half, row.v[0]);
  unpack<aligned>(dout, call.dout.half, row.d);
  if constexpr (by_token) {
#pragma unroll
    for (int e = 0; e < kNormPack; ++e) row.d[e] *= outer[e];
  }
  return row;
}

// dx of a row with its xhat and g. All threads of the row call.
template <class Layout, bool aligned>
__device__ __forceinline__ void add_dx(const NormBackward& call, const NormPlace& place, const ChunkRow& row,
                                       float rstd, RowSum<Layout>& row_sum) {
  const float count = static_cast<float>(call.size.width);
  float to[kNormPack];
#pragma unroll
  for (int e = 0; e < kNormPack; ++e) to[e] = row.d[e] * row.v[0][e];
  const float product_mean = row_sum(tree_sum(to)) / count;
  const float g_mean = call.layer ? row_sum(tree_sum(row.d)) / count : 0.0f;
  if (!place.exists) return;
  unpack<aligned>(row.dx, false, to);
#pragma unroll
  for (int e = 0; e < kNormPack; ++e) to[e] += rstd * fmaf(-row.v[0][e], product_mean, row.d[e] - g_mean);
  store_pack<aligned>(reinterpret_cast<float*>(call.dx.data) + place.offset(call.dx), place.first * kNormPack,
                      call.size.width, to);
}

// What g is of d (1 for threads that hold nothing): the weight, and 1 + scale where that is the same for the whole
// chunk.
template <bool aligned, bool by_token>
__device__ __forceinline__ void load_factor(const NormBackward& call, const NormPlace& place, bool holds,
                                            float (&factor)[kNormPack]) {
#pragma unroll
  for (int e = 0; e < kNormPack; ++e) factor[e] = 1.0f;
  if (!holds) return;
  if constexpr (!by_token) load_outer<aligned>(call, place, factor);
  if (call.weight == nullptr) return;
  const RawPack weight = fetch_floats<aligned>(call.weight, place.first, call.size.width);
#pragma unroll
  for (int e = 0; e < kNormPack; ++e) factor[e] *= float_at(weight, e);
}

// by_token: scale differs from row to row, and neither dscale nor dshift is wanted here.
template <class Layout, bool aligned, bool by_token>
__global__ void __launch_bounds__(kChunkThreads<Layout>, kChunkBlocks<Layout, aligned && !by_token>)
    norm_backward_kernel(const NormBackward call, const NormPartials partials) {
  alignas(16) __shared__ float shared[RowSum<Layout>::kShared];
  RowSum<Layout> row_sum(shared);
  constexpr unsigned kGroup = Layout::group > 0 ? Layout::group : 1024;  // threads of a row, or more than there are
  const unsigned begin = blockIdx.x % partials.chunks * partials.rows;
  const unsigned end = min(begin + partials.rows, call.size.tokens);
  const unsigned step = Layout::group > 0 ? kNormGroupThreads / kGroup : 1;
  NormPlace place{};
  place.b = blockIdx.x / partials.chunks;
  place.n = begin;
  place.first = static_cast<int>(threadIdx.x % kGroup);
  place.packs = (call.size.width + kNormPack - 1) / kNormPack;
  const bool holds = place.first < place.packs;

  float factor[kNormPack], products[kNormPack]{}, sums[kNormPack]{};
  load_factor<aligned, by_token>(call, place, holds, factor);
  for (unsigned n = begin; n < end; n += step) {
    place.n = n + threadIdx.x / kGroup;
    place.exists = holds && place.n < end;
    ChunkRow row = load_row<aligned, by_token>(call, place);
    const NormMoments moments =
        norm_moments<Layout, aligned>(place, call.size.width, call.layer, call.eps, row.v, tree_sum(row.v[0]), row_sum,
                                      [](int, float(&)[kNormPack]) {});
    if (place.first == 0 && place.exists)
      call.moments[static_cast<int64_t>(place.b) * call.size.tokens + place.n] = moments;
#pragma unroll
    for (int e = 0; e < kNormPack; ++e) {
      row.v[0][e] *= moments.rstd;
      products[e] = fmaf(row.d[e], row.v[0][e], products[e]);
      sums[e] += row.d[e];
      row.d[e] *= factor[e];
    }
    if (call.dx.data != nullptr) add_dx<Layout, aligned>(call, place, row, moments.rstd, row_sum);
  }
  sum_groups<Layout>(products, sums);
  if (!holds || threadIdx.x >= kGroup) return;
  float outer[kNormPack];
#pragma unroll
  for (int e = 0; e < kNormPack; ++e) outer[e] = 1.0f;
  if constexpr (!by_token) load_outer<aligned>(call, place, outer);
  store_partials(call, partials, place.first * kNormPack, outer, products, sums);
}

// ---- columns

// Contributions of one row to the gradients of what was broadcast, for `columns` neighbours.
template <int columns>
struct NormContribution {
  float dout[columns];
  float xhat[columns];
  float outer[columns];  // 1 + scale
};

template <int columns>
__device__ __forceinline__ void fetch_columns(const NormOperand& operand, int64_t at, float (&v)[columns]) {
  if constexpr (columns == 4) {
    if (operand.half) {
      const uint2 raw = *reinterpret_cast<const uint2*>(reinterpret_cast<const bf16*>(operand.data) + at);
      v[0] = __uint_as_float(raw.x << 16), v[1] = __uint_as_float(raw.x & 0xffff0000u);
      v[2] = __uint_as_float(raw.y << 16), v[3] = __uint_as_float(raw.y & 0xffff0000u);
    } else {
      const float4 raw = *reinterpret_cast<const float4*>(reinterpret_cast<const float*>(operand.data) + at);
      v[0] = raw.x, v[1] = raw.y, v[2] = raw.z, v[3] = raw.w;
    }
  } else {
#pragma unroll
    for (int e = 0; e < columns; ++e)
      v[e] = operand.half ? to_float(reinterpret_cast<const bf16*>(operand.data)[at + e])
                          : reinterpret_cast<const float*>(operand.data)[at + e];
  }
}

struct NormWanted {
  bool xhat, scale;  // what the gradients that are asked for need
};

template <int columns>
__device__ __forceinline__ NormContribution<columns> contribution(const NormBackward& call, NormWanted wanted,
                                                                  unsigned b, unsigned n, int column) {
  NormContribution<columns> result;
  const auto at = [&](const NormOperand& operand) { return b * operand.strides[0] + n * operand.strides[1] + column; };
  fetch_columns<columns>(call.dout, at(call.dout), result.dout);
  if (wanted.xhat) {
    fetch_columns<columns>(call.x, at(call.x), result.xhat);
    const NormMoments moments = call.moments[static_cast<int64_t>(b) * call.size.tokens + n];
#pragma unroll
    for (int e = 0; e < columns; ++e) result.xhat[e] = (result.xhat[e] - moments.mean) * moments.rstd;
  }
  if (wanted.scale && call.scale.data != nullptr) {
    fetch_columns<columns>(call.scale, at(call.scale), result.outer);
#pragma unroll
    for (int e = 0; e < columns; ++e) result.outer[e] += 1.0f;
  } else {
#pragma unroll
    for (int e = 0; e < columns; ++e) result.outer[e] = 1.0f;
  }
  return result;
}

// Partial sums alone, one column a thread, of any width.
__global__ void norm_backward_columns_kernel(const NormBackward call, const NormPartials partials) {
  const int column = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (column >= call.size.width) return;
  const unsigned b = blockIdx.x / partials.chunks, begin = blockIdx.x % partials.chunks * partials.rows;
  const unsigned end = min(begin + partials.rows, call.size.tokens);
  float weight = 0.0f, bias = 0.0f, scale = 0.0f, shift = 0.0f;
#pragma unroll 2
  for (unsigned n = begin; n < end; ++n) {
    const NormContribution<1> row = contribution<1>(call, {true, true}, b, n, column);
    const float inner = row.dout[0] * row.outer[0];
    shift += row.dout[0];
    bias += inner;
    scale = fmaf(row.dout[0], row.xhat[0], scale);
    weight = fmaf(inner, row.xhat[0], weight);
  }
  if (call.weight != nullptr) scale *= call.weight[column];
  if (call.bias != nullptr) scale = fmaf(call.bias[column], shift, scale);
  const int64_t at = static_cast<int64_t>(blockIdx.x) * call.size.width + column;
  if (partials.weight != nullptr) partials.weight[at] = weight;
  if (partials.bias != nullptr) partials.bias[at] = bias;
  if (partials.scale != nullptr) partials.scale[at] = scale;
  if (partials.shift != nullptr) partials.shift[at] = shift;
}

// target[group, column] += the sum of the `count` partial sums of the group. Threads (32 columns, y): each y sums every
// y-th, then they are added one after the other.
__global__ void norm_backward_finish_kernel(const float* partials, unsigned count, int width, float* target,
                                            int64_t stride) {
  __shared__ float shared[32][33];
  const int column = static_cast<int>(blockIdx.y) * 32 + static_cast<int>(threadIdx.x);
  const float* const from = partials + static_cast<int64_t>(blockIdx.x) * count * width;
  float sum = 0.0f;
  if (column < width)
    for (unsigned i = threadIdx.y; i < count; i += blockDim.y) sum += from[static_cast<int64_t>(i) * width + column];
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
  for (unsigned y = 1; y < blockDim.y; ++y) sum += shared[y][threadIdx.x];
  target[static_cast<int64_t>(blockIdx.x) * stride + column] += sum;
}

// dscale (is_scale) or dshift of an operand that differs from token to token, summed over a batch that it is repeated
// over.
template <int columns>
__global__ void norm_backward_tokens_kernel(const NormBackward call, bool is_scale, NormOperand target) {
  const int column = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * columns;
  if (column >= call.size.width) return;
  const unsigned n = blockIdx.x % call.size.tokens, first = blockIdx.x / call.size.tokens;
  const unsigned last = target.strides[0] == 0 ? call.batch : first + 1;
  float sums[columns]{};
  for (unsigned b = first; b < last; ++b) {
    const NormContribution<columns> row = contribution<columns>(call, {is_scale, false}, b, n, column);
#pragma unroll
    for (int e = 0; e < columns; ++e) {
      float factor = is_scale ? row.xhat[e] : 1.0f;
      if (is_scale && call.weight != nullptr) factor *= call.weight[column + e];
      if (is_scale && call.bias != nullptr) factor += call.bias[column + e];
      sums[e] = fmaf(row.dout[e], factor, sums[e]);
    }
  }
  float* const to = reinterpret_cast<float*>(target.data) + first * target.strides[0] + n * target.strides[1] + column;
  auto& pack = *reinterpret_cast<Pack<float, columns>*>(to);
  Pack<float, columns> values = pack;
#pragma unroll
  for (int e = 0; e < columns; ++e) values.at[e] += sums[e];
  pack = values;
}

// ---- on the host

// A gradient of scale or shift.
struct Modulation {
  NormOperand target;
  bool is_scale;
  bool aligned;

  bool by_token() const { return target.data != nullptr && target.strides[1] != 0; }
  bool in_chunks() const { return target.data != nullptr && target.strides[1] == 0; }
};

Modulation modulation_of(const Tensor& gradient, bool is_scale) {
  return {norm_operand(gradient), is_scale, rows_aligned(gradient)};
}

// Rows wider than this many numbers are not kept by a block while it sums.
constexpr int kWidestChunk = 256 * kNormPack;

using ChunkKernel = void (*)(const NormBackward, const NormPartials);

template <class F>
void with_chunk_kernel(int width, bool aligned, bool by_token, const F& f) {
  const auto with = [&](auto layout) {
    using Layout = decltype(layout);
    const ChunkKernel kernels[] = {norm_backward_kernel<Layout, false, false>,
                                   norm_backward_kernel<Layout, false, true>, norm_backward_kernel<Layout, true, false>,
                                   norm_backward_kernel<Layout, true, true>};
    f(kernels[2 * aligned + by_token], layout);
  };
  const int64_t packs = ceil_div(width, kNormPack);  // one a thread
  if (packs <= 8) return with(NormLayout<8, 1>{});
  if (packs <= 16) return with(NormLayout<16, 1>{});
  if (packs <= 32) return with(NormLayout<32, 1>{});
  with(NormLayout<0, 1>{});
}

// Chunks of `least` rows or more, a multiple of `step`, for at most `blocks` blocks unless there are more batch
// elements.
NormPartials plan_chunks(const NormBackward& call, int64_t blocks, int64_t least, int64_t step) {
  const int64_t wanted = std::max<int64_t>(1, blocks / call.batch), tokens = call.size.tokens;
  const int64_t rows = ceil_div(std::max(least, ceil_div(tokens, wanted)), step) * step;
  NormPartials partials;
  partials.rows = static_cast<unsigned>(rows);
  partials.chunks = static_cast<unsigned>(ceil_div(tokens, rows));
  return partials;
}

// All of the device's multiprocessors full once.
NormPartials plan_one_pass(const Runtime& rt, const NormBackward& call, bool aligned, bool by_token) {
  NormPartials partials;
  with_chunk_kernel(call.size.width, aligned, by_token, [&](ChunkKernel kernel, auto layout) {
    constexpr int kGroup = decltype(layout)::group;
    constexpr int64_t kRows = kGroup > 0 ? kNormGroupThreads / std::max(kGroup, 1) : 1;  // that a block holds
    int blocks = 1;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel,
                                                        static_cast<int>(norm_grid(call.size, layout).threads.x), 0),
          "occupancy of norm_backward");
    const int64_t all = int64_t{rt.multiprocessors()} * std::max(blocks, 1);
    partials = plan_chunks(call, all, std::max<int64_t>(kRows, 4), kRows);
  });
  return partials;
}

void one_pass(const Runtime& rt, const NormBackward& call, const NormPartials& partials, bool aligned, bool by_token) {
  with_chunk_kernel(call.size.width, aligned, by_token, [&](ChunkKernel kernel, auto layout) {
    launch(rt, "norm_backward", kernel, dim3(call.batch * partials.chunks), norm_grid(call.size, layout).threads, 0,
           call, partials);
  });
}

void two_passes(const Runtime& rt, const NormBackward& call, const NormPartials& partials, bool sums, bool aligned) {
  with_norm_layout(call.size.width, [&](auto layout) {
    using Layout = decltype(layout);
    const NormGrid grid = norm_grid(call.size, layout);
    if constexpr (Layout::items > 0)
      if (aligned)
        return launch(rt, "norm_backward_rows", norm_backward_rows_kernel<Layout, true>, grid.blocks, grid.threads, 0,
                      call);
    launch(rt, "norm_backward_rows", norm_backward_rows_kernel<Layout, false>, grid.blocks, grid.threads, 0, call);
  });
  if (!sums) return;
  const dim3 grid(call.batch * partials.chunks, static_cast<unsigned>(ceil_div(call.size.width, 256)));
  launch(rt, "norm_backward_columns", norm_backward_columns_kernel, grid, dim3(256), 0, call, partials);
}

// Adds `groups` times `count` partial sums to a gradient whose groups are `stride` apart.
void finish(const Runtime& rt, const float* partials, unsigned groups, unsigned count, int width, float* target,
            int64_t stride) {
  if (partials == nullptr) return;
  const dim3 grid(groups, static_cast<unsigned>(ceil_div(width, 32)));
  launch(rt, "norm_backward_finish", norm_backward_finish_kernel, grid, dim3(32, count > 64 ? 32 : 8), 0, partials,
         count, width, target, stride);
}

void finish_modulation(const Runtime& rt, const NormBackward& call, const NormPartials& partials,
                       const Modulation& modulation, bool aligned) {
  const NormOperand& target = modulation.target;
  const int width = call.size.width;
  const bool over_batch = target.strides[0] == 0;
  if (modulation.in_chunks()) {
    const float* const from = modulation.is_scale ? partials.scale : partials.shift;
    const unsigned groups = over_batch ? 1 : call.batch;
    finish(rt, from, groups, call.batch / groups * partials.chunks, width, reinterpret_cast<float*>(target.data),
           target.strides[0]);
  } else if (modulation.by_token()) {
    const int columns = aligned && modulation.aligned ? 4 : 1;
    const int64_t wanted = ceil_div(width, columns);
    const auto threads = static_cast<unsigned>(std::min<int64_t>(512, ceil_div(wanted, 32) * 32));
    const dim3 grid((over_batch ? 1 : call.batch) * call.size.tokens, static_cast<unsigned>(ceil_div(wanted, threads)));
    launch(rt, "norm_backward_tokens", columns == 4 ? norm_backward_tokens_kernel<4> : norm_backward_tokens_kernel<1>,
           grid, dim3(threads), 0, call, modulation.is_scale, target);
  }
}

NormBackward backward_call(const Tensor& dout, const NormArgs& args, const NormGrads& grads) {
  NormBackward call;
  call.size = norm_size(args.x);
  call.batch = static_cast<unsigned>(args.x.dim(0));
  call.eps = args.eps;
  call.layer = args.kind == NormKind::layer;
  call.x = norm_operand(args.x);
  call.scale = norm_operand(args.scale);
  call.dout = norm_operand(dout);
  call.dx = norm_operand(grads.x);
  call.weight = pointer<float>(args.weight);
  call.bias = pointer<float>(args.bias);
  RAEDIT_CHECK(!grads.x.defined() ||
                   ((call.batch == 1 || call.dx.strides[0] != 0) && (call.size.tokens == 1 || call.dx.strides[1] != 0)),
               {.code = ErrorCode::unsupported,
                .what = "the gradient of a norm's repeated input",
                .where = "norm_backward",
                .expected = "an x that is not broadcast"});
  return call;
}

}  // namespace

void CudaKernels::norm_backward(const Tensor& dout, const NormArgs& args, const NormGrads& grads) const {
  if (args.x.numel() == 0) return;
  NormBackward call = backward_call(dout, args, grads);
  const Modulation scale = modulation_of(grads.scale, true), shift = modulation_of(grads.shift, false);
  const int width = call.size.width;
  bool aligned = width % kNormPack == 0;
  for (const Tensor* tensor : {&dout, &args.x, &args.weight, &args.scale, &grads.x})
    aligned = aligned && rows_aligned(*tensor);
  const bool by_token = call.scale.strides[1] != 0;
  const bool once = width <= kWidestChunk && !(by_token && (scale.in_chunks() || shift.in_chunks()));
  NormPartials partials =
      once ? plan_one_pass(rt_, call, aligned, by_token) : plan_chunks(call, int64_t{8} * rt_.multiprocessors(), 8, 1);

  const unsigned all = call.batch * partials.chunks;
  const int64_t moments = ceil_div(int64_t{2} * call.size.rows, 64) * 64;  // in floats, of 256 bytes together
  const int64_t sums = ceil_div(static_cast<int64_t>(all) * width, 64) * 64;
  const int count = grads.weight.defined() + grads.bias.defined() + scale.in_chunks() + shift.in_chunks();
  auto* free = reinterpret_cast<float*>(rt_.workspace(static_cast<size_t>(moments + count * sums) * sizeof(float)));
  call.moments = reinterpret_cast<NormMoments*>(std::exchange(free, free + moments));
  const auto take = [&](bool wanted) { return wanted ? std::exchange(free, free + sums) : nullptr; };
  partials.weight = take(grads.weight.defined());
  partials.bias = take(grads.bias.defined());
  partials.scale = take(scale.in_chunks());
  partials.shift = take(shift.in_chunks());

  if (once)
    one_pass(rt_, call, partials, aligned, by_token);
  else
    two_passes(rt_, call, partials, count > 0, aligned);
  // One launch after the other: two gradients may be views of the same numbers.
  finish(rt_, partials.weight, 1, all, width, pointer<float>(grads.weight), 0);
  finish(rt_, partials.bias, 1, all, width, pointer<float>(grads.bias), 0);
  finish_modulation(rt_, call, partials, scale, aligned);
  finish_modulation(rt_, call, partials, shift, aligned);
}

}  // namespace raedit::backend::cuda
