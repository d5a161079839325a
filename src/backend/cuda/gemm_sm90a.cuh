// The kernel of gemm_sm90a: one warp asks the copy engine (TMA) for tiles of x and w into a ring of shared-memory
// stages, warpgroups multiply them (wgmma) and finish the sums in registers. Blocks of a cluster share what they read
// of w (multicast), or share a tile along k and sum through each other's shared memory. Source: PTX ISA 8.x, chapters
// wgmma, cp.async.bulk.tensor, mbarrier, griddepcontrol.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include "backend/cuda/gemm_sm90a.h"
#include "backend/cuda/gemm_sm90a_ptx.cuh"

namespace raedit::backend::cuda::sm90a {

using bf16 = __nv_bfloat16;

constexpr int kBlockK = 64;                     // one 128-byte swizzled row of bfloat16
constexpr int kRowBytes = kBlockK * 2;          // of a stage
constexpr int kRasterClusters = 8;              // clusters of tiles, one above the other, before the next columns
constexpr uint64_t kKeep = 0x1000000000000000;  // L2 policies as createpolicy makes them: evict_normal,
constexpr uint64_t kOnce = 0x12F0000000000000;  // evict_first

// What the kernel is told. The maps come first: they are aligned to 64 bytes.
struct Params {
  CUtensorMap x;
  CUtensorMap w[2];  // w, w_gate
  int m, n, k_blocks;
  int tiles_n, clusters_m;
  int tokens;
  bool overlap, w_shuffled, out_vectors, residual_vectors, gate_vectors;
  uint64_t w_policy;
  const float* bias[2];
  bf16* out;
  int64_t ldo;
  const bf16* residual;
  int64_t ldr;
  const bf16* gate;
  int64_t gate_batch, gate_row;
};

// A block has kGroups warpgroups that multiply, each kRows x 64 rows by kN columns. In turns (kTurns), each has a tile
// of its own and finishes it while the other multiplies; otherwise they stand one above the other in one tile.
template <int kGroups_, int kRows_, int kN_, int kStages_, int kMulticast_, int kSplit_, bool kTurns_>
struct Shape {
  static constexpr int kGroups = kGroups_, kRows = kRows_, kN = kN_, kStages = kStages_;
  static constexpr int kMulticast = kMulticast_, kSplit = kSplit_;
  static constexpr bool kTurns = kTurns_;
  static constexpr int kCluster = kMulticast * kSplit;
  static constexpr int kTileM = 64 * kRows * (kTurns ? 1 : kGroups);
  static constexpr int kABytes = kTileM * kRowBytes, kBBytes = kN * kRowBytes;
  static constexpr int kStageBytes = kABytes + kBBytes;
  static constexpr int kParts = kMulticast < 2 ? 2 : kMulticast;  // boxes of w per stage
  static constexpr int kPartRows = kN / kParts;
  static constexpr int kSums = kRows * kN / 2;  // accumulators per thread
  // Two warpgroups and a warp get 168 registers a thread; more moves over from a warpgroup that only loads.
  static constexpr bool kMoveRegisters = kGroups == 2 && kSums > 64;
  static constexpr int kThreads = kGroups * 128 + (kMoveRegisters ? 128 : 32);
  static constexpr int kBiasBytes = kGroups * kN * 4;
  static constexpr int kSharedBytes = 1024 + kStages * kStageBytes + kBiasBytes + 2 * kStages * 8;
  static constexpr int kBlocksPerSm = kSharedBytes <= 113 * 1024 && kSums <= 64 ? 2 : 1;
  static_assert(kPartRows % 32 == 0 && kTileM <= 256 && kPartRows <= 256 && kSharedBytes <= 232448);
  static_assert(kSplit == 1 || (!kTurns && kSums * 4 * kGroups * 128 <= kStages * kStageBytes));
  static_assert(!kTurns || kGroups == 2);
};

// ---- the way through the problem

// The stages in turn; phase is the parity that a wait for `full` expects.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void skip(int steps) {
    stage += steps;
    phase ^= static_cast<uint32_t>(stage / kStages) & 1;
    stage %= kStages;
  }
  __device__ void next() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

struct Place {
  int m;  // first row
  int n;  // first column of out
};

