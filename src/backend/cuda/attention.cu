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

// What a warp knows about its 16 rows; max and sum for the thread's two of them.
template <int Width>
struct Partial {
  float out[Tile<Width>::kEights][4];
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};  // the thread's own columns until total()

  __device__ Partial() { clear(out); }

  // s: logits in, probabilities (of the maximum so far) out.
  __device__ void softmax(float (&s)[kTileKeys / 8][4]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float largest = max[r];
#pragma unroll
      for (int i = 0; i < kTileKeys / 8; ++i) largest = fmaxf(largest, fmaxf(s[i][2 * r], s[i][2 * r + 1]));
      largest = row_max(largest);
      rescale(r, exp2_fast(max[r] - largest));
      max[r] = largest;
#pragma unroll
      for (int i = 0; i < kTileKeys / 8; ++i) {
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          s[i][e] = exp2_fast(s[i][e] - largest);
          sum[r] += s[i][e];
        }
      }
    }
  }

  __device__ void rescale(int r, float by) {
    sum[r] *= by;
#pragma unroll
    for (int i = 0; i < Tile<Width>::kEights; ++i) {
      out[i][2 * r] *= by;
      out[i][2 * r + 1] *= by;
    }
  }

  template <bool Whole, bool Exact>
  __device__ void add(const LeftRows<Width, true>& q, const bf16* k, const bf16* v, float scale, int live) {
    float s[kTileKeys / 8][4];
    clear(s);
    multiply_rows<Width, Whole>(s, q, k, live);
    scale_and_mask<Whole>(s, scale, live);
    softmax(s);
#pragma unroll
    for (int step = 0; step < kTileKeys / 16; ++step) {
      if (Whole || step * 16 < live) {
#pragma unroll
        for (int part = 0; part < parts_of(Exact); ++part) {
          uint32_t p[4];
          as_left(p, s[2 * step], s[2 * step + 1]);
          multiply_columns<Width>(out, p, v + step * 16 * Tile<Width>::kPitch);
          keep_remainders(s[2 * step]);
          keep_remainders(s[2 * step + 1]);
        }
      }
    }
  }

  __device__ void total() {
    sum[0] = row_sum(sum[0]);
    sum[1] = row_sum(sum[1]);
  }

  static constexpr int kNumbers = Tile<Width>::kEights * 4 + 4;
  // To and from a warp of the other group with the same rows: thread by thread.
  __device__ void put(float* to) const {
#pragma unroll
    for (int i = 0; i < kNumbers - 4; ++i) to[i * 32] = out[i / 4][i % 4];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      to[(kNumbers - 4 + r) * 32] = max[r];
      to[(kNumbers - 2 + r) * 32] = sum[r];
    }
  }
  __device__ void merge(const float* from) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float other = from[(kNumbers - 4 + r) * 32];
      const float largest = fmaxf(max[r], other);
      rescale(r, exp2_fast(max[r] - largest));
      const float by = exp2_fast(other - largest);
      sum[r] += from[(kNumbers - 2 + r) * 32] * by;
#pragma unroll
      for (int i = 0; i < Tile<Width>::kEights; ++i) {
        out[i][2 * r] += from[(4 * i + 2 * r) * 32] * by;
        out[i][2 * r + 1] += from[(4 * i + 2 * r + 1) * 32] * by;
      }
    }
  }

  // The 16 rows, divided, through shared memory of the warp's own.
  __device__ void store(bf16* rows, bf16* target, int64_t stride, int count, int width, bool aligned) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float inverse = 1.0f / sum[r];
      bf16* row = rows + (lane / 4 + 8 * r) * Tile<Width>::kPitch + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < Tile<Width>::kEights; ++i)
        *reinterpret_cast<uint32_t*>(row + i * 8) = pack_pair(out[i][2 * r] * inverse, out[i][2 * r + 1] * inverse);
    }
    __syncwarp();
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
};

// Blocks that share a multiprocessor hide each other's loads; 64K registers are there for all.
constexpr int forward_blocks(int width, int row_warps, bool exact) {
  return row_warps == 4 && width <= 72 && !exact ? 2 : 1;
}

template <int Width, int RowWarps>
__device__ void load_stage(bf16* stage, const bf16* k, const bf16* v, const ForwardArgs& a, int first) {
  constexpr int kThreads = RowWarps * kGroups * 32;
  const int rows = min(kStageKeys, (a.nk - first + 15) / 16 * 16);
  load_tile<Width, kThreads>(stage, k, a.k.row, a.k.aligned, first, a.nk, rows, a.width);
  load_tile<Width, kThreads>(stage + kStageKeys * Tile<Width>::kPitch, v, a.v.row, a.v.aligned, first, a.nk, rows,
                             a.width);
}

