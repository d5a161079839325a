// The kernel of gemm_sm90a: one warp asks the copy engine (TMA) for tiles of x and w into a ring of shared-memory
// stages, warpgroups multiply them (wgmma) and finish the sums in registers. Blocks of a cluster share what they read
// of w (multicast) and of x. Source: PTX ISA 8.x, chapters
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
constexpr uint64_t kKeep = 0x1000000000000000;  // L2 policies as createpolicy makes them: evict_normal,
constexpr uint64_t kOnce = 0x12F0000000000000;  // evict_first

// What the kernel is told. The maps come first: they are aligned to 64 bytes.
struct Params {
  CUtensorMap x;
  CUtensorMap w[2];  // w, w_gate
  int m, n, k_blocks;
  int tiles_n, clusters_m;
  int tokens;
  bool overlap, w_shuffled;
  bool out_vectors, residual_vectors, gate_vectors, vectors;  // 16 bytes fit; all three

  uint64_t x_policy, w_policy;
  int raster;   // clusters of tiles, one above the other, before the next columns
  int stagger;  // steps of k that the second warpgroup begins after the first
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
template <int kGroups_, int kRows_, int kN_, int kStages_, int kMulticast_, int kAcross_, bool kTurns_>
struct Shape {
  static constexpr int kGroups = kGroups_, kRows = kRows_, kN = kN_, kStages = kStages_;
  // Of a cluster, kMulticast blocks one above the other share w, kAcross side by side share x.
  static constexpr int kMulticast = kMulticast_, kAcross = kAcross_;
  static constexpr bool kTurns = kTurns_;
  static constexpr int kCluster = kMulticast * kAcross;
  static constexpr int kFriends = kMulticast + kAcross - 1;  // blocks that write to a block's stages
  static constexpr int kTileM = 64 * kRows * (kTurns ? 1 : kGroups);
  static constexpr int kABytes = kTileM * kRowBytes, kBBytes = kN * kRowBytes;
  static constexpr int kStageBytes = kABytes + kBBytes;
  static constexpr int kParts = kMulticast < 2 ? 2 : kMulticast;  // boxes of w per stage
  static constexpr int kPartRows = kN / kParts;
  static constexpr int kXRows = kTileM / kAcross;  // in a box of x
  static constexpr int kSums = kRows * kN / 2;     // accumulators per thread
  // Two warpgroups and a warp get 168 registers a thread; more moves over from a warpgroup that only loads.
  static constexpr bool kMoveRegisters = kGroups > 1 && kSums > 64;
  static constexpr int kLoaderRegisters = kGroups == 3 ? 32 : 40, kOtherRegisters = kGroups == 3 ? 160 : 232;
  static_assert(kSums <= (kGroups == 3 ? 96 : 128));
  static constexpr int kThreads = kGroups * 128 + (kMoveRegisters ? 128 : 32);
  static constexpr int kBiasBytes = kGroups * kN * 4;
  static constexpr int kSharedBytes = 1024 + kStages * kStageBytes + kBiasBytes + 2 * kStages * 8;
  static constexpr int kBlocksPerSm = kSharedBytes <= 113 * 1024 && kSums <= 64 ? 2 : 1;
  static_assert((kPartRows % 32 == 0 || kPartRows == 16 || kPartRows == 8) && kXRows % 8 == 0 && kTileM <= 256 &&
                kPartRows <= 256 && kSharedBytes <= 232448);
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
  int side;         // among those that share x
  int first, step;  // tiles of clusters
  int tiles;
  int k_blocks;

  __device__ uint32_t full(int stage) const { return barriers + stage * 8; }
  __device__ uint32_t empty(int stage) const { return barriers + (S::kStages + stage) * 8; }
  __device__ uint32_t a(int stage) const { return stages + stage * S::kStageBytes; }
  __device__ uint32_t b(int stage) const { return a(stage) + S::kABytes; }

  static constexpr int kColumns = kEpilogue == Epilogue::swiglu ? S::kN / 2 : S::kN;

  // The block of the cluster at another place.
  __device__ int friend_at(int other_rank, int other_side) const { return other_rank + S::kMulticast * other_side; }

