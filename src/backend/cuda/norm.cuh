// What the norm kernels share: where a row lies, who holds which part of it, sums over those who hold it, its moments,
// and the affine part. Formulas: Ba et al., Layer Normalization (arXiv 1607.06450); Zhang and Sennrich, RMSNorm (arXiv
// 1910.07467); the modulation (1 + scale) y + shift is adaLN of Peebles and Xie, DiT (arXiv 2212.09748).
//
// Which thread holds which numbers, and so the order of every sum, follows from the width alone: not from the dtype,
// the alignment, the number of rows, or which of the kernels asks. Fused and composed ops agree in every bit because of
// this, and because the arithmetic here is spelt out (no contraction that depends on the kernel around it).
#pragma once

#include <limits>
#include <string>

#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/dispatch.h"
#include "backend/cuda/numbers.cuh"
#include "backend/cuda/walk.h"

namespace raedit::backend::cuda {

// Neighbours of a row that one thread holds: 16 bytes of bfloat16, twice 16 bytes of float32.
inline constexpr int kNormPack = 8;

// An operand of x's shape [B,N,D] or [B,N,H,Dh]: its rows, in elements. Null where there is none.
struct NormOperand {
  std::byte* data = nullptr;
  int64_t strides[3] = {0, 0, 0};
  bool half = false;  // bfloat16
};

inline NormOperand norm_operand(const Tensor& tensor) {
  NormOperand operand;
  if (!tensor.defined()) return operand;
  RAEDIT_CHECK(tensor.stride(-1) == 1 || tensor.dim(-1) == 1,
               {.code = ErrorCode::unsupported,
                .what = "the last dimension of an operand is not contiguous",
                .where = "norm",
                .found = "stride " + std::to_string(tensor.stride(-1)),
                .expected = "stride 1"});
  operand.data = tensor.raw();
  operand.half = tensor.dtype() == DType::bfloat16;
  for (int i = 0; i + 1 < tensor.rank(); ++i) operand.strides[i] = tensor.dim(i) > 1 ? tensor.stride(i) : 0;
  return operand;
}

// The rows of x: [batch, tokens, heads] of `width` numbers each, heads 1 but for norm_rope.
struct NormSize {
  unsigned rows = 0;
  unsigned tokens = 1;
  unsigned heads = 1;
  Divider by_tokens, by_heads;
  int width = 0;
};

inline NormSize norm_size(const Tensor& x) {
  const int64_t width = x.dim(-1), rows = x.numel() / width;
  RAEDIT_CHECK(rows <= std::numeric_limits<int>::max() && width <= std::numeric_limits<int>::max() / 2,
               {.code = ErrorCode::unsupported, .what = "too many rows", .where = "norm", .found = x.shape().str()});
  NormSize size;
  size.rows = static_cast<unsigned>(rows);
  size.tokens = static_cast<unsigned>(x.dim(1));
  size.heads = x.rank() == 4 ? static_cast<unsigned>(x.dim(2)) : 1;
  size.by_tokens = Divider(size.tokens);
  size.by_heads = Divider(size.heads);
  size.width = static_cast<int>(width);
  return size;
}

// ---- who holds what: pack p of a row belongs to thread p mod (threads of the row)

// group: threads of a warp that share a row, 0 for a whole block. items: packs that each thread keeps in registers, 0
// for rows that are read anew in each pass.
template <int group_size, int item_count>
struct NormLayout {
  static constexpr int group = group_size;
  static constexpr int items = item_count;
};

inline constexpr int kNormGroupThreads = 128;  // of a block, where it holds several rows

struct NormGrid {
  dim3 blocks;
  dim3 threads;
};

template <class Layout>
NormGrid norm_grid(const NormSize& size, Layout) {
  const int packs = static_cast<int>(ceil_div(size.width, kNormPack));
  if constexpr (Layout::group > 0) {
    return {dim3(static_cast<unsigned>(ceil_div(size.rows, kNormGroupThreads / Layout::group))),
            dim3(kNormGroupThreads)};
  } else if constexpr (Layout::items > 0) {
    return {dim3(size.rows), dim3(static_cast<unsigned>(ceil_div(ceil_div(packs, Layout::items), 32) * 32))};
  } else {
    return {dim3(size.rows), dim3(512)};
  }
}

// f(layout) with the layout for this width. Heads of 64, 72 and 128 keep three quarters of a warp's lanes busy or more,
// with 2 or 3 packs each: short rows are bound by instructions, not by bytes.
template <class F>
void with_norm_layout(int width, const F& f) {
  const int64_t packs = ceil_div(width, kNormPack);
  if (packs <= 4) return f(NormLayout<4, 1>{});
  if (packs <= 8) return f(NormLayout<4, 2>{});
  if (packs <= 12) return f(NormLayout<4, 3>{});
  if (packs <= 16) return f(NormLayout<8, 2>{});
  if (packs <= 32) return f(NormLayout<32, 1>{});
  if (packs <= 256) return f(NormLayout<0, 1>{});
  if (packs <= 1024) return f(NormLayout<0, 2>{});
  return f(NormLayout<0, 0>{});
}

// The row of a thread, and the first of its packs.
struct NormPlace {
  unsigned row, b, n, h;
  int first, step, packs;
  bool exists;  // or else it is the first row, to be read only

