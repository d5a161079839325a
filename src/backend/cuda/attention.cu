// Attention without mask, bfloat16 on tensor cores: scores never leave the registers, softmax is built up key tile by
// key tile (Dao, "FlashAttention-2", https://arxiv.org/abs/2307.08691). A block has two groups of warps that take turns
// with the key tiles and add up at the end, so that few pictures still give many warps short ways. How a row is
// computed depends on the number of keys and the width alone. Everything else goes the plain way in float32.
#include "backend/cuda/attention.cuh"

#include "backend/cuda/attention_plain.cuh"
#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/dispatch.h"

namespace raedit::backend::cuda {
namespace attention {
namespace {

constexpr int kTileKeys = 64;  // of one warp at a time
constexpr int kGroups = 2;
constexpr int kStageKeys = kTileKeys * kGroups;
constexpr int kStages = 2;

struct ForwardArgs {
  Rows q, k, v;
  bf16* out;
  bool out_aligned;
  int n, nk, heads, width, tiles;  // tiles of queries
  float scale;                     // * log2(e)
};

template <int Width, int RowWarps>
constexpr size_t forward_shared() {
  return sizeof(bf16) * Tile<Width>::kPitch * (16 * RowWarps + kStages * 2 * kStageKeys);
}

// What a warp knows about its rows, `Tall` times 16; max and sum for the thread's two of each 16. Rounding is spelled
// out: a row may not depend on which of the kernels it went through.
template <int Width, int Tall>
struct Partial {
  static constexpr int kEights = Tile<Width>::kEights;
  float out[Tall][kEights][4];
  float max[Tall][2];  // of the logits in powers of two
  float sum[Tall][2];  // over the thread's own columns until total()

  __device__ Partial() {
    clear(out);
#pragma unroll
    for (int t = 0; t < Tall; ++t) {
      max[t][0] = max[t][1] = -INFINITY;
      sum[t][0] = sum[t][1] = 0.0f;
    }
  }

  // s: products in, probabilities (for the maximum so far) out.
  __device__ void softmax(float (&s)[kTileKeys / 8][4], int t, float scale) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float largest = fmaxf(max[t][r], __fmul_rn(row_max(largest_of(s, r)), scale));
      rescale(t, r, exp2_fast(max[t][r] - largest));
      max[t][r] = largest;
#pragma unroll
      for (int i = 0; i < kTileKeys / 8; ++i) {
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          s[i][e] = exp2_fast(fmaf(s[i][e], scale, -largest));
          sum[t][r] = __fadd_rn(sum[t][r], s[i][e]);
        }
      }
    }
  }

  __device__ void rescale(int t, int r, float by) {
    sum[t][r] = __fmul_rn(sum[t][r], by);
#pragma unroll
    for (int i = 0; i < kEights; ++i) {
      out[t][i][2 * r] = __fmul_rn(out[t][i][2 * r], by);
      out[t][i][2 * r + 1] = __fmul_rn(out[t][i][2 * r + 1], by);
    }
  }

  template <bool Whole, bool Exact, class Left>
  __device__ void add(const Left (&q)[Tall], const bf16* k, const bf16* v, float scale, int live) {
    float s[Tall][kTileKeys / 8][4];
    clear(s);
    multiply_rows<Width, Whole>(s, q, k, live);
#pragma unroll
    for (int t = 0; t < Tall; ++t) {
      if (!Whole) mask(s[t], live);
      softmax(s[t], t, scale);
    }
#pragma unroll
    for (int step = 0; step < kTileKeys / 16; ++step) {
      if (Whole || step * 16 < live) {
#pragma unroll
        for (int part = 0; part < parts_of(Exact); ++part) {
          uint32_t p[Tall][4];
#pragma unroll
          for (int t = 0; t < Tall; ++t) {
            as_left(p[t], s[t][2 * step], s[t][2 * step + 1]);
            keep_remainders(s[t][2 * step]);
            keep_remainders(s[t][2 * step + 1]);
          }
          multiply_columns<Width>(out, p, v + step * 16 * Tile<Width>::kPitch);
        }
      }
    }
  }

  __device__ void total() {
#pragma unroll
    for (int t = 0; t < Tall; ++t)
#pragma unroll
      for (int r = 0; r < 2; ++r) sum[t][r] = row_sum(sum[t][r]);
  }

