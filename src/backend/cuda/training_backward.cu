// What goes back through a model in bfloat16, in as few bytes as that takes: gradients are written once, where nothing
// is yet, and sums over rows are formed in the pass that writes. Sums are in one fixed order: within a chunk of rows,
// then over the chunks. What is not covered here goes the way of the base class.
#include <algorithm>

#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/walk.h"

namespace raedit::backend::cuda {
namespace {

// What a gradient is written to or added to; which is the same for a whole launch.
struct Target {
  void* data = nullptr;
  bool half = false;
  bool add = false;  // float32 then

  Target() = default;
  explicit Target(const Gradient& g) {
    if (!g.wanted()) return;
    data = g.at.raw();
    half = g.at.dtype() == DType::bfloat16;
    add = !g.fresh;
  }
  template <int V>
  __device__ __forceinline__ void store(int64_t at, float (&values)[V]) const {
    if (half) return store_values<V>(values, static_cast<bf16*>(data) + at);
    auto* to = static_cast<float*>(data) + at;
    if (add) {
      float old[V];
      load_values<V>(to, old);
#pragma unroll
      for (int i = 0; i < V; ++i) values[i] += old[i];
    }
    store_values<V>(values, to);
  }
};

bool is_half(const Tensor& t) {
  return t.dtype() == DType::bfloat16;
}
bool computable(const Tensor& t) {
  return is_half(t) || t.dtype() == DType::float32;
}
bool on_sixteen(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0;
}
// A flat run of memory from end to end.
bool is_flat(const Tensor& t) {
  return computable(t) && t.is_contiguous();
}
bool is_flat(const Gradient& g) {
  return !g.wanted() || is_flat(g.at);
}
bool share_memory(const Gradient& a, const Gradient& b) {
  return a.wanted() && b.wanted() && a.at.storage() == b.at.storage();
}
unsigned blocks_of(int64_t units) {
  return static_cast<unsigned>(ceil_div(units, kThreads));
}
constexpr int64_t kMostUnits = int64_t{1} << 31;

// ---- sums over rows

constexpr int kSumColumns = 32, kSumRows = 8;

// Threads (32 columns of V, 8 rows): the sums of a chunk of rows, blockIdx.y, to row blockIdx.y of `sums`.
template <int V, class T>
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    column_sums_kernel(const T* x, int64_t rows, int64_t columns, int64_t chunk, Target sums) {
  __shared__ float shared[kSumRows][kSumColumns * V + 1];
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kSumColumns + threadIdx.x) * V;
  const int64_t begin = blockIdx.y * chunk, end = min(rows, begin + chunk);
  float sum[V]{};
  if (column < columns) {
#pragma unroll 8
    for (int64_t row = begin + threadIdx.y; row < end; row += kSumRows) {
      float values[V];
      load_values<V>(x + row * columns + column, values);
#pragma unroll
      for (int i = 0; i < V; ++i) sum[i] += values[i];
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) shared[threadIdx.y][threadIdx.x * V + i] = sum[i];
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    float one[1]{sum[i]};
    for (int y = 1; y < kSumRows; ++y) one[0] += shared[y][threadIdx.x * V + i];
    sums.store<1>(blockIdx.y * columns + column + i, one);
  }
}

template <class T>
void launch_column_sums(const Runtime& rt, const T* x, int64_t rows, int64_t columns, int64_t chunk,
                        const Target& sums) {
  const auto chunks = static_cast<unsigned>(ceil_div(rows, chunk));
  const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0;
  const auto run = [&](auto kernel, int64_t v) {
    launch(rt, "column_sums", kernel, dim3(static_cast<unsigned>(ceil_div(columns, kSumColumns * v)), chunks),
           dim3(kSumColumns, kSumRows), 0, x, rows, columns, chunk, sums);
  };
  if (aligned && columns % 8 == 0)
    run(column_sums_kernel<8, T>, 8);
  else if (aligned && columns % 2 == 0)
    run(column_sums_kernel<2, T>, 2);
  else
    run(column_sums_kernel<1, T>, 1);
}

// A row of partial sums for each chunk of `rows` rows.
struct Chunks {
  int64_t size, count;
  Chunks(int64_t rows, int64_t wanted)
      : size(std::max<int64_t>(ceil_div(rows, wanted), 16)), count(ceil_div(rows, size)) {}
};

// ---- swiglu

__device__ __forceinline__ void swiglu_gradient(float d, float value, float gate, float& dvalue, float& dgate) {
  const float s = 1.0f / (1.0f + expf(-gate));
  dvalue = d * gate * s;
  dgate = d * value * s * fmaf(gate, 1.0f - s, 1.0f);
}

template <int V, class D>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(const D* dout, const bf16* x, Target dx, int64_t half, Divider packs, uint32_t units) {
  const uint32_t unit = blockIdx.x * kThreads + threadIdx.x;
  if (unit >= units) return;
  const uint32_t row = packs.quotient(unit);
  const int64_t column = static_cast<int64_t>(unit - row * packs.divisor) * V;
  const int64_t first = row * 2 * half + column;
  float d[V], value[V], gate[V];
  load_values<V>(dout + row * half + column, d);
  load_values<V>(x + first, value);
  load_values<V>(x + first + half, gate);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    float dvalue, dgate;
    swiglu_gradient(d[i], value[i], gate[i], dvalue, dgate);
    value[i] = dvalue;
    gate[i] = dgate;
  }
  dx.store<V>(first, value);
  dx.store<V>(first + half, gate);
}

