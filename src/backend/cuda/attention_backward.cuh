// The way back of attention through the tensor cores, first half: what its kernels take, and the kernel by queries (row
// statistics, dq, a bfloat16 copy of dout). attention_backward.cu has the rest and says how they go together.
#pragma once

#include <cfloat>

#include "backend/cuda/attention.cuh"
#include "backend/cuda/dispatch.h"

namespace raedit::backend::cuda {
namespace attention {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32;
constexpr int kRows = kWarps * 16;  // of a block, and of a tile that it goes over
constexpr int kChunk = 32;          // rows of that tile at a time
constexpr int kStages = 2;

// How many times 16 rows a warp of the first kernel has: what it reads of the keys then serves them all.
constexpr int tall(int width, bool exact) {
  return width <= 72 && !exact ? 2 : 1;
}

struct BackwardArgs {
  Rows q, k, v;
  RowsOf<float> dout;
  Rows half_dout;  // in its place
  bf16* copy;      // the parts of dout, each [B*H,N,copy_width]
  int64_t part;    // from one to the next
  float2* stats;   // [B*H,N]: log2 of the sum of exp(logits), and the mean of dp
  GradientView dq, dk, dv;
  int n, nk, heads, width, copy_width, tiles;
  float scale, logit_scale;  // the second * log2(e)
};

// target[16 rows from `row` on] += scale * c
template <int Width>
__device__ void add_gradient(const GradientView& g, int64_t b, int64_t h, float (&c)[Tile<Width>::kEights][4],
                             float scale, int row, int limit, int width) {
  const int lane = threadIdx.x % 32;
  row += lane / 4;
  const int column = lane % 4 * 2;
  const int64_t first = b * g.batch + h * g.head + row * g.row + column;
  const auto each_from = [&](auto* at, const auto& f) {
#pragma unroll
    for (int i = 0; i < Tile<Width>::kEights; ++i) {
#pragma unroll
      for (int r = 0; r < 2; ++r)
        if (row + 8 * r < limit && i * 8 + column < width)
          f(c[i][2 * r], c[i][2 * r + 1], at + 8 * r * g.row + i * 8, i * 8 + column + 1 < width);
    }
  };
  if (g.half) {
    each_from(reinterpret_cast<bf16*>(g.data) + first, [&](float x, float y, bf16* to, bool second) {
      if (g.pairs) {
        *reinterpret_cast<uint32_t*>(to) = pack_pair(x * scale, y * scale);
      } else {
        to[0] = from_float<bf16>(x * scale);
        if (second) to[1] = from_float<bf16>(y * scale);
      }
    });
    return;
  }
  const auto each = [&](const auto& f) { each_from(g.data + first, f); };
  // All loads before the first store, so that they travel together.
  each([&](float& x, float& y, const float* from, bool second) {
    if (g.pairs) {
      const float2 old = *reinterpret_cast<const float2*>(from);
      x = fmaf(x, scale, old.x), y = fmaf(y, scale, old.y);
    } else {
      x = fmaf(x, scale, from[0]);
      if (second) y = fmaf(y, scale, from[1]);
    }
  });
  each([&](float& x, float& y, float* to, bool second) {
    if (g.pairs) {
      *reinterpret_cast<float2*>(to) = make_float2(x, y);
    } else {
      to[0] = x;
      if (second) to[1] = y;
    }
  });
}

// ---- by queries

__device__ inline void load_eight(float (&x)[8], const float* from, bool aligned, int columns) {
  if (aligned) {
    *reinterpret_cast<float4*>(x) = *reinterpret_cast<const float4*>(from);
    *reinterpret_cast<float4*>(x + 4) = *reinterpret_cast<const float4*>(from + 4);
  } else {
#pragma unroll
    for (int e = 0; e < 8; ++e)
      if (e < columns) x[e] = from[e];
  }
}

__device__ inline void load_eight(float (&x)[8], const bf16* from, bool aligned, int columns) {
  if (aligned) {
    const auto pack = *reinterpret_cast<const Pack<bf16, 8>*>(from);
#pragma unroll
    for (int e = 0; e < 8; ++e) x[e] = to_float(pack.at[e]);
  } else {
#pragma unroll
    for (int e = 0; e < 8; ++e)
      if (e < columns) x[e] = to_float(from[e]);
  }
}

// A tile of dout in its parts, one after the other, here and in memory for the other kernel.
template <int Width, int Parts, int Rows>
__device__ void load_dout(bf16* tile, const BackwardArgs& a, int64_t b, int64_t h, int first) {
  constexpr int kPieces = Tile<Width>::kColumns / 8;
  const float* const source = a.dout.of(b, h);
  const bf16* const half = a.half_dout.data != nullptr ? a.half_dout.of(b, h) : nullptr;
  for (int i = static_cast<int>(threadIdx.x); i < Rows * kPieces; i += kThreads) {
    const int row = i / kPieces, column = i % kPieces * 8;
    const bool inside = first + row < a.n && column < a.width;
    alignas(16) float x[8] = {};
    if (inside && half != nullptr)
      load_eight(x, half + (first + row) * a.half_dout.row + column, a.half_dout.aligned, a.width - column);
    else if (inside)
      load_eight(x, source + (first + row) * a.dout.row + column, a.dout.aligned, a.width - column);
    bf16* const to = tile + row * Tile<Width>::kPitch + column;
    bf16* const copy = a.copy + ((b * a.heads + h) * a.n + first + row) * a.copy_width + column;
#pragma unroll
    for (int part = 0; part < Parts; ++part) {
      const uint4 piece = {pack_pair(x[0], x[1]), pack_pair(x[2], x[3]), pack_pair(x[4], x[5]), pack_pair(x[6], x[7])};
      *reinterpret_cast<uint4*>(to + part * Rows * Tile<Width>::kPitch) = piece;
      if (inside && a.copy != nullptr) *reinterpret_cast<uint4*>(copy + part * a.part) = piece;
      keep_remainders(x);
    }
  }
}

// The queries of a warp, `Tall` times 16; max, sum, mean and log_sum for the thread's two of each.
template <int Width, bool Exact, int Tall>
struct QueryRows {
  static constexpr int kParts = parts_of(Exact), kSome = kChunk / Tall;
  LeftRows<Width, true> q[Tall];
  LeftRows<Width, !Exact> dout[kParts][Tall];
  float max[Tall][2], sum[Tall][2], mean[Tall][2];  // of the thread's own columns at first
  float log_sum[Tall][2];
  float dq[Tall][Tile<Width>::kEights][4];