  // To and from a warp of the other group with the same rows: thread by thread.
  static constexpr int kNumbers = Tall * (kEights * 4 + 4);
  __device__ void put(float* to) const {
#pragma unroll
    for (int t = 0; t < Tall; ++t) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        *to = max[t][r], to += 32;
        *to = sum[t][r], to += 32;
#pragma unroll
        for (int i = 0; i < kEights; ++i) {
          *to = out[t][i][2 * r], to += 32;
          *to = out[t][i][2 * r + 1], to += 32;
        }
      }
    }
  }
  __device__ void merge(const float* from) {
#pragma unroll
    for (int t = 0; t < Tall; ++t) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float largest = fmaxf(max[t][r], from[0]);
        rescale(t, r, exp2_fast(max[t][r] - largest));
        const float by = exp2_fast(from[0] - largest);
        sum[t][r] = fmaf(from[32], by, sum[t][r]);
        from += 64;
#pragma unroll
        for (int i = 0; i < kEights; ++i) {
          out[t][i][2 * r] = fmaf(from[0], by, out[t][i][2 * r]);
          out[t][i][2 * r + 1] = fmaf(from[32], by, out[t][i][2 * r + 1]);
          from += 64;
        }
      }
    }
  }

  // The rows, divided, in shared memory of the warp's own.
  __device__ void divide(bf16* rows) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < Tall; ++t) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float inverse = 1.0f / sum[t][r];
        bf16* row = rows + (16 * t + lane / 4 + 8 * r) * Tile<Width>::kPitch + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < kEights; ++i)
          *reinterpret_cast<uint32_t*>(row + i * 8) =
              pack_pair(out[t][i][2 * r] * inverse, out[t][i][2 * r + 1] * inverse);
      }
    }
    __syncwarp();
  }
};

// A warp's rows from shared memory to where they belong.
template <int Width>
__device__ void store_rows(const bf16* rows, bf16* target, int64_t stride, int count, int width, bool aligned) {
  const int lane = threadIdx.x % 32;
  if (aligned) {
    const int pieces = width / 8;
    for (int i = lane; i < count * pieces; i += 32) {
      const int row = i / pieces, column = i % pieces * 8;
      *reinterpret_cast<uint4*>(target + row * stride + column) =
          *reinterpret_cast<const uint4*>(rows + row * Tile<Width>::kPitch + column);
    }
  } else {
    for (int i = lane; i < count * width; i += 32)
      target[i / width * stride + i % width] = rows[i / width * Tile<Width>::kPitch + i % width];
  }
}

// How a block is made: `Row` warps of `Tall` times 16 queries each, in both groups.
template <int Width, int Tall, int Row, bool Exact>
struct Shape {
  static constexpr int kWarpRows = 16 * Tall, kRows = Row * kWarpRows, kThreads = Row * kGroups * 32;
  static constexpr int kPitch = Tile<Width>::kPitch, kStage = 2 * kStageKeys * kPitch;
  static constexpr size_t kShared = sizeof(bf16) * (kRows * kPitch + kStages * kStage);
  // Blocks that share a multiprocessor hide each other's loads; its registers and its 227 KiB are there for all.
  static constexpr int kBlocks = Tall == 1 && Row == 4 && Width <= 72 && !Exact ? 2 : 1;
  static_assert(Row * Partial<Width, Tall>::kNumbers * 32 * sizeof(float) <= kStages * kStage * sizeof(bf16));
};

template <class S, int Width>
__device__ void load_stage(bf16* stage, const bf16* k, const bf16* v, const ForwardArgs& a, int first) {
  const int rows = min(kStageKeys, (a.nk - first + 15) / 16 * 16);
  load_tile<Width, S::kThreads>(stage, k, a.k.row, a.k.aligned, first, a.nk, rows, a.width);
  load_tile<Width, S::kThreads>(stage + kStageKeys * S::kPitch, v, a.v.row, a.v.aligned, first, a.nk, rows, a.width);
}