// Everything that a thread knows about where it is.
template <class S, Epilogue kEpilogue>
struct Block {
  uint32_t stages;    // shared addresses
  uint32_t barriers;  // full, then empty
  float* bias;
  int rank;         // among those that share w
  int split;        // among those that share k
  int first, step;  // tiles of clusters
  int tiles;
  int k_begin, k_blocks;

  __device__ uint32_t full(int stage) const { return barriers + stage * 8; }
  __device__ uint32_t empty(int stage) const { return barriers + (S::kStages + stage) * 8; }
  __device__ uint32_t a(int stage) const { return stages + stage * S::kStageBytes; }
  __device__ uint32_t b(int stage) const { return a(stage) + S::kABytes; }

  static constexpr int kColumns = kEpilogue == Epilogue::swiglu ? S::kN / 2 : S::kN;

  __device__ Block(const Params& p, char* shared) {
    char* base = shared + (1024 - shared_address(shared) % 1024) % 1024;
    stages = shared_address(base);
    bias = reinterpret_cast<float*>(base + S::kStages * S::kStageBytes);
    barriers = stages + S::kStages * S::kStageBytes + S::kBiasBytes;
    const int in_cluster = S::kCluster == 1 ? 0 : cluster_rank();
    rank = in_cluster % S::kMulticast;
    split = in_cluster / S::kMulticast;
    first = blockIdx.x / S::kCluster;
    step = gridDim.x / S::kCluster;
    tiles = p.tiles_n * p.clusters_m;
    k_begin = split * p.k_blocks / S::kSplit;
    k_blocks = (split + 1) * p.k_blocks / S::kSplit - k_begin;
  }

  // kRasterClusters clusters one above the other, then the next columns, so that what runs at one time reads few
  // different rows of x and of w.
  __device__ Place place(const Params& p, int tile) const {
    const int band = tile / (kRasterClusters * p.tiles_n);
    const int height = min(kRasterClusters, p.clusters_m - band * kRasterClusters);
    const int inside = tile - band * kRasterClusters * p.tiles_n;
    const int cluster_m = band * kRasterClusters + inside % height;
    return {(cluster_m * S::kMulticast + rank) * S::kTileM, inside / height * kColumns};
  }
};

// ---- the warp that loads: one thread of it

template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void load_w(const Params& p, const Block<S, kEpilogue>& block, Place at, int k, int stage) {
  const uint16_t blocks = ((1 << S::kMulticast) - 1) << (block.split * S::kMulticast);
  for (int part = block.rank; part < S::kParts; part += S::kMulticast) {
    constexpr bool kTwo = kEpilogue == Epilogue::swiglu;
    constexpr int kPerMatrix = kTwo ? S::kParts / 2 : S::kParts;
    const CUtensorMap* map = &p.w[kTwo ? part / kPerMatrix : 0];
    const int row = at.n + part % kPerMatrix * S::kPartRows;
    const uint32_t to = block.b(stage) + part * S::kPartRows * kRowBytes;
    if (p.w_shuffled) {
      if constexpr (S::kMulticast > 1)
        load_2d_for_all(to, map, k, row, block.full(stage), p.w_policy, blocks);
      else
        load_2d(to, map, k, row, block.full(stage), p.w_policy);
    } else {
      if constexpr (S::kMulticast > 1)
        load_5d_for_all(to, map, k, row / 32, block.full(stage), p.w_policy, blocks);
      else
        load_5d(to, map, k, row / 32, block.full(stage), p.w_policy);
    }
  }
}

// What comes after the first stages, into the second-level cache.
template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void prefetch_w(const Params& p, const Block<S, kEpilogue>& block, Place at, int begin) {
  constexpr int kPerMatrix = kEpilogue == Epilogue::swiglu ? S::kParts / 2 : S::kParts;
  for (int part = block.rank; part < S::kParts; part += S::kMulticast) {
    const CUtensorMap* map = &p.w[part / kPerMatrix];
    const int row = at.n + part % kPerMatrix * S::kPartRows;
    for (int i = begin; i < block.k_blocks; ++i) {
      if (p.w_shuffled)
        prefetch_2d(map, (block.k_begin + i) * kBlockK, row);
      else
        prefetch_5d(map, (block.k_begin + i) * kBlockK, row / 32);
    }
  }
}

