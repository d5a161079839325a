// What attention sends back, for bfloat16 on tensor cores. p = softmax(s), dp = do v^T, ds = p * (dp - sum_j p_j dp_j):
// dv = p^T do, dk = ds^T q * scale, dq = ds k * scale. Two kernels, each the only writer of what it adds to: the first
// goes over the keys of some queries twice (maximum, sum and mean of dp; then dq) and leaves the numbers of each row to
// the second, which goes over the queries of some keys. After Dao, "FlashAttention-2",
// https://arxiv.org/abs/2307.08691.
#include "backend/cuda/attention_backward.cuh"
#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/dispatch.h"

namespace raedit::backend::cuda {
namespace attention {
namespace {

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
