// What attention sends back, for bfloat16 on tensor cores. p = softmax(s), dp = do v^T, ds = p * (dp - sum_j p_j dp_j):
// dv = p^T do, dk = ds^T q * scale, dq = ds k * scale. Two kernels, each the only writer of what it adds to: the first
// goes over the keys of some queries twice (maximum, sum and mean of dp; then dq) and leaves the numbers of each row to
// the second, which goes over the queries of some keys. After Dao, "FlashAttention-2",
// https://arxiv.org/abs/2307.08691.
#include <cfloat>

#include "backend/cuda/attention.cuh"
#include "backend/cuda/cuda_kernels.h"
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

// ---- by keys

// 16 keys of a warp.
template <int Width, bool Exact>
struct KeyRows {
  static constexpr bool kHeld = Width <= 72;  // there are not registers enough for more
  LeftRows<Width, kHeld> k[1], v[1];
  float dk[1][Tile<Width>::kEights][4], dv[1][Tile<Width>::kEights][4];

  // A chunk of queries; the parts of dout are kTile apart.
  __device__ void add(const bf16* q, const bf16* dout, const float2* stats, float scale) {
    constexpr int kParts = parts_of(Exact), kPitch = Tile<Width>::kPitch, kTile = kRows * kPitch;
    float products[1][kChunk / 8][4], dps[1][kChunk / 8][4];
    clear(products);
    clear(dps);
    multiply_rows<Width, true>(products, k, q, kChunk);
#pragma unroll
    for (int part = 0; part < kParts; ++part) multiply_rows<Width, true>(dps, v, dout + part * kTile, kChunk);
    auto &s = products[0], &dp = dps[0];
#pragma unroll
    for (int i = 0; i < kChunk / 8; ++i) {
      const float4 two = *reinterpret_cast<const float4*>(stats + i * 8 + threadIdx.x % 4 * 2);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[i][e] = exp2_fast(fmaf(s[i][e], scale, -(e % 2 == 0 ? two.x : two.z)));
        dp[i][e] = s[i][e] * (dp[i][e] - (e % 2 == 0 ? two.y : two.w));
      }
    }
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step) {
#pragma unroll 1
      for (int part = 0; part < kParts; ++part) {
        uint32_t left[1][4];
        as_left(left[0], s[2 * step], s[2 * step + 1]);
#pragma unroll
        for (int other = 0; other < kParts - part; ++other)
          multiply_columns<Width>(dv, left, dout + other * kTile + step * 16 * kPitch);
        as_left(left[0], dp[2 * step], dp[2 * step + 1]);
        multiply_columns<Width>(dk, left, q + step * 16 * kPitch);
#pragma unroll
        for (int i = 2 * step; i < 2 * step + 2; ++i) {
          keep_remainders(s[i]);
          keep_remainders(dp[i]);
        }
      }
    }
  }
};

// A stage: queries, the parts of dout, and the numbers of the rows.
template <int Width, int Parts>
struct QueryStage {
  static constexpr int kTile = kRows * Tile<Width>::kPitch;
  static constexpr size_t kBytes = sizeof(bf16) * kTile * (1 + Parts) + sizeof(float2) * kRows;
  std::byte* at;

  __device__ bf16* q() const { return reinterpret_cast<bf16*>(at); }
  __device__ bf16* dout() const { return q() + kTile; }
  __device__ float2* stats() const { return reinterpret_cast<float2*>(dout() + Parts * kTile); }

  __device__ void load(const BackwardArgs& a, const bf16* queries, int64_t item, int first) const {
    load_tile<Width, kThreads>(q(), queries, a.q.row, a.q.aligned, first, a.n, kRows, a.width);
#pragma unroll
    for (int part = 0; part < Parts; ++part)
      load_tile<Width, kThreads>(dout() + part * kTile, a.copy + part * a.part + item * a.n * a.copy_width,
                                 a.copy_width, true, first, a.n, kRows, a.copy_width);
    // A row that is not there has probability 0.
    if (threadIdx.x < kRows) {
      const int row = first + static_cast<int>(threadIdx.x);
      stats()[threadIdx.x] = row < a.n ? a.stats[item * a.n + row] : make_float2(INFINITY, 0.0f);
    }
  }
};