// ---- activations

__device__ __forceinline__ float activation_gradient(Activation kind, float d, float x) {
  if (kind == Activation::silu) {
    const float s = 1.0f / (1.0f + expf(-x));
    return d * s * fmaf(x, 1.0f - s, 1.0f);
  }
  // x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
  constexpr float kFactor = 1.59576912f, kCubic = 1.59576912f * 0.044715f;
  const float c = fabsf(x) > 20.0f ? copysignf(20.0f, x) : x, square = c * c;
  const float s = 1.0f / (1.0f + expf(-c * fmaf(square, kCubic, kFactor)));
  return d * s * fmaf(c * fmaf(square, 3.0f * kCubic, kFactor), 1.0f - s, 1.0f);
}

template <int V, class D>
__global__ void __launch_bounds__(kThreads)
    activation_backward_kernel(Activation kind, const D* dout, const bf16* x, Target dx, int64_t units) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (unit >= units) return;
  float d[V], in[V];
  load_values<V>(dout + unit * V, d);
  load_values<V>(x + unit * V, in);
#pragma unroll
  for (int i = 0; i < V; ++i) d[i] = activation_gradient(kind, d[i], in[i]);
  dx.store<V>(unit * V, d);
}

// ---- a gate: dy = dout * gate and dgate = dout * y

template <class D>
struct GateCall {
  const D* dout;
  const bf16 *y, *gate;
  Target dy, dgate;
  int64_t width;
  int64_t gate_strides[2], dgate_strides[2];  // of a picture and a token
};

constexpr int kPack = 8;
constexpr int kGateUnroll = 4;

// A gate for all tokens of a picture. Block (chunk, picture), a thread for each 8 columns; sums [picture,chunk,width].
template <class D>
__global__ void __launch_bounds__(512)
    gate_of_pictures_kernel(GateCall<D> call, int64_t tokens, int64_t chunk, float* sums) {
  const int64_t column = static_cast<int64_t>(threadIdx.x) * kPack;
  if (column >= call.width) return;
  const int64_t begin = blockIdx.x * chunk, end = min(tokens, begin + chunk);
  float gate[kPack], sum[kPack]{};
  load_values<kPack>(call.gate + blockIdx.y * call.gate_strides[0] + column, gate);
#pragma unroll kGateUnroll
  for (int64_t n = begin; n < end; ++n) {
    const int64_t at = (blockIdx.y * tokens + n) * call.width + column;
    float d[kPack], y[kPack];
    load_values<kPack>(call.dout + at, d);
    load_values<kPack>(call.y + at, y);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      sum[i] = fmaf(d[i], y[i], sum[i]);
      d[i] *= gate[i];
    }
    if (call.dy.data != nullptr) call.dy.template store<kPack>(at, d);
  }
  if (sums != nullptr)
    store_values<kPack>(sum, sums + (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * call.width + column);
}

