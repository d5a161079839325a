// The gradient of a norm whose modulation differs from token to token, in one pass: what the decoder's blocks have.
#include "backend/cuda/training_backward.cuh"

namespace raedit::backend::cuda {
namespace {

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

}  // namespace raedit::backend::cuda