template <int Width, int Tall, int Row, bool Exact, class S = Shape<Width, Tall, Row, Exact>>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks) forward_kernel(const __grid_constant__ ForwardArgs a) {
  extern __shared__ uint4 shared[];
  bf16* const queries = reinterpret_cast<bf16*>(shared);
  bf16* const stages = queries + S::kRows * S::kPitch;
  const int64_t b = blockIdx.x / a.tiles / a.heads, h = blockIdx.x / a.tiles % a.heads;
  const int warp = threadIdx.x / 32, group = warp / Row;
  const int first_of_block = static_cast<int>(blockIdx.x % a.tiles) * S::kRows;
  const int first = first_of_block + warp % Row * S::kWarpRows;  // of the warp
  bf16* const rows = queries + warp % Row * S::kWarpRows * S::kPitch;
  const bf16 *k = a.k.of(b, h), *v = a.v.of(b, h);
  const int count = (a.nk + kStageKeys - 1) / kStageKeys;

  load_tile<Width, S::kThreads>(queries, a.q.of(b, h), a.q.row, a.q.aligned, first_of_block, a.n, S::kRows, a.width);
  for (int i = 0; i < kStages; ++i) {
    if (i < count) load_stage<S, Width>(stages + i * S::kStage, k, v, a, i * kStageKeys);
    commit_copies();
  }
  LeftRows<Width, true> q[Tall];
  Partial<Width, Tall> partial;
  for (int i = 0; i < count; ++i) {
    bf16* const stage = stages + i % kStages * S::kStage;
    wait_copies<kStages - 1>();
    __syncthreads();
    if (i == 0) {
#pragma unroll
      for (int t = 0; t < Tall; ++t) q[t].load(rows + t * 16 * S::kPitch);
    }
    const int live = a.nk - i * kStageKeys - group * kTileKeys;
    const bf16* keys = stage + group * kTileKeys * S::kPitch;
    if (live >= kTileKeys)
      partial.template add<true, Exact>(q, keys, keys + kStageKeys * S::kPitch, a.scale, live);
    else if (live > 0)
      partial.template add<false, Exact>(q, keys, keys + kStageKeys * S::kPitch, a.scale, live);
    __syncthreads();
    if (i + kStages < count) load_stage<S, Width>(stage, k, v, a, (i + kStages) * kStageKeys);
    commit_copies();
  }
  partial.total();
  // The stages are free now.
  float* const exchange =
      reinterpret_cast<float*>(stages) + warp % Row * Partial<Width, Tall>::kNumbers * 32 + threadIdx.x % 32;
  if (group == 1) partial.put(exchange);
  __syncthreads();
  if (group == 1 || first >= a.n) return;
  partial.merge(exchange);
  partial.divide(rows);
  const int64_t stride = static_cast<int64_t>(a.heads) * a.width;
  store_rows<Width>(rows, a.out + (b * a.n + first) * stride + h * a.width, stride, min(S::kWarpRows, a.n - first),
                    a.width, a.out_aligned);
}

template <int Width, int Tall, int Row, bool Exact>
void run_forward(const Runtime& rt, ForwardArgs args, int64_t heads) {
  using S = Shape<Width, Tall, Row, Exact>;
  args.tiles = static_cast<int>(ceil_div(args.n, S::kRows));
  const auto kernel = forward_kernel<Width, Tall, Row, Exact>;
  allow_shared_memory(kernel, S::kShared, "attention");
  launch(rt, "attention", kernel, dim3(static_cast<unsigned>(heads * args.tiles)), dim3(S::kThreads), S::kShared, args);
}

template <int Width>
void run_forward(const Runtime& rt, const ForwardArgs& args, int64_t heads) {
  constexpr int kTall = Width <= 72 ? 2 : 1;  // there are not registers enough for more
  const bool few = heads * ceil_div(args.n, 64) < rt.multiprocessors();
  if (is_exact(args.nk, args.width))
    few ? run_forward<Width, 1, 2, true>(rt, args, heads) : run_forward<Width, 1, 4, true>(rt, args, heads);
  else
    few ? run_forward<Width, 1, 2, false>(rt, args, heads) : run_forward<Width, kTall, 4, false>(rt, args, heads);
}

Rows rows_of(const Tensor& t) {
  return {pointer<const bf16>(t), t.stride(0), t.stride(1), t.stride(2), rows_aligned(t) && t.dim(3) % 8 == 0};
}

}  // namespace
}  // namespace attention

void CudaKernels::attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale, const Tensor& out) const {
  namespace kernels = cuda::attention;
  if (out.numel() == 0) return;
  const auto is_bf16 = [](const Tensor& t) { return t.dtype() == DType::bfloat16; };
  const int64_t width = q.dim(3), heads = q.dim(0) * q.dim(2);
  if (width > kernels::kWidest || !(scale > 0.0f) || !(is_bf16(q) && is_bf16(k) && is_bf16(v) && is_bf16(out)))
    return attention_plain(rt_, q, k, v, scale, out);
  kernels::ForwardArgs args{};
  args.q = kernels::rows_of(q), args.k = kernels::rows_of(k), args.v = kernels::rows_of(v);
  args.out = pointer<bf16>(out);
  args.out_aligned = rows_aligned(out) && width % 8 == 0;
  args.n = static_cast<int>(q.dim(1)), args.nk = static_cast<int>(k.dim(1));
  args.heads = static_cast<int>(q.dim(2)), args.width = static_cast<int>(width);
  args.scale = scale * kernels::kLog2e;
  if (width <= 32)
    kernels::run_forward<32>(rt_, args, heads);
  else if (width <= 64)
    kernels::run_forward<64>(rt_, args, heads);
  else if (width <= 72)
    kernels::run_forward<72>(rt_, args, heads);
  else
    kernels::run_forward<128>(rt_, args, heads);
}

}  // namespace raedit::backend::cuda