  __device__ int64_t offset(const NormOperand& operand) const {
    return b * operand.strides[0] + n * operand.strides[1] + h * operand.strides[2];
  }
};

template <class Layout>
__device__ inline NormPlace norm_place(const NormSize& size) {
  NormPlace place;
  if constexpr (Layout::group > 0) {
    place.row = blockIdx.x * (blockDim.x / Layout::group) + threadIdx.x / Layout::group;
    place.first = static_cast<int>(threadIdx.x % max(Layout::group, 1));
    place.step = Layout::group;
  } else {
    place.row = blockIdx.x;
    place.first = static_cast<int>(threadIdx.x);
    place.step = static_cast<int>(blockDim.x);
  }
  place.packs = (size.width + kNormPack - 1) / kNormPack;
  place.exists = place.row < size.rows;
  if (!place.exists) place.row = 0;
  const unsigned token = size.by_heads.quotient(place.row);
  place.h = place.row - token * size.heads;
  place.b = size.by_tokens.quotient(token);
  place.n = token - place.b * size.tokens;
  return place;
}

// f(pack, index of the pack among this thread's own, whether it is one of this thread's). Threads without a pack go
// along with the last one of the row, so that there are no branches around loads; they must not count or write.
template <class Layout, class F>
__device__ __forceinline__ void each_pack(const NormPlace& place, const F& f) {
  if constexpr (Layout::items > 0) {
#pragma unroll
    for (int i = 0; i < Layout::items; ++i) {
      const int pack = place.first + i * place.step;
      f(min(pack, place.packs - 1), i, place.exists && pack < place.packs);
    }
  } else {
    for (int pack = place.first; pack < place.packs; pack += place.step) f(pack, 0, true);
  }
}

template <class Layout>
inline constexpr int kNormKept = Layout::items > 0 ? Layout::items : 1;

// ---- sums over a row

// The sums of one row, in one fixed order. Every thread of the block calls, as often as every other.
template <class Layout>
class RowSum {
 public:
  static constexpr int kShared = Layout::group > 0 ? 1 : 64;

  // kShared floats, aligned to 16 bytes.
  __device__ explicit RowSum(float* shared) : shared_(shared) {}

  __device__ float operator()(float x) {
    constexpr int kLanes = Layout::group > 0 ? Layout::group : 32;
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    if constexpr (Layout::group > 0) return x;
    // Two halves in turn: a thread that is two sums ahead has seen, at the barrier between, that this half was read.
    float* const half = shared_ + 32 * turn_;
    turn_ ^= 1;
    if (threadIdx.x % 32 == 0) half[threadIdx.x / 32] = x;
    __syncthreads();
    const int warps = static_cast<int>(blockDim.x) / 32;
    float total = 0.0f;
    for (int warp = 0; warp < warps; warp += 4) {
      const auto four = *reinterpret_cast<const Pack<float, 4>*>(half + warp);
      total += four.at[0];
#pragma unroll
      for (int i = 1; i < 4; ++i) total += warp + i < warps ? four.at[i] : 0.0f;
    }
    return total;
  }