template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void load_all(const Params& p, const Block<S, kEpilogue>& block) {
  Ring<S::kStages> ring;
  bool waited = false;
  for (int tile = block.first; tile < block.tiles; tile += block.step) {
    const Place at = block.place(p, tile);
    int begin = 0;
    if (!waited) {  // the first stages are free, and the weights are there before what the former kernel makes
      begin = min(S::kStages, block.k_blocks);
      for (int i = 0; i < begin; ++i) {
        barrier_expect(block.full(i), S::kStageBytes);
        load_w(p, block, at, (block.k_begin + i) * kBlockK, i);
      }
      if constexpr (!S::kMoveRegisters)
        if (p.overlap && block.step >= block.tiles) prefetch_w(p, block, at, begin);
      wait_for_former_kernels();
      waited = true;
      for (int i = 0; i < begin; ++i)
        load_2d(block.a(i), &p.x, (block.k_begin + i) * kBlockK, at.m, block.full(i), kKeep);
      ring.skip(begin);
    }
    for (int i = begin; i < block.k_blocks; ++i, ring.next()) {
      const int k = (block.k_begin + i) * kBlockK;
      barrier_wait(block.empty(ring.stage), ring.phase ^ 1);
      barrier_expect(block.full(ring.stage), S::kStageBytes);
      load_2d(block.a(ring.stage), &p.x, k, at.m, block.full(ring.stage), kKeep);
      load_w(p, block, at, k, ring.stage);
    }
  }
}

// ---- the warpgroups that multiply

template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void release(const Block<S, kEpilogue>& block, int stage) {
  const int lane = threadIdx.x % 32;
  if constexpr (S::kMulticast > 1) {
    if (lane < S::kMulticast) barrier_arrive_at(block.empty(stage), block.split * S::kMulticast + lane);
  } else {
    if (lane == 0) barrier_arrive(block.empty(stage));
  }
}

template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void multiply_tile(const Block<S, kEpilogue>& block, int group, Ring<S::kStages>& ring,
                                              float (&sums)[S::kRows][S::kN / 2]) {
  const int rows = S::kTurns ? 0 : group * S::kRows * 64;
  int former = -1;
  for (int i = 0; i < block.k_blocks; ++i, ring.next()) {
    barrier_wait(block.full(ring.stage), ring.phase);
    const uint64_t a = matrix_at(block.a(ring.stage) + rows * kRowBytes), b = matrix_at(block.b(ring.stage));
    multiply_begin();
#pragma unroll
    for (int k = 0; k < kBlockK / 16; ++k)
#pragma unroll
      for (int r = 0; r < S::kRows; ++r)
        multiply(sums[r], a + (r * 64 * kRowBytes + k * 32) / 16, b + k * 32 / 16, k > 0 ? 1 : i);
    multiply_commit();
    multiply_wait<1>();
    if (former >= 0) release(block, former);
    former = ring.stage;
  }
  if constexpr (S::kTurns) named_arrive(1 + (group ^ 1), 256);
  multiply_wait<0>();
#pragma unroll
  for (int r = 0; r < S::kRows; ++r)
#pragma unroll
    for (int i = 0; i < S::kN / 2; ++i) asm volatile("" : "+f"(sums[r][i])::"memory");
  release(block, former);
}

// ---- what follows the sums

// 0.5 x erfc(-x / sqrt 2), erfc by Abramowitz and Stegun 7.1.26 (1.5e-7).
__device__ __forceinline__ float gelu(float x) {
  const float z = fabsf(x) * 0.70710678f;
  const float t = __fdividef(1.0f, fmaf(0.3275911f, z, 1.0f));
  float y = fmaf(t, 1.061405429f, -1.453152027f);
  y = fmaf(t, y, 1.421413741f);
  y = fmaf(t, y, -0.284496736f);
  y = fmaf(t, y, 0.254829592f);
  y *= t * __expf(-z * z);
  return 0.5f * x * (x < 0 ? y : 2.0f - y);
}

__device__ __forceinline__ float silu(float x) {
  return __fdividef(x, 1.0f + __expf(-x));
}