// target[picture * stride + column] += the sums of its chunks
__global__ void __launch_bounds__(kThreads)
    add_chunks_kernel(const float* sums, int64_t chunks, int64_t width, float* target, int64_t stride) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= width) return;
  const float* from = sums + blockIdx.y * chunks * width + column;
  float sum = 0;
#pragma unroll 8
  for (int64_t i = 0; i < chunks; ++i) sum += from[i * width];
  target[blockIdx.y * stride + column] += sum;
}

// A gate for each token.
template <class D>
__global__ void __launch_bounds__(kThreads)
    gate_of_tokens_kernel(GateCall<D> call, Divider packs, Divider tokens, uint32_t units) {
  const uint32_t unit = blockIdx.x * kThreads + threadIdx.x;
  if (unit >= units) return;
  const uint32_t row = packs.quotient(unit), picture = tokens.quotient(row), n = row - picture * tokens.divisor;
  const int64_t column = static_cast<int64_t>(unit - row * packs.divisor) * kPack, at = row * call.width + column;
  float d[kPack], y[kPack], gate[kPack];
  load_values<kPack>(call.dout + at, d);
  load_values<kPack>(call.y + at, y);
  load_values<kPack>(call.gate + picture * call.gate_strides[0] + n * call.gate_strides[1] + column, gate);
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    gate[i] *= d[i];
    y[i] *= d[i];
  }
  if (call.dy.data != nullptr) call.dy.template store<kPack>(at, gate);
  if (call.dgate.data != nullptr)
    call.dgate.template store<kPack>(picture * call.dgate_strides[0] + n * call.dgate_strides[1] + column, y);
}

template <class D>
void gate_of_pictures(const Runtime& rt, const GateCall<D>& call, int64_t batch, int64_t tokens, float* dgate) {
  const int64_t width = call.width;
  const Chunks chunks(tokens, std::max<int64_t>(1, 8 * rt.multiprocessors() / batch));
  float* sums = nullptr;
  if (dgate != nullptr)
    sums = reinterpret_cast<float*>(rt.workspace(static_cast<size_t>(batch * chunks.count * width) * sizeof(float)));
  const auto threads = static_cast<unsigned>(ceil_div(width / kPack, 32) * 32);
  launch(rt, "gate_backward", gate_of_pictures_kernel<D>,
         dim3(static_cast<unsigned>(chunks.count), static_cast<unsigned>(batch)), dim3(threads), 0, call, tokens,
         chunks.size, sums);
  if (dgate == nullptr) return;
  launch(rt, "gate_backward, sums", add_chunks_kernel, dim3(blocks_of(width), static_cast<unsigned>(batch)),
         dim3(kThreads), 0, sums, chunks.count, width, dgate, call.dgate_strides[0]);
}

// ---- rope, backwards

template <class D>
struct RopeCall {
  const D* dout;
  const float *cos, *sin;
  Target dx;
  int64_t strides[3];  // of dx: picture, token, head
};