template <int Width, bool Exact>
constexpr size_t keys_shared() {
  return 2 * sizeof(bf16) * kRows * Tile<Width>::kPitch + kStages * QueryStage<Width, parts_of(Exact)>::kBytes;
}

template <int Width, bool Exact>
__global__ void __launch_bounds__(kThreads, 2) keys_kernel(const __grid_constant__ BackwardArgs a) {
  constexpr int kTile = kRows * Tile<Width>::kPitch;
  using Stage = QueryStage<Width, parts_of(Exact)>;
  extern __shared__ uint4 shared[];
  bf16* const keys = reinterpret_cast<bf16*>(shared);
  std::byte* const stages = reinterpret_cast<std::byte*>(keys + 2 * kTile);
  const int64_t item = blockIdx.x / a.tiles, b = item / a.heads, h = item % a.heads;
  const int first = static_cast<int>(blockIdx.x % a.tiles) * kRows, warp_rows = threadIdx.x / 32 * 16;
  const bf16* const queries = a.q.of(b, h);
  const int count = (a.n + kRows - 1) / kRows;

  load_keys<Width>(keys, a, a.k.of(b, h), a.v.of(b, h), first);
  for (int i = 0; i < kStages; ++i) {
    if (i < count) Stage{stages + i * Stage::kBytes}.load(a, queries, item, i * kRows);
    commit_copies();
  }
  KeyRows<Width, Exact> rows;
  clear(rows.dk);
  clear(rows.dv);
  for (int i = 0; i < count; ++i) {
    const Stage stage{stages + i % kStages * Stage::kBytes};
    wait_copies<kStages - 1>();
    __syncthreads();
    if (i == 0) {
      rows.k[0].load(keys + warp_rows * Tile<Width>::kPitch);
      rows.v[0].load(keys + kTile + warp_rows * Tile<Width>::kPitch);
    }
#pragma unroll 1
    for (int chunk = 0; chunk < min(a.n - i * kRows, kRows); chunk += kChunk) {
      const int at = chunk * Tile<Width>::kPitch;
      rows.add(stage.q() + at, stage.dout() + at, stage.stats() + chunk, a.logit_scale);
    }
    __syncthreads();
    if (i + kStages < count) stage.load(a, queries, item, (i + kStages) * kRows);
    commit_copies();
  }
  if (a.dk.data != nullptr) add_gradient<Width>(a.dk, b, h, rows.dk[0], a.scale, first + warp_rows, a.nk, a.width);
  if (a.dv.data != nullptr) add_gradient<Width>(a.dv, b, h, rows.dv[0], 1.0f, first + warp_rows, a.nk, a.width);
}

template <int Width, bool Exact>
void run_backward(const Runtime& rt, BackwardArgs args, int64_t heads) {
  constexpr size_t kQueries = queries_shared<Width, Exact>(), kKeys = keys_shared<Width, Exact>();
  args.tiles = static_cast<int>(ceil_div(args.n, kRows * tall(Width, Exact)));
  allow_shared_memory(queries_kernel<Width, Exact>, kQueries, "attention_backward, queries");
  launch(rt, "attention_backward, queries", queries_kernel<Width, Exact>,
         dim3(static_cast<unsigned>(heads * args.tiles)), dim3(kThreads), kQueries, args);
  if (args.dk.data == nullptr && args.dv.data == nullptr) return;
  args.tiles = static_cast<int>(ceil_div(args.nk, kRows));
  allow_shared_memory(keys_kernel<Width, Exact>, kKeys, "attention_backward, keys");
  launch(rt, "attention_backward, keys", keys_kernel<Width, Exact>, dim3(static_cast<unsigned>(heads * args.tiles)),
         dim3(kThreads), kKeys, args);
}

template <int Width>
void run_backward(const Runtime& rt, const BackwardArgs& args, int64_t heads) {
  if (is_exact(args.nk, args.width))
    run_backward<Width, true>(rt, args, heads);
  else
    run_backward<Width, false>(rt, args, heads);
}

