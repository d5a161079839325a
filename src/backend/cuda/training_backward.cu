// What goes back through a model in bfloat16, in as few bytes as that takes: gradients are written once, where nothing
// is yet, and sums over rows are formed in the pass that writes. Sums are in one fixed order: within a chunk of rows,
// then over the chunks. What is not covered here goes the way of the base class.
#include "backend/cuda/training_backward.cuh"

namespace raedit::backend::cuda {
namespace {

// ---- swiglu

__device__ __forceinline__ void swiglu_gradient(float d, float value, float gate, float& dvalue, float& dgate) {
  const float s = 1.0f / (1.0f + expf(-gate));
  dvalue = d * gate * s;
  dgate = d * value * s * fmaf(gate, 1.0f - s, 1.0f);
}

constexpr int kSwigluThreads = 128;

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

// The same for a chunk of rows, blockIdx.y, and the sums over its rows of what is written. A thread has V columns of
// each half.
template <int V, class D>
__global__ void __launch_bounds__(kSwigluThreads)
    swiglu_backward_sums_kernel(const D* __restrict__ dout, const bf16* __restrict__ x, Target dx, int64_t half,
                                int64_t rows, int64_t chunk, float* __restrict__ sums) {
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kSwigluThreads + threadIdx.x) * V;
  if (column >= half) return;
  const int64_t begin = blockIdx.y * chunk, end = min(rows, begin + chunk);
  float value_sums[V]{}, gate_sums[V]{};
#pragma unroll 4
  for (int64_t row = begin; row < end; ++row) {
    const int64_t first = row * 2 * half + column;
    float d[V], value[V], gate[V];
    load_values<V>(dout + row * half + column, d);
    load_values<V>(x + first, value);
    load_values<V>(x + first + half, gate);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float dvalue, dgate;
      swiglu_gradient(d[i], value[i], gate[i], dvalue, dgate);
      value_sums[i] += value[i] = dvalue;
      gate_sums[i] += gate[i] = dgate;
    }
    dx.store<V>(first, value);
    dx.store<V>(first + half, gate);
  }
  float* const to = sums + blockIdx.y * 2 * half + column;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    to[i] = value_sums[i];
    to[half + i] = gate_sums[i];
  }
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

constexpr int kGateUnroll = 4;