// Threads: 8 columns of `heads` heads of a token.
template <class D>
__global__ void __launch_bounds__(kThreads) rope_backward_kernel(RopeCall<D> call, Divider packs, Divider groups,
                                                                 Divider tokens, int heads, int width, uint32_t units) {
  const uint32_t unit = blockIdx.x * kThreads + threadIdx.x;
  if (unit >= units) return;
  const uint32_t group_row = packs.quotient(unit), row = groups.quotient(group_row);
  const uint32_t picture = tokens.quotient(row), n = row - picture * tokens.divisor;
  const int column = static_cast<int>(unit - group_row * packs.divisor) * kPack;
  const int first = static_cast<int>(group_row - row * groups.divisor) * heads;
  float cos[kPack], sin[kPack];
  load_values<kPack>(call.cos + static_cast<int64_t>(n) * width + column, cos);
  load_values<kPack>(call.sin + static_cast<int64_t>(n) * width + column, sin);
  const int64_t from = (static_cast<int64_t>(row) * groups.divisor * heads + first) * width + column;
  const int64_t to = picture * call.strides[0] + n * call.strides[1] + first * call.strides[2] + column;
#pragma unroll 4
  for (int h = 0; h < heads; ++h) {
    float d[kPack], turned[kPack];
    load_values<kPack>(call.dout + from + static_cast<int64_t>(h) * width, d);
#pragma unroll
    for (int i = 0; i < kPack; i += 2) {
      turned[i] = fmaf(d[i + 1], sin[i + 1], d[i] * cos[i]);
      turned[i + 1] = fmaf(-d[i], sin[i], d[i + 1] * cos[i + 1]);
    }
    call.dx.template store<kPack>(to + h * call.strides[2], turned);
  }
}

// ---- the root mean square norm with a modulation for each token, backwards

// With r = 1 / sqrt(mean(x^2) + eps) and g = dout (1 + scale) weight: dx = r (g - x r^2 mean(g x)),
// dscale = dout x r weight, dshift = dout, and dweight = sum dout (1 + scale) x r over the rows.
template <class D>
struct NormCall {
  const D* dout;
  const bf16 *x, *scale;
  const float* weight;  // may be null
  Target dx, dscale, dshift;
  float* weight_sums;  // [blocks,width], or null
  int64_t x_strides[2], scale_strides[2], dx_strides[2], dscale_strides[2], dshift_strides[2];  // picture, token
  int width;
  float eps;
  uint32_t rows, chunk;
};

// Over the block. `shared` holds a pair for each warp and is not in use by a former call.
__device__ __forceinline__ float2 block_sum_pair(float2 x, float2* shared) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    x.x += __shfl_xor_sync(0xffffffffu, x.x, offset);
    x.y += __shfl_xor_sync(0xffffffffu, x.y, offset);
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  float2 sum{0.0f, 0.0f};
  for (unsigned i = 0; i < blockDim.x / 32; ++i) {
    sum.x += shared[i].x;
    sum.y += shared[i].y;
  }
  return sum;
}

template <class D>
__global__ void __launch_bounds__(512) norm_of_tokens_kernel(const NormCall<D> call, Divider tokens) {
  __shared__ float2 shared[2][16];
  const int column = static_cast<int>(threadIdx.x) * kPack;
  const bool holds = column < call.width;
  const float count = static_cast<float>(call.width);
  float weight[kPack], sums[kPack]{};
#pragma unroll
  for (int i = 0; i < kPack; ++i) weight[i] = 1.0f;
  if (holds && call.weight != nullptr) load_values<kPack>(call.weight + column, weight);
  const uint32_t begin = blockIdx.x * call.chunk, end = min(call.rows, begin + call.chunk);
  for (uint32_t row = begin; row < end; ++row) {
    const uint32_t picture = tokens.quotient(row), n = row - picture * tokens.divisor;
    const auto at = [&](const int64_t(&strides)[2]) { return picture * strides[0] + n * strides[1] + column; };
    float x[kPack]{}, d[kPack]{}, scale[kPack]{};
    if (holds) {
      load_values<kPack>(call.x + at(call.x_strides), x);
      load_values<kPack>(call.dout + static_cast<int64_t>(row) * call.width + column, d);
      load_values<kPack>(call.scale + at(call.scale_strides), scale);
    }
    float2 sum{0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      scale[i] = d[i] * (1.0f + scale[i]);  // g without the weight
      sum.x = fmaf(x[i], x[i], sum.x);
      sum.y = fmaf(scale[i] * weight[i], x[i], sum.y);
    }
    sum = block_sum_pair(sum, shared[row % 2]);
    const float r = 1.0f / sqrtf(sum.x / count + call.eps), mean = sum.y / count * r;
    if (!holds) continue;
    if (call.dshift.data != nullptr) {
      float shift[kPack];
#pragma unroll
      for (int i = 0; i < kPack; ++i) shift[i] = d[i];
      call.dshift.template store<kPack>(at(call.dshift_strides), shift);
    }
    float dx[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const float normed = x[i] * r;
      dx[i] = r * fmaf(-normed, mean, scale[i] * weight[i]);
      sums[i] = fmaf(scale[i], normed, sums[i]);
      d[i] *= normed * weight[i];
    }
    if (call.dx.data != nullptr) call.dx.template store<kPack>(at(call.dx_strides), dx);
    if (call.dscale.data != nullptr) call.dscale.template store<kPack>(at(call.dscale_strides), d);
  }
  if (holds && call.weight_sums != nullptr)
    store_values<kPack>(sums, call.weight_sums + static_cast<int64_t>(blockIdx.x) * call.width + column);
}