  __device__ Block(const Params& p, char* shared) {
    char* base = shared + (1024 - shared_address(shared) % 1024) % 1024;
    stages = shared_address(base);
    bias = reinterpret_cast<float*>(base + S::kStages * S::kStageBytes);
    barriers = stages + S::kStages * S::kStageBytes + S::kBiasBytes;
    const int in_cluster = S::kCluster == 1 ? 0 : cluster_rank();
    rank = in_cluster % S::kMulticast;
    side = in_cluster / S::kMulticast;
    first = blockIdx.x / S::kCluster;
    step = gridDim.x / S::kCluster;
    tiles = p.tiles_n * p.clusters_m;
    k_blocks = p.k_blocks;
  }

  // p.raster clusters one above the other, then the next columns, so that what runs at one time reads few
  // different rows of x and of w.
  __device__ Place place(const Params& p, int tile) const {
    const int band = tile / (p.raster * p.tiles_n);
    const int height = min(p.raster, p.clusters_m - band * p.raster);
    const int inside = tile - band * p.raster * p.tiles_n;
    const int cluster_m = band * p.raster + inside % height;
    return {(cluster_m * S::kMulticast + rank) * S::kTileM, (inside / height * S::kAcross + side) * kColumns};
  }
};

// ---- the warp that loads: one thread of it

// The i-th of the boxes of w that this block asks for: which matrix, which row of it, where in the stage.
template <class S, Epilogue kEpilogue>
struct Part {
  int matrix, row, offset;
  __device__ Part(const Block<S, kEpilogue>& block, Place at, int i) {
    constexpr int kPerMatrix = kEpilogue == Epilogue::swiglu ? S::kParts / 2 : S::kParts;
    const int part = block.rank + i * S::kMulticast;
    matrix = part / kPerMatrix;
    row = at.n + part % kPerMatrix * S::kPartRows;
    offset = part * S::kPartRows * kRowBytes;
  }
};

template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void load_w(const Params& p, const Block<S, kEpilogue>& block, Place at, int k, int stage) {
  const uint16_t blocks = ((1 << S::kMulticast) - 1) << block.friend_at(0, block.side);
#pragma unroll
  for (int i = 0; i < S::kParts / S::kMulticast; ++i) {
    const Part<S, kEpilogue> part(block, at, i);
    const CUtensorMap* map = &p.w[part.matrix];
    const uint32_t to = block.b(stage) + part.offset;
    if (p.w_shuffled) {
      if constexpr (S::kMulticast > 1)
        load_2d_for_all(to, map, k, part.row, block.full(stage), p.w_policy, blocks);
      else
        load_2d(to, map, k, part.row, block.full(stage), p.w_policy);
    } else {
      if constexpr (S::kMulticast > 1)
        load_5d_for_all(to, map, k, part.row, block.full(stage), p.w_policy, blocks);
      else
        load_5d(to, map, k, part.row, block.full(stage), p.w_policy);
    }
  }
}

template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void load_x(const Params& p, const Block<S, kEpilogue>& block, Place at, int k, int stage) {
  const uint32_t to = block.a(stage) + block.side * S::kXRows * kRowBytes;
  const int row = at.m + block.side * S::kXRows;
  if constexpr (S::kAcross > 1) {
    uint32_t blocks = 0;
#pragma unroll
    for (int i = 0; i < S::kAcross; ++i) blocks |= 1u << block.friend_at(block.rank, i);
    load_2d_for_all(to, &p.x, k, row, block.full(stage), p.x_policy, static_cast<uint16_t>(blocks));
  } else {
    load_2d(to, &p.x, k, row, block.full(stage), p.x_policy);
  }
}

// As much again as the stages hold, into the second-level cache.
template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void prefetch_w(const Params& p, const Block<S, kEpilogue>& block, Place at, int begin) {
#pragma unroll
  for (int i = 0; i < S::kParts / S::kMulticast; ++i) {
    const Part<S, kEpilogue> part(block, at, i);
#pragma unroll 1
    for (int step = begin; step < min(block.k_blocks, 2 * S::kStages); ++step) {
      if (p.w_shuffled)
        prefetch_2d(&p.w[part.matrix], step * kBlockK, part.row);
      else
        prefetch_5d(&p.w[part.matrix], step * kBlockK, part.row);
    }
  }
}

template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void load_all(const Params& p, const Block<S, kEpilogue>& block) {
  Ring<S::kStages> ring;
  bool waited = false;
#pragma unroll 1
  for (int tile = block.first; tile < block.tiles; tile += block.step) {
    const Place at = block.place(p, tile);
    int begin = 0;
    if (!waited) {  // the first stages are free, and the weights are there before what the former kernel makes
      begin = min(S::kStages, block.k_blocks);
#pragma unroll 1
      for (int i = 0; i < begin; ++i) {
        barrier_expect(block.full(i), S::kStageBytes);
        load_w(p, block, at, i * kBlockK, i);
      }
      if constexpr (!S::kMoveRegisters)
        if (p.overlap && block.step >= block.tiles) prefetch_w(p, block, at, begin);
      wait_for_former_kernels();
      waited = true;
#pragma unroll 1
      for (int i = 0; i < begin; ++i) load_x(p, block, at, i * kBlockK, i);
      ring.skip(begin);
    }
#pragma unroll 1
    for (int i = begin; i < block.k_blocks; ++i, ring.next()) {
      const int k = i * kBlockK;
      barrier_wait(block.empty(ring.stage), ring.phase ^ 1);
      barrier_expect(block.full(ring.stage), S::kStageBytes);
      load_x(p, block, at, k, ring.stage);
      load_w(p, block, at, k, ring.stage);
    }
  }
  // A block leaves when the others of its cluster have told it that they are done with its stages, no earlier.
  if constexpr (S::kFriends > 1)
    for (int i = 0; i < S::kStages; ++i, ring.next()) barrier_wait(block.empty(ring.stage), ring.phase ^ 1);
}

// ---- the warpgroups that multiply

template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void release(const Block<S, kEpilogue>& block, int stage) {
  const int lane = threadIdx.x % 32;
  if constexpr (S::kFriends > 1) {
    const int other = lane - S::kMulticast;  // then those beside, without this block itself
    const int to = lane < S::kMulticast ? block.friend_at(lane, block.side)
                                        : block.friend_at(block.rank, other + (other >= block.side ? 1 : 0));
    if (lane < S::kFriends) barrier_arrive_at(block.empty(stage), to);
  } else {
    if (lane == 0) barrier_arrive(block.empty(stage));
  }
}

template <class S, Epilogue kEpilogue>
__device__ __forceinline__ void multiply_tile(const Block<S, kEpilogue>& block, int group, Ring<S::kStages>& ring,
                                              float (&sums)[S::kRows][S::kN / 2]) {
  const int rows = S::kTurns ? 0 : group * S::kRows * 64;
  int former = -1;
#pragma unroll 1
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

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// x / 2 + |x| / 2 * erf(|x| / sqrt 2), erf by Abramowitz and Stegun 7.1.26 (1.5e-7).
__device__ __forceinline__ float gelu(float x) {
  const float t = reciprocal(fmaf(0.3275911f * 0.70710678f, fabsf(x), 1.0f));
  float y = fmaf(t, 1.061405429f, -1.453152027f);
  y = fmaf(t, y, 1.421413741f);
  y = fmaf(t, y, -0.284496736f);
  y = fmaf(t, y, 0.254829592f);
  y *= t;
  const float erf = fmaf(-y, exp2_fast(x * x * -0.72134752f), 1.0f);
  const float half = 0.5f * x;
  return fmaf(fabsf(half), erf, half);
}

__device__ __forceinline__ float silu(float x) {
  return x * reciprocal(1.0f + exp2_fast(x * -1.44269504f));
}

struct Eight {
  uint32_t pair[4] = {};
  __device__ float2 at(int i) const { return {__uint_as_float(pair[i] << 16), __uint_as_float(pair[i] & 0xFFFF0000u)}; }
};

// Elements column..column+7 of a row; zeros from the n-th on. The loops for what 16 bytes do not fit shift through the
// eight, so that they cost no registers.
template <bool kWhole>
__device__ __forceinline__ Eight load_eight(const bf16* row, int column, int n, bool vectors) {
  Eight v;
  if (kWhole || (vectors && column + 8 <= n)) {
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

template <bool kWhole>
__device__ __forceinline__ void store_eight(bf16* row, int column, int n, bool vectors, const float (&values)[8]) {
  Eight v;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
    v.pair[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  if (kWhole || (vectors && column + 8 <= n)) {
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

// What the gated residual reads, of kGroups groups of 32 columns.
template <int kGroups>
struct Extra {
  Eight residual[kGroups][2], gate[kGroups][2];
};
template <>
struct Extra<0> {};

// kWhole: every row and column of the tile is inside, and 16 bytes fit.
template <bool kWhole, int kGroups>
__device__ __forceinline__ void load_extra(const Params& p, const Row (&rows)[2], int column, Extra<kGroups>& extra) {
#pragma unroll
  for (int g = 0; g < kGroups; ++g)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (kWhole || rows[i].inside) {
        extra.residual[g][i] = load_eight<kWhole>(rows[i].residual, column + g * 32, p.n, p.residual_vectors);
        extra.gate[g][i] = load_eight<kWhole>(rows[i].gate, column + g * 32, p.n, p.gate_vectors);
      }
}

// v: eight sums of a row from `column` on, with their bias; w: those of w_gate (swiglu).
template <Epilogue kEpilogue, bool kWhole, class Extras>
__device__ __forceinline__ void finish_eight(const Params& p, const Row& row, int column, float (&v)[8], float (&w)[8],
                                             const Extras& extra, int g, int i) {
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    if constexpr (kEpilogue == Epilogue::gelu) v[e] = gelu(v[e]);
    if constexpr (kEpilogue == Epilogue::swiglu) v[e] *= silu(w[e]);
  }
  if constexpr (kEpilogue == Epilogue::gated_residual) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float2 x = extra.residual[g][i].at(e), gate = extra.gate[g][i].at(e);
      v[2 * e] = fmaf(gate.x, v[2 * e], x.x);
      v[2 * e + 1] = fmaf(gate.y, v[2 * e + 1], x.y);
    }
  }
  if (kWhole || row.inside) store_eight<kWhole>(row.out, column, p.n, p.out_vectors, v);
}

// A thread holds of each 32 columns the eight from 8 * (lane % 4) on (the order in which w was loaded makes them its
// own), in rows lane / 4 and lane / 4 + 8 of its warp's 16. sum(j, i, e): element e of row i in the j-th eight columns
// as wgmma counts them. column and bias: of the thread's eight in the group; extra[g] is what belongs to them.
template <class S, Epilogue kEpilogue, bool kWhole, class Extras, class Sum>
__device__ __forceinline__ void finish_group(const Params& p, const Row (&rows)[2], int group, int column,
                                             uint32_t bias, const Extras& extra, int g, const Sum& sum) {
  constexpr bool kTwo = kEpilogue == Epilogue::swiglu;
  float v_bias[8], w_bias[8];
  load_bias(v_bias, bias);
  if constexpr (kTwo) load_bias(w_bias, bias + S::kN / 2 * 4);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float v[8], w[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      v[e] = sum(group * 4 + e / 2, i, e % 2) + v_bias[e];
      if constexpr (kTwo) w[e] = sum(group * 4 + e / 2 + S::kN / 16, i, e % 2) + w_bias[e];
    }
    finish_eight<kEpilogue, kWhole>(p, rows[i], column, v, w, extra, g, i);
  }
}

// The first row of a thread, in the r-th 64 rows of its warpgroup.
template <class S>
__device__ __forceinline__ int first_row(Place at, int group, int r) {
  return at.m + ((S::kTurns ? 0 : group * S::kRows) + r) * 64 + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
}

// How many groups of columns are loaded before the product, where there are registers for it.
template <class S, Epilogue kEpilogue>
constexpr int early_groups() {
  if (kEpilogue != Epilogue::gated_residual || S::kTurns || S::kRows > 1) return 0;
  return S::kSums > 96 || S::kGroups == 3 ? 2 : S::kSums > 64 && !S::kMoveRegisters ? 1 : S::kN / 32;
}

template <class S, Epilogue kEpilogue, bool kWhole>
__device__ __forceinline__ void finish_tile(const Params& p, Place at, int group, uint32_t bias,
                                            const float (&sums)[S::kRows][S::kN / 2],
                                            const Extra<early_groups<S, kEpilogue>()>& early) {
  constexpr int kCount = Block<S, kEpilogue>::kColumns / 32, kEarly = early_groups<S, kEpilogue>();
  constexpr bool kGated = kEpilogue == Epilogue::gated_residual;
  constexpr int kBatch = (kCount - kEarly) % 3 == 0 ? 3 : (kCount - kEarly) % 2 == 0 ? 2 : 1;
  const int quarter = threadIdx.x % 4 * 8;
#pragma unroll
  for (int r = 0; r < S::kRows; ++r) {
    const int row = first_row<S>(at, group, r);
    const Row rows[2] = {row_at<kEpilogue>(p, row), row_at<kEpilogue>(p, row + 8)};
    const auto sum = [&](int j, int i, int e) { return sums[r][j * 4 + i * 2 + e]; };
    if constexpr (kEarly > 0)
#pragma unroll
      for (int g = 0; g < kEarly; ++g)
        finish_group<S, kEpilogue, kWhole>(p, rows, g, at.n + g * 32 + quarter, bias + (g * 32 + quarter) * 4, early, g,
                                           sum);
#pragma unroll
    for (int g0 = kEarly; g0 < kCount; g0 += kBatch) {
      Extra<kGated ? kBatch : 0> extra;
      if constexpr (kGated) load_extra<kWhole>(p, rows, at.n + g0 * 32 + quarter, extra);
#pragma unroll
      for (int g = 0; g < kBatch; ++g)
        finish_group<S, kEpilogue, kWhole>(p, rows, g0 + g, at.n + (g0 + g) * 32 + quarter,
                                           bias + ((g0 + g) * 32 + quarter) * 4, extra, g, sum);
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
  } else if (S::kGroups > 1 && group > 0 && tile < block.tiles) {
    // One behind the other, so that one multiplies while the other finishes its tile.
    const int ahead = min(p.stagger * group / max(S::kGroups - 1, 1), block.k_blocks);
    if (ahead > 0) barrier_wait(block.full(ahead - 1), 0);
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
    const bool whole = p.vectors && at.m + S::kTileM <= p.m && at.n + B::kColumns <= p.n;
    Extra<early_groups<S, kEpilogue>()> early;
    if constexpr (early_groups<S, kEpilogue>() > 0) {
      const int row = first_row<S>(at, group, 0);
      const Row rows[2] = {row_at<kEpilogue>(p, row), row_at<kEpilogue>(p, row + 8)};
      if (whole)
        load_extra<true>(p, rows, at.n + thread % 4 * 8, early);
      else
        load_extra<false>(p, rows, at.n + thread % 4 * 8, early);
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
    if (whole)
      finish_tile<S, kEpilogue, true>(p, at, group, shared_address(bias), sums, early);
    else
      finish_tile<S, kEpilogue, false>(p, at, group, shared_address(bias), sums, early);
  }
}

template <class S, Epilogue kEpilogue>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm) gemm_kernel(const __grid_constant__ Params p) {
  extern __shared__ char shared[];
  const Block<S, kEpilogue> block(p, shared);
  const int warp = threadIdx.x / 32;
  if (threadIdx.x == S::kGroups * 128) {
    prefetch_map(&p.w[0]);
    if constexpr (kEpilogue == Epilogue::swiglu) prefetch_map(&p.w[1]);
    prefetch_map(&p.x);
  }
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      barrier_init(block.full(i), 1);
      barrier_init(block.empty(i), (S::kTurns ? 1 : S::kGroups) * 4 * S::kFriends);
    }
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
  }
  if constexpr (S::kCluster > 1)
    cluster_meet();
  else
    __syncthreads();
  let_next_kernel_start();
  if (warp >= S::kGroups * 4) {
    if constexpr (S::kMoveRegisters) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(S::kLoaderRegisters));
    if (threadIdx.x == S::kGroups * 128) load_all(p, block);
    __syncwarp();
  } else {
    if constexpr (S::kMoveRegisters) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(S::kOtherRegisters));
    multiply_all(p, block);
    __syncwarp();
  }
}

}  // namespace raedit::backend::cuda::sm90a