 private:
  float* shared_;
  int turn_ = 0;
};

__device__ __forceinline__ float tree_sum(const float (&v)[kNormPack]) {
  return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

// ---- packs

// Numbers [column, column + 8) of a row as they lie in memory: nothing waits for them until they are unpacked.
struct RawPack {
  unsigned at[kNormPack];  // aligned bfloat16: pairs in the first four; everything else: float32
};

// Of memory that no kernel writes meanwhile: such a load may overtake a store.
template <bool constant, class V>
__device__ __forceinline__ V fetch(const V* at) {
  if constexpr (constant) return __ldg(at);
  return *at;
}

// Zeros behind the end of a row of `width`. aligned: rows are aligned to 16 bytes and a multiple of 8 wide.
template <bool aligned, bool constant = false>
__device__ __forceinline__ RawPack fetch_pack(const std::byte* data, bool half, int64_t offset, int column, int width) {
  RawPack raw{};
  if constexpr (aligned) {
    const auto* const words = reinterpret_cast<const uint4*>(data + (offset + column) * (half ? 2 : 4));
    const uint4 low = fetch<constant>(words);
    raw.at[0] = low.x, raw.at[1] = low.y, raw.at[2] = low.z, raw.at[3] = low.w;
    if (!half) {
      const uint4 high = fetch<constant>(words + 1);
      raw.at[4] = high.x, raw.at[5] = high.y, raw.at[6] = high.z, raw.at[7] = high.w;
    }
  } else {
#pragma unroll
    for (int e = 0; e < kNormPack; ++e) {
      if (column + e >= width) continue;
      const int64_t at = offset + column + e;
      raw.at[e] = __float_as_uint(half ? to_float(reinterpret_cast<const bf16*>(data)[at])
                                       : reinterpret_cast<const float*>(data)[at]);
    }
  }
  return raw;
}

template <bool aligned>
__device__ __forceinline__ void unpack(const RawPack& raw, bool half, float (&v)[kNormPack]) {
  if (aligned && half) {
#pragma unroll
    for (int e = 0; e < kNormPack; e += 2) {
      v[e] = __uint_as_float(raw.at[e / 2] << 16);
      v[e + 1] = __uint_as_float(raw.at[e / 2] & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int e = 0; e < kNormPack; ++e) v[e] = __uint_as_float(raw.at[e]);
  }
}

template <bool aligned, bool constant = false>
__device__ __forceinline__ RawPack fetch_operand(const NormOperand& operand, const NormPlace& place, int pack,
                                                 int width) {
  return fetch_pack<aligned, constant>(operand.data, operand.half, place.offset(operand), pack * kNormPack, width);
}

// Of weight, bias, cosines and sines.
template <bool aligned>
__device__ __forceinline__ RawPack fetch_floats(const float* row, int pack, int width) {
  return fetch_pack<aligned, true>(reinterpret_cast<const std::byte*>(row), false, 0, pack * kNormPack, width);
}
__device__ __forceinline__ float float_at(const RawPack& raw, int e) {
  return __uint_as_float(raw.at[e]);
}

// Two neighbours in bfloat16, rounded like from_float, in one instruction.
__device__ __forceinline__ unsigned bf16_pair(float a, float b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const unsigned*>(&pair);
}
// Rounded to T.
template <class T>
__device__ __forceinline__ void round_pair(float& a, float& b) {
  if constexpr (sizeof(T) == 2) {
    const unsigned pair = bf16_pair(a, b);
    a = __uint_as_float(pair << 16);
    b = __uint_as_float(pair & 0xffff0000u);
  }
}

template <bool aligned, class T>
__device__ __forceinline__ void store_pack(T* row, int column, int width, const float (&v)[kNormPack]) {
  if constexpr (!aligned) {
#pragma unroll
    for (int e = 0; e < kNormPack; ++e)
      if (column + e < width) row[column + e] = from_float<T>(v[e]);
  } else if constexpr (sizeof(T) == 2) {
    *reinterpret_cast<uint4*>(row + column) =
        uint4{bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3]), bf16_pair(v[4], v[5]), bf16_pair(v[6], v[7])};
  } else {
    *reinterpret_cast<float4*>(row + column) = float4{v[0], v[1], v[2], v[3]};
    *reinterpret_cast<float4*>(row + column + 4) = float4{v[4], v[5], v[6], v[7]};
  }
}

// ---- moments

struct NormMoments {
  float mean;
  float rstd;  // 1 / sqrt(variance or mean square + eps)
};

// x - mean, 0 behind the end of the row. The mean of rms is 0.
template <bool aligned>
__device__ __forceinline__ void deviate(float (&v)[kNormPack], int pack, int width, bool layer, float mean) {
  if (layer) {
#pragma unroll
    for (int e = 0; e < kNormPack; ++e) v[e] = aligned || pack * kNormPack + e < width ? v[e] - mean : 0.0f;
  }
}

// The mean first, then the squared deviations from it, which is what is left in v. Where rows are not kept,
// refill(pack, v[0]) reads them again.
template <class Layout, bool aligned, class Refill>
__device__ __forceinline__ NormMoments norm_moments(const NormPlace& place, int width, bool layer, float eps,
                                                    float (&v)[kNormKept<Layout>][kNormPack], float own_sum,
                                                    RowSum<Layout>& row_sum, const Refill& refill) {
  const float count = static_cast<float>(width);
  const float mean = layer ? row_sum(own_sum) / count : 0.0f;
  float squares = 0.0f;
  each_pack<Layout>(place, [&](int pack, int i, bool own) {
    if constexpr (Layout::items == 0) refill(pack, v[0]);
    deviate<aligned>(v[i], pack, width, layer, mean);
    float even = 0.0f, odd = 0.0f;
#pragma unroll
    for (int e = 0; e < kNormPack; e += 2) {
      even = fmaf(v[i][e], v[i][e], even);
      odd = fmaf(v[i][e + 1], v[i][e + 1], odd);
    }
    squares += own ? even + odd : 0.0f;
  });
  const float variance = row_sum(squares) / count;
  return {mean, 1.0f / sqrtf(variance + eps)};
}

}  // namespace raedit::backend::cuda