// Strides of [B,N,...] whose last dimension lies in a row, on 16-byte addresses.
bool packs_fit(const Tensor& t) {
  return computable(t) && rows_aligned(t) && t.dim(-1) % kPack == 0 && t.stride(-1) == 1;
}

}  // namespace

void CudaKernels::column_sums_into(const Tensor& x, const Gradient& out) const {
  if (!out.wanted()) return;
  const int64_t rows = x.dim(0), columns = x.dim(1);
  if (x.numel() == 0 || !is_flat(x) || !is_flat(out)) return Kernels::column_sums_into(x, out);
  const Chunks chunks(rows, 128);
  float* sums = nullptr;
  Target first(out);
  if (chunks.count > 1) {
    sums = reinterpret_cast<float*>(rt_.workspace(static_cast<size_t>(chunks.count * columns) * sizeof(float)));
    first = Target();
    first.data = sums;
  }
  with_type(x.dtype(),
            [&]<class T>(Type<T>) { launch_column_sums(rt_, pointer<const T>(x), rows, columns, chunks.size, first); });
  if (chunks.count > 1) launch_column_sums<float>(rt_, sums, chunks.count, columns, chunks.count, Target(out));
}

namespace {

bool of_tokens(const Tensor& t) {
  return t.dim(1) > 1 && t.stride(1) != 0 && (t.dim(0) == 1 || t.stride(0) != 0);
}

// False where this is another case; nothing was done then.
bool norm_of_tokens(const Runtime& rt, const Tensor& dout, const NormArgs& args, const NormGradients& grads) {
  if (args.kind != NormKind::rms || grads.bias.wanted() || args.bias.defined() || !args.scale.defined()) return false;
  const int64_t batch = args.x.dim(0), tokens = args.x.dim(1), width = args.x.dim(2), rows = batch * tokens;
  if (!is_half(args.x) || !is_half(args.scale) || !of_tokens(args.scale) || !of_tokens(args.x)) return false;
  bool fits = dout.is_contiguous() && width <= 512 * kPack && rows > 0 && rows < kMostUnits;
  for (const Tensor* operand : {&dout, &args.x, &args.scale}) fits = fits && packs_fit(*operand);
  for (const Gradient* target : {&grads.x, &grads.scale, &grads.shift})
    fits = fits && (!target->wanted() || (packs_fit(target->at) && of_tokens(target->at)));
  fits = fits && (!args.weight.defined() || (args.weight.is_contiguous() && on_sixteen(args.weight)));
  fits = fits && is_flat(grads.weight) && !share_memory(grads.x, grads.scale) && !share_memory(grads.x, grads.shift);
  if (!fits) return false;
  const Chunks chunks(rows, 6 * rt.multiprocessors());
  float* sums = nullptr;
  if (grads.weight.wanted())
    sums = reinterpret_cast<float*>(rt.workspace(static_cast<size_t>(chunks.count * width) * sizeof(float)));
  with_type(dout.dtype(), [&]<class D>(Type<D>) {
    NormCall<D> call{};
    call.dout = pointer<const D>(dout);
    call.x = pointer<const bf16>(args.x);
    call.scale = pointer<const bf16>(args.scale);
    call.weight = pointer<const float>(args.weight);
    call.dx = Target(grads.x);
    call.dscale = Target(grads.scale);
    call.dshift = Target(grads.shift);
    call.weight_sums = sums;
    const auto set = [](int64_t(&strides)[2], const Tensor& t) {
      for (int i = 0; i < 2 && t.defined(); ++i) strides[i] = t.stride(i);
    };
    set(call.x_strides, args.x);
    set(call.scale_strides, args.scale);
    set(call.dx_strides, grads.x.at);
    set(call.dscale_strides, grads.scale.at);
    set(call.dshift_strides, grads.shift.at);
    call.width = static_cast<int>(width);
    call.eps = args.eps;
    call.rows = static_cast<uint32_t>(rows);
    call.chunk = static_cast<uint32_t>(chunks.size);
    launch(rt, "norm_backward, tokens", norm_of_tokens_kernel<D>, dim3(static_cast<unsigned>(chunks.count)),
           dim3(static_cast<unsigned>(ceil_div(width / kPack, 32) * 32)), 0, call, Divider(tokens));
  });
  if (sums != nullptr) launch_column_sums<float>(rt, sums, chunks.count, width, chunks.count, Target(grads.weight));
  return true;
}

}  // namespace