template <class T>
RowsOf<T> rows_of(const Tensor& t) {
  return {pointer<const T>(t), t.stride(0), t.stride(1), t.stride(2), rows_aligned(t) && t.dim(3) % 8 == 0};
}

// Cuts memory into pieces that begin on 256 bytes; counts only where there is none.
struct Cutter {
  std::byte* memory = nullptr;
  size_t used = 0;

  template <class T>
  T* take(int64_t count) {
    std::byte* const piece = memory == nullptr ? nullptr : memory + used;
    used += static_cast<size_t>(ceil_div(count * static_cast<int64_t>(sizeof(T)), 256) * 256);
    return reinterpret_cast<T*>(piece);
  }
};

// What the first kernel leaves to the second.
void cut_rows(Cutter& cutter, BackwardArgs& args, int64_t rows) {
  args.stats = cutter.take<float2>(rows);
  args.part = rows * args.copy_width;
  args.copy = cutter.take<bf16>(args.part * parts_of(is_exact(args.nk, args.width)));
}

// ---- gradients of broadcast operands

// Several elements are one (stride 0): the kernels add to a buffer, and the buffer is folded afterwards.
bool is_folded(const Tensor& g) {
  if (!g.defined()) return false;
  for (int i = 0; i < 4; ++i)
    if (g.dim(i) > 1 && g.stride(i) == 0) return true;
  return g.dim(3) > 1 && g.stride(3) != 1;
}

struct Fold {
  int64_t kept[4], summed[4], from[4], to[4];  // sizes, strides
  int64_t count;
};

__global__ void fold_kernel(const float* source, float* target, Fold fold) {
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= fold.count) return;
  int64_t rest = at;
  for (int i = 3; i >= 0; --i) {
    source += rest % fold.kept[i] * fold.from[i];
    target += rest % fold.kept[i] * fold.to[i];
    rest /= fold.kept[i];
  }
  float sum = 0.0f;
  for (int64_t i = 0; i < fold.summed[0]; ++i)
    for (int64_t j = 0; j < fold.summed[1]; ++j)
      for (int64_t k = 0; k < fold.summed[2]; ++k)
        for (int64_t l = 0; l < fold.summed[3]; ++l)
          sum += source[i * fold.from[0] + j * fold.from[1] + k * fold.from[2] + l * fold.from[3]];
  *target += sum;
}

void fold_into(const Runtime& rt, const float* source, const Tensor& g) {
  Fold fold{};
  fold.count = 1;
  int64_t step = 1;
  for (int i = 3; i >= 0; --i) {
    const bool one = g.stride(i) == 0;
    fold.kept[i] = one ? 1 : g.dim(i);
    fold.summed[i] = one ? g.dim(i) : 1;
    fold.from[i] = step;
    fold.to[i] = g.stride(i);
    fold.count *= fold.kept[i];
    step *= g.dim(i);
  }
  launch(rt, "attention_backward, fold", fold_kernel, dim3(static_cast<unsigned>(ceil_div(fold.count, 256))), dim3(256),
         0, source, pointer<float>(g), fold);
}

GradientView view_of(const Tensor& g, float* buffer) {
  if (!g.defined()) return {};
  const int64_t n = g.dim(1), heads = g.dim(2), width = g.dim(3);
  GradientView view{pointer<float>(g), g.stride(0), g.stride(1), g.stride(2)};
  if (is_folded(g)) view = {buffer, n * heads * width, heads * width, width};
  view.half = g.dtype() == DType::bfloat16;
  view.pairs = reinterpret_cast<uintptr_t>(view.data) % (2 * size_of(g.dtype())) == 0 && view.batch % 2 == 0 &&
               view.row % 2 == 0 && view.head % 2 == 0 && width % 2 == 0;
  return view;
}

void run_tensor_cores(const Runtime& rt, const BackwardArgs& args, int64_t heads) {
  if (args.width <= 32)
    run_backward<32>(rt, args, heads);
  else if (args.width <= 64)
    run_backward<64>(rt, args, heads);
  else if (args.width <= 72)
    run_backward<72>(rt, args, heads);
  else
    run_backward<128>(rt, args, heads);
}