struct Eight {
  uint32_t pair[4] = {};
  __device__ float2 at(int i) const { return {__uint_as_float(pair[i] << 16), __uint_as_float(pair[i] & 0xFFFF0000u)}; }
};

// Elements column..column+7 of a row; zeros from the n-th on. The loops for what 16 bytes do not fit shift through the
// eight, so that they cost no registers.
__device__ __forceinline__ Eight load_eight(const bf16* row, int column, int n, bool vectors) {
  Eight v;
  if (vectors && column + 8 <= n) {
    const uint4 all = *reinterpret_cast<const uint4*>(row + column);
    v.pair[0] = all.x, v.pair[1] = all.y, v.pair[2] = all.z, v.pair[3] = all.w;
  } else {
#pragma unroll 1
    for (int i = min(8, n - column) - 1; i >= 0; --i) {
      v.pair[3] = __funnelshift_l(v.pair[2], v.pair[3], 16);
      v.pair[2] = __funnelshift_l(v.pair[1], v.pair[2], 16);
      v.pair[1] = __funnelshift_l(v.pair[0], v.pair[1], 16);
      v.pair[0] = v.pair[0] << 16 | __bfloat16_as_ushort(row[column + i]);
    }
  }
  return v;
}

__device__ __forceinline__ void store_eight(bf16* row, int column, int n, bool vectors, const float (&values)[8]) {
  Eight v;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
    v.pair[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  if (vectors && column + 8 <= n) {
    *reinterpret_cast<uint4*>(row + column) = make_uint4(v.pair[0], v.pair[1], v.pair[2], v.pair[3]);
  } else {
#pragma unroll 1
    for (int i = 0; i < min(8, n - column); ++i) {
      row[column + i] = __ushort_as_bfloat16(static_cast<unsigned short>(v.pair[0]));
      v.pair[0] = __funnelshift_r(v.pair[0], v.pair[1], 16);
      v.pair[1] = __funnelshift_r(v.pair[1], v.pair[2], 16);
      v.pair[2] = __funnelshift_r(v.pair[2], v.pair[3], 16);
      v.pair[3] >>= 16;
    }
  }
}

struct Row {
  bool inside;
  bf16* out;
  const bf16* residual;
  const bf16* gate;
};

template <Epilogue kEpilogue>
__device__ __forceinline__ Row row_at(const Params& p, int row) {
  Row r{row < p.m, p.out + row * p.ldo, nullptr, nullptr};
  if constexpr (kEpilogue == Epilogue::gated_residual) {
    const int batch = row / p.tokens;
    r.residual = p.residual + row * p.ldr;
    r.gate = p.gate + batch * p.gate_batch + (row - batch * p.tokens) * p.gate_row;
  }
  return r;
}

// Eight numbers of shared memory; volatile, so that they are not all fetched before the first is wanted.
__device__ __forceinline__ void load_bias(float (&v)[8], uint32_t address) {
#pragma unroll
  for (int i = 0; i < 8; i += 4)
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v[i]), "=f"(v[i + 1]), "=f"(v[i + 2]), "=f"(v[i + 3])
                 : "r"(address + i * 4)
                 : "memory");
}

// v: eight sums of a row from `column` on; w: those of w_gate (swiglu). residual and gate were loaded before.
template <Epilogue kEpilogue>
__device__ __forceinline__ void finish_eight(const Params& p, const Row& row, int column, float (&v)[8], float (&w)[8],
                                             const Eight& residual, const Eight& gate) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if constexpr (kEpilogue == Epilogue::gelu) v[i] = gelu(v[i]);
    if constexpr (kEpilogue == Epilogue::swiglu) v[i] *= silu(w[i]);
  }
  if constexpr (kEpilogue == Epilogue::gated_residual) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 x = residual.at(i), g = gate.at(i);
      v[2 * i] = fmaf(g.x, v[2 * i], x.x);
      v[2 * i + 1] = fmaf(g.y, v[2 * i + 1], x.y);
    }
  }
  if (row.inside) store_eight(row.out, column, p.n, p.out_vectors, v);
}