  __device__ QueryRows() {
#pragma unroll
    for (int t = 0; t < Tall; ++t) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        max[t][r] = -FLT_MAX;  // not infinity: a thread may see no key at all
        sum[t][r] = mean[t][r] = 0.0f;
      }
    }
  }

  // q k^T and dp of some keys.
  template <bool Whole, int Eights>
  __device__ void scores(float (&s)[Tall][Eights][4], float (&dp)[Tall][Eights][4], const bf16* k, const bf16* v,
                         int live) const {
    clear(s);
    clear(dp);
    multiply_rows<Width, true>(s, q, k, live);
#pragma unroll
    for (int part = 0; part < kParts; ++part) multiply_rows<Width, true>(dp, dout[part], v, live);
#pragma unroll
    for (int t = 0; t < Tall; ++t)
      if (!Whole) mask(s[t], live);
  }

  template <bool Whole>
  __device__ void measure(const bf16* k, const bf16* v, float scale, int live) {
    float s[Tall][kChunk / 8][4], dp[Tall][kChunk / 8][4];
    scores<Whole>(s, dp, k, v, live);
#pragma unroll
    for (int t = 0; t < Tall; ++t) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float largest = fmaxf(max[t][r], largest_of(s[t], r) * scale);
        const float by = exp2_fast(max[t][r] - largest);
        max[t][r] = largest;
        sum[t][r] *= by;
        mean[t][r] *= by;
#pragma unroll
        for (int i = 0; i < kChunk / 8; ++i) {
#pragma unroll
          for (int e = 2 * r; e < 2 * r + 2; ++e) {
            const float p = exp2_fast(fmaf(s[t][i][e], scale, -largest));
            sum[t][r] += p;
            mean[t][r] = fmaf(p, dp[t][i][e], mean[t][r]);
          }
        }
      }
    }
  }

  __device__ void finish_measuring() {
#pragma unroll
    for (int t = 0; t < Tall; ++t) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float largest = row_max(max[t][r]), by = exp2_fast(max[t][r] - largest);
        const float total = row_sum(sum[t][r] * by);
        mean[t][r] = row_sum(mean[t][r] * by) / total;
        log_sum[t][r] = largest + log2f(total);
      }
    }
    clear(dq);
  }

  template <bool Whole>
  __device__ void add(const bf16* k, const bf16* v, float scale, int live) {
    float s[Tall][kSome / 8][4], dp[Tall][kSome / 8][4];
    scores<Whole>(s, dp, k, v, live);
#pragma unroll
    for (int t = 0; t < Tall; ++t)
#pragma unroll
      for (int i = 0; i < kSome / 8; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          s[t][i][e] = exp2_fast(fmaf(s[t][i][e], scale, -log_sum[t][e / 2])) * (dp[t][i][e] - mean[t][e / 2]);
#pragma unroll
    for (int step = 0; step < kSome / 16; ++step) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        uint32_t ds[Tall][4];
#pragma unroll
        for (int t = 0; t < Tall; ++t) {
          as_left(ds[t], s[t][2 * step], s[t][2 * step + 1]);
          keep_remainders(s[t][2 * step]);
          keep_remainders(s[t][2 * step + 1]);
        }
        multiply_columns<Width>(dq, ds, k + step * 16 * Tile<Width>::kPitch);
      }
    }
  }

  __device__ void measure_tile(const bf16* k, const bf16* v, float scale, int keys) {
#pragma unroll 1
    for (int first = 0; first < min(keys, kRows); first += kChunk) {
      const int at = first * Tile<Width>::kPitch, live = keys - first;
      live >= kChunk ? measure<true>(k + at, v + at, scale, live) : measure<false>(k + at, v + at, scale, live);
    }
  }
  __device__ void add_tile(const bf16* k, const bf16* v, float scale, int keys) {
#pragma unroll 1
    for (int first = 0; first < min(keys, kRows); first += kSome) {
      const int at = first * Tile<Width>::kPitch, live = keys - first;
      live >= kSome ? add<true>(k + at, v + at, scale, live) : add<false>(k + at, v + at, scale, live);
    }
  }

  __device__ void store_stats(float2* stats, int rows) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < Tall; ++t) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = 16 * t + lane / 4 + 8 * r;
        if (lane % 4 == 0 && row < rows) stats[row] = make_float2(log_sum[t][r], mean[t][r]);
      }
    }
  }
};