// The kernels of norm_backward() take a dout of either type.
void CudaKernels::norm_backward_into(const Tensor& dout, const NormArgs& args, const NormGradients& grads) const {
  if (norm_of_tokens(rt_, dout, args, grads)) return;
  const AddedTo x(*this, grads.x), weight(*this, grads.weight), bias(*this, grads.bias), scale(*this, grads.scale),
      shift(*this, grads.shift);
  norm_backward(dout, args, {x.tensor(), weight.tensor(), bias.tensor(), scale.tensor(), shift.tensor()});
  for (const AddedTo* to : {&x, &weight, &bias, &scale, &shift}) to->finish();
}

void CudaKernels::swiglu_backward_into(const Tensor& dout, const Tensor& x, const Gradient& dx) const {
  if (!dx.wanted()) return;
  if (x.numel() == 0 || !is_half(x) || !is_flat(x) || !is_flat(dout) || !is_flat(dx))
    return Kernels::swiglu_backward_into(dout, x, dx);
  const int64_t half = x.dim(-1) / 2, rows = x.numel() / (2 * half);
  const bool vectors = half % kPack == 0 && on_sixteen(x) && on_sixteen(dout) && on_sixteen(dx.at);
  const int64_t packs = vectors ? half / kPack : half, units = rows * packs;
  if (units >= kMostUnits) return Kernels::swiglu_backward_into(dout, x, dx);
  with_type(dout.dtype(), [&]<class D>(Type<D>) {
    launch(rt_, "swiglu_backward", vectors ? swiglu_backward_kernel<kPack, D> : swiglu_backward_kernel<1, D>,
           dim3(blocks_of(units)), dim3(kThreads), 0, pointer<const D>(dout), pointer<const bf16>(x), Target(dx), half,
           Divider(packs), static_cast<uint32_t>(units));
  });
}

void CudaKernels::activation_backward_into(Activation kind, const Tensor& dout, const Tensor& x,
                                           const Gradient& dx) const {
  if (!dx.wanted()) return;
  const bool known = kind == Activation::silu || kind == Activation::gelu_tanh;
  if (x.numel() == 0 || !known || !is_half(x) || !is_flat(x) || !is_flat(dout) || !is_flat(dx))
    return Kernels::activation_backward_into(kind, dout, x, dx);
  const bool vectors = x.numel() % kPack == 0 && on_sixteen(x) && on_sixteen(dout) && on_sixteen(dx.at);
  const int64_t units = vectors ? x.numel() / kPack : x.numel();
  with_type(dout.dtype(), [&]<class D>(Type<D>) {
    launch(rt_, "activation_backward",
           vectors ? activation_backward_kernel<kPack, D> : activation_backward_kernel<1, D>, dim3(blocks_of(units)),
           dim3(kThreads), 0, kind, pointer<const D>(dout), pointer<const bf16>(x), Target(dx), units);
  });
}