// A thread holds of each 32 columns the eight from 8 * (lane % 4) on (the order in which w was loaded makes them its
// own), in rows lane / 4 and lane / 4 + 8 of its warp's 16. sum(j, i, e): element e of row i in the j-th eight columns
// as wgmma counts them.
template <class S, Epilogue kEpilogue, int kBatch, class Sum>
__device__ __forceinline__ void finish_groups(const Params& p, const Row (&rows)[2], int group, int first_column,
                                              uint32_t bias, const Sum& sum) {
  const int quarter = threadIdx.x % 4 * 8;
  constexpr bool kGated = kEpilogue == Epilogue::gated_residual, kTwo = kEpilogue == Epilogue::swiglu;
  Eight residual[kBatch][2], gate[kBatch][2];
  if constexpr (kGated) {
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int column = first_column + (group + b) * 32 + quarter;
        if (!rows[i].inside) continue;
        residual[b][i] = load_eight(rows[i].residual, column, p.n, p.residual_vectors);
        gate[b][i] = load_eight(rows[i].gate, column, p.n, p.gate_vectors);
      }
  }
#pragma unroll
  for (int b = 0; b < kBatch; ++b) {
    const int inside = (group + b) * 32 + quarter;
    float v_bias[8], w_bias[8];
    load_bias(v_bias, bias + inside * 4);
    if constexpr (kTwo) load_bias(w_bias, bias + (S::kN / 2 + inside) * 4);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float v[8], w[8];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        v[e] = sum((group + b) * 4 + e / 2, i, e % 2) + v_bias[e];
        if constexpr (kTwo) w[e] = sum((group + b) * 4 + e / 2 + S::kN / 16, i, e % 2) + w_bias[e];
      }
      finish_eight<kEpilogue>(p, rows[i], first_column + inside, v, w, residual[b][i], gate[b][i]);
    }
  }
}

template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void finish_tile(const Params& p, Place at, int group, uint32_t bias,
                                            const float (&sums)[S::kRows][S::kN / 2]) {
  constexpr int kCount = Block<S, kEpilogue>::kColumns / 32;
  constexpr int kBatch = kEpilogue != Epilogue::gated_residual || S::kSums > 128 ? 1 : kCount % 3 == 0 ? 3 : 2;
  static_assert(kCount % kBatch == 0);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int r = 0; r < S::kRows; ++r) {
    const int row = at.m + ((S::kTurns ? 0 : group * S::kRows) + r) * 64 + warp * 16 + lane / 4;
    const Row rows[2] = {row_at<kEpilogue>(p, row), row_at<kEpilogue>(p, row + 8)};
#pragma unroll
    for (int g = 0; g < kCount; g += kBatch)
      finish_groups<S, kEpilogue, kBatch>(p, rows, g, at.n, bias,
                                          [&](int j, int i, int e) { return sums[r][j * 4 + i * 2 + e]; });
  }
}

// Each block of those that share k puts its sums into its own shared memory (the stages are done with), and takes
// every kSplit-th group of columns from all, in the order of k.
template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void finish_split(const Params& p, const Block<S, kEpilogue>& block, Place at, int group,
                                             uint32_t bias, const float (&sums)[S::kRows][S::kN / 2]) {
  constexpr int kOwners = S::kGroups * 128;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const uint32_t mine = block.stages + threadIdx.x * 16;
  named_sync(3, kOwners);  // every warpgroup is done with the stages
#pragma unroll
  for (int r = 0; r < S::kRows; ++r)
#pragma unroll
    for (int j = 0; j < S::kN / 8; ++j)
      asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(mine + (r * S::kN / 8 + j) * kOwners * 16),
                   "f"(sums[r][j * 4]), "f"(sums[r][j * 4 + 1]), "f"(sums[r][j * 4 + 2]), "f"(sums[r][j * 4 + 3])
                   : "memory");
  cluster_sync();
  for (int r = 0; r < S::kRows; ++r) {
    const int row = at.m + (group * S::kRows + r) * 64 + warp * 16 + lane / 4;
    const Row rows[2] = {row_at<kEpilogue>(p, row), row_at<kEpilogue>(p, row + 8)};
    for (int g = block.split; g < Block<S, kEpilogue>::kColumns / 32; g += S::kSplit) {
      constexpr int kMatrices = kEpilogue == Epilogue::swiglu ? 2 : 1;
      float total[kMatrices][4][4] = {};
#pragma unroll
      for (int s = 0; s < S::kSplit; ++s)
#pragma unroll
        for (int t = 0; t < kMatrices * 4; ++t) {
          const int j = g * 4 + t % 4 + t / 4 * (S::kN / 16);
          const float4 v = load_from(mine + (r * S::kN / 8 + j) * kOwners * 16, s * S::kMulticast + block.rank);
          float(&to)[4] = total[t / 4][t % 4];
          to[0] += v.x, to[1] += v.y, to[2] += v.z, to[3] += v.w;
        }
      finish_groups<S, kEpilogue, 1>(p, rows, g, at.n, bias, [&](int j, int i, int e) {
        return j < g * 4 + 4 ? total[0][j - g * 4][i * 2 + e] : total[kMatrices - 1][j - g * 4 - S::kN / 16][i * 2 + e];
      });
    }
  }
}