template <int Width, bool Exact>
constexpr size_t queries_shared() {
  return sizeof(bf16) * Tile<Width>::kPitch * kRows * (tall(Width, Exact) * (1 + parts_of(Exact)) + kStages * 2);
}

template <int Width>
__device__ void load_keys(bf16* stage, const BackwardArgs& a, const bf16* k, const bf16* v, int first) {
  load_tile<Width, kThreads>(stage, k, a.k.row, a.k.aligned, first, a.nk, kRows, a.width);
  load_tile<Width, kThreads>(stage + kRows * Tile<Width>::kPitch, v, a.v.row, a.v.aligned, first, a.nk, kRows, a.width);
}

template <int Width, bool Exact>
__global__ void __launch_bounds__(kThreads, 2) queries_kernel(const __grid_constant__ BackwardArgs a) {
  constexpr int kTall = tall(Width, Exact), kBlockRows = kRows * kTall, kPitch = Tile<Width>::kPitch;
  constexpr int kTile = kRows * kPitch, kStage = 2 * kTile, kParts = parts_of(Exact);
  extern __shared__ uint4 shared[];
  bf16* const queries = reinterpret_cast<bf16*>(shared);
  bf16 *const douts = queries + kTall * kTile, *const stages = douts + kParts * kTall * kTile;
  const int64_t item = blockIdx.x / a.tiles, b = item / a.heads, h = item % a.heads;
  const int first = static_cast<int>(blockIdx.x % a.tiles) * kBlockRows, warp_rows = threadIdx.x / 32 * 16 * kTall;
  const bf16 *k = a.k.of(b, h), *v = a.v.of(b, h);
  const int tiles = (a.nk + kRows - 1) / kRows, count = a.dq.data != nullptr ? 2 * tiles : tiles;

  load_tile<Width, kThreads>(queries, a.q.of(b, h), a.q.row, a.q.aligned, first, a.n, kBlockRows, a.width);
  for (int i = 0; i < kStages; ++i) {
    if (i < count) load_keys<Width>(stages + i * kStage, a, k, v, i % tiles * kRows);
    commit_copies();
  }
  load_dout<Width, kParts, kBlockRows>(douts, a, b, h, first);
  QueryRows<Width, Exact, kTall> rows;
  for (int i = 0; i < count; ++i) {
    bf16* const stage = stages + i % kStages * kStage;
    wait_copies<kStages - 1>();
    __syncthreads();
    if (i == 0) {
#pragma unroll
      for (int t = 0; t < kTall; ++t) {
        rows.q[t].load(queries + (warp_rows + 16 * t) * kPitch);
#pragma unroll
        for (int part = 0; part < kParts; ++part)
          rows.dout[part][t].load(douts + part * kTall * kTile + (warp_rows + 16 * t) * kPitch);
      }
    }
    if (i == tiles) rows.finish_measuring();
    const int live = a.nk - i % tiles * kRows;
    if (i < tiles)
      rows.measure_tile(stage, stage + kTile, a.logit_scale, live);
    else
      rows.add_tile(stage, stage + kTile, a.logit_scale, live);
    __syncthreads();
    if (i + kStages < count) load_keys<Width>(stage, a, k, v, (i + kStages) % tiles * kRows);
    commit_copies();
  }
  if (count == tiles) rows.finish_measuring();
  if (a.copy != nullptr) rows.store_stats(a.stats + item * a.n + first + warp_rows, a.n - first - warp_rows);
  if (count == tiles) return;
#pragma unroll
  for (int t = 0; t < kTall; ++t)
    add_gradient<Width>(a.dq, b, h, rows.dq[t], a.scale, first + warp_rows + 16 * t, a.n, a.width);
}

}  // namespace
}  // namespace attention
}  // namespace raedit::backend::cuda