bool on_tensor_cores(const Tensor& q, const Tensor& k, const Tensor& v, float scale) {
  const auto is_bf16 = [](const Tensor& t) { return t.dtype() == DType::bfloat16; };
  return scale > 0.0f && is_bf16(q) && is_bf16(k) && is_bf16(v) && q.dim(3) <= kWidest;
}

BackwardArgs backward_args(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, float scale) {
  BackwardArgs args{};
  args.q = rows_of<bf16>(q), args.k = rows_of<bf16>(k), args.v = rows_of<bf16>(v);
  if (dout.dtype() == DType::bfloat16)
    args.half_dout = rows_of<bf16>(dout);
  else
    args.dout = rows_of<float>(dout);
  args.n = static_cast<int>(q.dim(1)), args.nk = static_cast<int>(k.dim(1));
  args.heads = static_cast<int>(q.dim(2)), args.width = static_cast<int>(q.dim(3));
  args.copy_width = static_cast<int>(ceil_div(args.width, 8) * 8);
  args.scale = scale, args.logit_scale = scale * kLog2e;
  return args;
}

}  // namespace
}  // namespace attention

void CudaKernels::attention_backward_into(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                          float scale, const Gradient& dq, const Gradient& dk,
                                          const Gradient& dv) const {
  using namespace cuda::attention;
  bool direct = on_tensor_cores(q, k, v, scale);
  for (const Gradient* g : {&dq, &dk, &dv}) {
    if (!g->wanted()) continue;
    const bool written = g->fresh && g->at.dtype() == DType::bfloat16 && !is_folded(g->at);
    direct = direct && (written || !g->fresh);
  }
  if (!direct) return Kernels::attention_backward_into(dout, q, k, v, scale, dq, dk, dv);
  attention_backward(dout, q, k, v, scale, dq.at, dk.at, dv.at);
}

// On tensor cores dout may be bfloat16, and gradients that are bfloat16 are written.
void CudaKernels::attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                                     const Tensor& dq, const Tensor& dk, const Tensor& dv) const {
  using namespace cuda::attention;
  if (q.numel() == 0 || k.numel() == 0 || !(dq.defined() || dk.defined() || dv.defined())) return;
  const bool tensor_cores = on_tensor_cores(q, k, v, scale);
  const Tensor* const gradients[3] = {&dq, &dk, &dv};
  BackwardArgs args{};
  if (tensor_cores) args = backward_args(dout, q, k, v, scale);
  float* buffers[3] = {};
  std::byte* plain = nullptr;
  // The first time counts the bytes, the second hands them out.
  const auto cut = [&](Cutter cutter) {
    for (int i = 0; i < 3; ++i)
      if (is_folded(*gradients[i])) buffers[i] = cutter.take<float>(gradients[i]->numel());
    args.dq = view_of(dq, buffers[0]), args.dk = view_of(dk, buffers[1]), args.dv = view_of(dv, buffers[2]);
    if (tensor_cores && (dk.defined() || dv.defined()))
      cut_rows(cutter, args, q.dim(0) * q.dim(2) * q.dim(1));
    else if (!tensor_cores)
      plain = cutter.take<std::byte>(static_cast<int64_t>(plain_backward_bytes(q, k)));
    return cutter.used;
  };
  const size_t bytes = cut({});
  cut({rt_.workspace(bytes), 0});
  for (int i = 0; i < 3; ++i)
    if (buffers[i] != nullptr)
      check(cudaMemsetAsync(buffers[i], 0, gradients[i]->nbytes(), rt_.stream()), "attention_backward, buffer");
  if (tensor_cores)
    run_tensor_cores(rt_, args, q.dim(0) * q.dim(2));
  else
    attention_backward_plain(rt_, dout, q, k, v, scale, args.dq, args.dk, args.dv, plain);
  for (int i = 0; i < 3; ++i)
    if (buffers[i] != nullptr) fold_into(rt_, buffers[i], *gradients[i]);
}

}  // namespace raedit::backend::cuda