template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void multiply_all(const Params& p, const Block<S, kEpilogue>& block) {
  using B = Block<S, kEpilogue>;
  const int group = threadIdx.x / 128, thread = threadIdx.x % 128;
  constexpr int kBiases = (S::kN + 127) / 128;
  float* bias = block.bias + group * S::kN;
  Ring<S::kStages> ring;
  int tile = block.first;
  if constexpr (S::kTurns) {
    if (group == 1) {
      named_arrive(1, 256);  // the first turn is the other's
      tile += block.step;
      ring.skip(block.k_blocks);
    }
  } else if (S::kGroups == 2 && S::kSplit == 1 && group == 1 && tile < block.tiles) {
    // One behind the other, so that one multiplies while the other finishes its tile.
    barrier_wait(block.full(min(S::kStages / 2, block.k_blocks) - 1), 0);
  }
  wait_for_former_kernels();
  for (; tile < block.tiles; tile += block.step * (S::kTurns ? 2 : 1)) {
    const Place at = block.place(p, tile);
    float biases[kBiases];
#pragma unroll
    for (int i = 0; i < kBiases; ++i) {
      const int in_tile = thread + i * 128, matrix = in_tile / B::kColumns, column = at.n + in_tile % B::kColumns;
      biases[i] = in_tile < S::kN && column < p.n && p.bias[matrix] != nullptr ? __ldg(p.bias[matrix] + column) : 0.0f;
    }
    float sums[S::kRows][S::kN / 2];
    if constexpr (S::kTurns) named_sync(1 + group, 256);
    multiply_tile(block, group, ring, sums);
    if constexpr (S::kTurns) ring.skip(block.k_blocks);
    named_sync(4 + group, 128);  // the bias of the tile before is read
#pragma unroll
    for (int i = 0; i < kBiases; ++i)
      if (thread + i * 128 < S::kN) bias[thread + i * 128] = biases[i];
    named_sync(4 + group, 128);
    if constexpr (S::kSplit > 1)
      finish_split(p, block, at, group, shared_address(bias), sums);
    else
      finish_tile<S, kEpilogue>(p, at, group, shared_address(bias), sums);
  }
}

template <class S, Epilogue kEpilogue>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm) gemm_kernel(const __grid_constant__ Params p) {
  extern __shared__ char shared[];
  const Block<S, kEpilogue> block(p, shared);
  const int warp = threadIdx.x / 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      barrier_init(block.full(i), 1);
      barrier_init(block.empty(i), (S::kTurns ? 1 : S::kGroups) * 4 * S::kMulticast);
    }
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
  }
  if constexpr (S::kCluster > 1)
    cluster_sync();
  else
    __syncthreads();
  let_next_kernel_start();
  if (warp >= S::kGroups * 4) {
    if constexpr (S::kMoveRegisters)
      asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(S::kSums > 128 ? 24 : 40));
    if (threadIdx.x == S::kGroups * 128) load_all(p, block);
    __syncwarp();
    if constexpr (S::kSplit > 1) cluster_sync();  // with those in finish_split
  } else {
    if constexpr (S::kMoveRegisters)
      asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(S::kSums > 128 ? 240 : 232));
    multiply_all(p, block);
    __syncwarp();
  }
  // No block leaves while another of its cluster may write to it or read from it.
  if constexpr (S::kCluster > 1) cluster_sync();
}

}  // namespace raedit::backend::cuda::sm90a