template <int Width, int RowWarps, bool Exact>
__global__ void __launch_bounds__(RowWarps* kGroups * 32, forward_blocks(Width, RowWarps, Exact))
    forward_kernel(const __grid_constant__ ForwardArgs a) {
  constexpr int kThreads = RowWarps * kGroups * 32, kRows = RowWarps * 16, kPitch = Tile<Width>::kPitch;
  constexpr int kStage = 2 * kStageKeys * kPitch;
  extern __shared__ uint4 shared[];
  bf16* const queries = reinterpret_cast<bf16*>(shared);
  bf16* const stages = queries + kRows * kPitch;
  const int64_t b = blockIdx.x / a.tiles / a.heads, h = blockIdx.x / a.tiles % a.heads;
  const int first = static_cast<int>(blockIdx.x % a.tiles) * kRows;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / RowWarps, rows = warp % RowWarps;
  const bf16 *k = a.k.of(b, h), *v = a.v.of(b, h);
  const int count = (a.nk + kStageKeys - 1) / kStageKeys;

  load_tile<Width, kThreads>(queries, a.q.of(b, h), a.q.row, a.q.aligned, first, a.n, kRows, a.width);
  for (int i = 0; i < kStages; ++i) {
    if (i < count) load_stage<Width, RowWarps>(stages + i * kStage, k, v, a, i * kStageKeys);
    commit_copies();
  }
  LeftRows<Width, true> q;
  Partial<Width> partial;
  for (int i = 0; i < count; ++i) {
    bf16* const stage = stages + i % kStages * kStage;
    wait_copies<kStages - 1>();
    __syncthreads();
    if (i == 0) q.load(queries + rows * 16 * kPitch);
    const int live = a.nk - i * kStageKeys - group * kTileKeys;
    const bf16* keys = stage + group * kTileKeys * kPitch;
    if (live >= kTileKeys)
      partial.template add<true, Exact>(q, keys, keys + kStageKeys * kPitch, a.scale, live);
    else if (live > 0)
      partial.template add<false, Exact>(q, keys, keys + kStageKeys * kPitch, a.scale, live);
    __syncthreads();
    if (i + kStages < count) load_stage<Width, RowWarps>(stage, k, v, a, (i + kStages) * kStageKeys);
    commit_copies();
  }
  partial.total();
  // The stages are free now.
  float* const exchange = reinterpret_cast<float*>(stages) + rows * Partial<Width>::kNumbers * 32 + lane;
  if (group == 1) partial.put(exchange);
  __syncthreads();
  if (group == 1 || first + rows * 16 >= a.n) return;
  partial.merge(exchange);
  const int64_t stride = static_cast<int64_t>(a.heads) * a.width;
  bf16* const target = a.out + (b * a.n + first + rows * 16) * stride + h * a.width;
  partial.store(queries + rows * 16 * kPitch, target, stride, min(16, a.n - first - rows * 16), a.width, a.out_aligned);
}

template <int Width, int RowWarps, bool Exact>
void run_forward(const Runtime& rt, ForwardArgs args, int64_t heads) {
  constexpr size_t kShared = forward_shared<Width, RowWarps>();
  static_assert(RowWarps * Partial<Width>::kNumbers * 32 * sizeof(float) <=
                kStages * 2 * kStageKeys * Tile<Width>::kPitch * sizeof(bf16));
  args.tiles = static_cast<int>(ceil_div(args.n, RowWarps * 16));
  const auto kernel = forward_kernel<Width, RowWarps, Exact>;
  allow_shared_memory(kernel, kShared, "attention");
  launch(rt, "attention", kernel, dim3(static_cast<unsigned>(heads * args.tiles)), dim3(RowWarps * kGroups * 32),
         kShared, args);
}

template <int Width>
void run_forward(const Runtime& rt, const ForwardArgs& args, int64_t heads) {
  const bool few = heads * ceil_div(args.n, 64) < rt.multiprocessors();
  const bool exact = is_exact(args.nk, args.width);
  if (few)
    exact ? run_forward<Width, 2, true>(rt, args, heads) : run_forward<Width, 2, false>(rt, args, heads);
  else
    exact ? run_forward<Width, 4, true>(rt, args, heads) : run_forward<Width, 4, false>(rt, args, heads);
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
  if (width > kernels::kWidest || !(is_bf16(q) && is_bf16(k) && is_bf16(v) && is_bf16(out)))
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