void CudaKernels::add_gated_backward_into(const Tensor& dout, const Tensor& y, const Tensor& gate, const Gradient& dy,
                                          const Gradient& dgate) const {
  const auto other_way = [&] { Kernels::add_gated_backward_into(dout, y, gate, dy, dgate); };
  if (!dy.wanted() && !dgate.wanted()) return;
  if (y.rank() != 3 || y.numel() == 0 || !is_half(y) || !is_half(gate) || share_memory(dy, dgate)) return other_way();
  const int64_t batch = y.dim(0), tokens = y.dim(1), width = y.dim(2);
  for (const Tensor* operand : {&dout, &y, &gate})
    if (!packs_fit(*operand)) return other_way();
  if (!dout.is_contiguous() || !y.is_contiguous() || !is_flat(dy)) return other_way();
  for (const Gradient* target : {&dy, &dgate})
    if (target->wanted() && !packs_fit(target->at)) return other_way();

  const auto of_token = [](const Tensor& t) { return t.dim(1) > 1 && t.stride(1) != 0; };
  const bool summed = dgate.wanted() && tokens > 1 && !of_token(dgate.at);
  if (dgate.wanted() && batch > 1 && dgate.at.stride(0) == 0) return other_way();
  const bool pictures = !of_token(gate) && (summed ? !dgate.fresh : !dgate.wanted());
  const int64_t units = batch * tokens * (width / kPack);
  if (!pictures && (summed || units >= kMostUnits)) return other_way();
  if (pictures && (width / kPack > 512 || batch >= 65536)) return other_way();
  with_type(dout.dtype(), [&]<class D>(Type<D>) {
    GateCall<D> call{};
    call.dout = pointer<const D>(dout);
    call.y = pointer<const bf16>(y);
    call.gate = pointer<const bf16>(gate);
    call.dy = Target(dy);
    call.dgate = Target(dgate);
    call.width = width;
    for (int i = 0; i < 2; ++i) {
      call.gate_strides[i] = gate.stride(i);
      if (dgate.wanted()) call.dgate_strides[i] = dgate.at.stride(i);
    }
    if (pictures)
      gate_of_pictures(rt_, call, batch, tokens, summed ? pointer<float>(dgate.at) : nullptr);
    else
      launch(rt_, "gate_backward, tokens", gate_of_tokens_kernel<D>, dim3(blocks_of(units)), dim3(kThreads), 0, call,
             Divider(width / kPack), Divider(tokens), static_cast<uint32_t>(units));
  });
}

void CudaKernels::rope_backward_into(const Tensor& dout, const Tensor& cos, const Tensor& sin,
                                     const Gradient& dx) const {
  if (!dx.wanted()) return;
  const int64_t batch = dout.dim(0), tokens = dout.dim(1), heads = dout.dim(2), width = dout.dim(3);
  bool fits = dout.numel() > 0 && is_flat(dout) && packs_fit(dout) && packs_fit(dx.at) && cos.is_contiguous() &&
              sin.is_contiguous() && on_sixteen(cos) && on_sixteen(sin);
  for (int i = 0; i < 3; ++i) fits = fits && (dx.at.dim(i) == 1 || dx.at.stride(i) != 0);
  const int group = heads % 4 == 0 ? 4 : 1;
  const int64_t packs = width / kPack, units = batch * tokens * (heads / group) * packs;
  if (!fits || units >= kMostUnits) return Kernels::rope_backward_into(dout, cos, sin, dx);
  with_type(dout.dtype(), [&]<class D>(Type<D>) {
    const RopeCall<D> call{pointer<const D>(dout),
                           cos.data<float>(),
                           sin.data<float>(),
                           Target(dx),
                           {dx.at.stride(0), dx.at.stride(1), dx.at.stride(2)}};
    launch(rt_, "rope_backward", rope_backward_kernel<D>, dim3(blocks_of(units)), dim3(kThreads), 0, call,
           Divider(packs), Divider(heads / group), Divider(tokens), group, static_cast<int>(width),
           static_cast<uint32_t>(units));
  });
}

}  // namespace raedit::backend::cuda