// A gate for all tokens of a picture. Block (chunk, picture), a thread for each 8 columns; sums [picture,chunk,width].
template <class D>
__global__ void __launch_bounds__(512)
    gate_of_pictures_kernel(GateCall<D> call, int64_t tokens, int64_t chunk, float* sums, float* dy_sums) {
  const int64_t column = static_cast<int64_t>(threadIdx.x) * kPack;
  if (column >= call.width) return;
  const int64_t begin = blockIdx.x * chunk, end = min(tokens, begin + chunk);
  float gate[kPack], sum[kPack]{}, plain[kPack]{};
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
      plain[i] += d[i];
      d[i] *= gate[i];
    }
    if (call.dy.data != nullptr) call.dy.template store<kPack>(at, d);
  }
  const int64_t to = (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * call.width + column;
  if (sums != nullptr) store_values<kPack>(sum, sums + to);
  if (dy_sums == nullptr) return;
#pragma unroll
  for (int i = 0; i < kPack; ++i) plain[i] *= gate[i];
  store_values<kPack>(plain, dy_sums + to);
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

// dgate is added to, dy_sums [width] written; either may be null.
template <class D>
void gate_of_pictures(const Runtime& rt, const GateCall<D>& call, int64_t batch, int64_t tokens, float* dgate,
                      float* dy_sums) {
  const int64_t width = call.width;
  const Chunks chunks(tokens, std::max<int64_t>(1, 8 * rt.multiprocessors() / batch));
  const int64_t rows = batch * chunks.count;
  auto* scratch = reinterpret_cast<float*>(rt.workspace(static_cast<size_t>(2 * rows * width) * sizeof(float)));
  float* const gate_parts = dgate != nullptr ? scratch : nullptr;
  float* const dy_parts = dy_sums != nullptr ? scratch + rows * width : nullptr;
  const auto threads = static_cast<unsigned>(ceil_div(width / kPack, 32) * 32);
  launch(rt, "gate_backward", gate_of_pictures_kernel<D>,
         dim3(static_cast<unsigned>(chunks.count), static_cast<unsigned>(batch)), dim3(threads), 0, call, tokens,
         chunks.size, gate_parts, dy_parts);
  if (dgate != nullptr)
    launch(rt, "gate_backward, sums", add_chunks_kernel, dim3(blocks_of(width), static_cast<unsigned>(batch)),
           dim3(kThreads), 0, gate_parts, chunks.count, width, dgate, call.dgate_strides[0]);
  if (dy_sums == nullptr) return;
  Target to;
  to.data = dy_sums;
  launch_column_sums<float>(rt, dy_parts, rows, width, rows, to);
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

bool CudaKernels::swiglu_backward_with_sums(const Tensor& dout, const Tensor& x, const Gradient& dx,
                                            const Tensor& sums) const {
  if (x.numel() == 0 || !is_half(x) || !is_flat(x) || !is_flat(dout) || !dx.fresh || !is_flat(dx)) return false;
  const int64_t half = x.dim(-1) / 2, rows = x.numel() / (2 * half);
  const bool vectors = half % kPack == 0 && on_sixteen(x) && on_sixteen(dout) && on_sixteen(dx.at);
  const int64_t blocks = ceil_div(half, kSwigluThreads * (vectors ? kPack : 1));
  const Chunks chunks(rows, std::clamp<int64_t>(16 * rt_.multiprocessors() / blocks, 1, 512));
  auto* parts = reinterpret_cast<float*>(rt_.workspace(static_cast<size_t>(chunks.count * 2 * half) * sizeof(float)));
  with_type(dout.dtype(), [&]<class D>(Type<D>) {
    launch(rt_, "swiglu_backward", vectors ? swiglu_backward_sums_kernel<kPack, D> : swiglu_backward_sums_kernel<1, D>,
           dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(chunks.count)), dim3(kSwigluThreads), 0,
           pointer<const D>(dout), pointer<const bf16>(x), Target(dx), half, rows, chunks.size, parts);
  });
  Target to;
  to.data = sums.raw();
  launch_column_sums<float>(rt_, parts, chunks.count, 2 * half, chunks.count, to);
  return true;
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

namespace {

// False where the operands are others; nothing was done then. dy_sums may be null, and is for one gate a picture only.
bool gate_backward(const Runtime& rt, const Tensor& dout, const Tensor& y, const Tensor& gate, const Gradient& dy,
                   const Gradient& dgate, float* dy_sums) {
  if (y.rank() != 3 || y.numel() == 0 || !is_half(y) || !is_half(gate) || share_memory(dy, dgate)) return false;
  const int64_t batch = y.dim(0), tokens = y.dim(1), width = y.dim(2);
  for (const Tensor* operand : {&dout, &y, &gate})
    if (!packs_fit(*operand)) return false;
  if (!dout.is_contiguous() || !y.is_contiguous() || !is_flat(dy)) return false;
  for (const Gradient* target : {&dy, &dgate})
    if (target->wanted() && !packs_fit(target->at)) return false;

  const auto of_token = [](const Tensor& t) { return t.dim(1) > 1 && t.stride(1) != 0; };
  const bool summed = dgate.wanted() && tokens > 1 && !of_token(dgate.at);
  if (dgate.wanted() && batch > 1 && dgate.at.stride(0) == 0) return false;
  const bool pictures = !of_token(gate) && (summed ? !dgate.fresh : !dgate.wanted());
  const int64_t units = batch * tokens * (width / kPack);
  if (!pictures && (dy_sums != nullptr || summed || units >= kMostUnits)) return false;
  if (pictures && (width / kPack > 512 || batch >= 65536)) return false;
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
      gate_of_pictures(rt, call, batch, tokens, summed ? pointer<float>(dgate.at) : nullptr, dy_sums);
    else
      launch(rt, "gate_backward, tokens", gate_of_tokens_kernel<D>, dim3(blocks_of(units)), dim3(kThreads), 0, call,
             Divider(width / kPack), Divider(tokens), static_cast<uint32_t>(units));
  });
  return true;
}

}  // namespace

void CudaKernels::add_gated_backward_into(const Tensor& dout, const Tensor& y, const Tensor& gate, const Gradient& dy,
                                          const Gradient& dgate) const {
  if (!dy.wanted() && !dgate.wanted()) return;
  if (!gate_backward(rt_, dout, y, gate, dy, dgate, nullptr))
    Kernels::add_gated_backward_into(dout, y, gate, dy, dgate);
}

bool CudaKernels::add_gated_backward_with_sums(const Tensor& dout, const Tensor& y, const Tensor& gate,
                                               const Gradient& dy, const Gradient& dgate, const Tensor& sums) const {
  return gate_backward(rt_, dout, y, gate, dy, dgate, pointer<float>(sums));
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
