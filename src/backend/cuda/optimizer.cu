// Training: AdamW and EMA in one pass over memory, and the norm of gradients. Every product, sum, quotient and root is
// rounded on its own, as on the CPU. Source of the formulas: backend/kernels.h.
#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/walk.h"

namespace raedit::backend::cuda {
namespace {

__device__ inline void adamw_element(const AdamWStep& s, float grad, float& param, float& m, float& v) {
  const float g = __fmul_rn(grad, s.grad_scale);
  m = __fadd_rn(m, __fmul_rn(__fsub_rn(g, m), s.one_minus_beta1));
  v = __fadd_rn(__fmul_rn(v, s.beta2), __fmul_rn(__fmul_rn(g, g), s.one_minus_beta2));
  const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), s.root), s.eps);
  param = __fsub_rn(__fmul_rn(param, s.decay), __fmul_rn(s.step_size, __fdiv_rn(m, denominator)));
}

// V elements a thread; the last thread may have fewer.
template <int V>
__global__ void __launch_bounds__(kThreads)
    adamw_step(AdamWStep s, int64_t count, const float* grad, float* param, float* exp_avg, float* exp_avg_sq) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * V;
  if (first + V > count) {
    for (int64_t i = first; i < count; ++i) adamw_element(s, grad[i], param[i], exp_avg[i], exp_avg_sq[i]);
    return;
  }
  float g[V], p[V], m[V], v[V];
  load_values<V>(grad + first, g);
  load_values<V>(param + first, p);
  load_values<V>(exp_avg + first, m);
  load_values<V>(exp_avg_sq + first, v);
#pragma unroll
  for (int i = 0; i < V; ++i) adamw_element(s, g[i], p[i], m[i], v[i]);
  store_values<V>(p, param + first);
  store_values<V>(m, exp_avg + first);
  store_values<V>(v, exp_avg_sq + first);
}

__device__ inline float averaged(float decay, float rest, float average, float value) {
  return __fadd_rn(__fmul_rn(average, decay), __fmul_rn(value, rest));
}

template <int V>
__global__ void __launch_bounds__(kThreads)
    ema_step(float decay, float rest, int64_t count, const float* value, float* average) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * V;
  if (first + V > count) {
    for (int64_t i = first; i < count; ++i) average[i] = averaged(decay, rest, average[i], value[i]);
    return;
  }
  float w[V], a[V];
  load_values<V>(value + first, w);
  load_values<V>(average + first, a);
#pragma unroll
  for (int i = 0; i < V; ++i) a[i] = averaged(decay, rest, a[i], w[i]);
  store_values<V>(a, average + first);
}

// Over the block, for thread 0, in one fixed order.
__device__ inline double sum_of_block(double x) {
  __shared__ double sums[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < kThreads / 32; ++i) sum += sums[i];
  return sum;
}

__global__ void __launch_bounds__(kThreads) square_sums(int64_t count, const float* x, double* sums) {
  double sum = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
#pragma unroll 8
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const double value = x[i];
    sum = fma(value, value, sum);
  }
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) add_sums(int count, const double* sums, double* total) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += sums[i];
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) *total = sum;
}

template <class... T>
bool all_aligned(const T&... tensors) {
  return ((reinterpret_cast<uintptr_t>(tensors.raw()) % 16 == 0) && ...);
}

dim3 blocks_for(int64_t count, int64_t of_thread) {
  return dim3(static_cast<unsigned>(ceil_div(count, kThreads * of_thread)));
}

}  // namespace

void CudaKernels::adamw(const AdamWStep& step, const Tensor& grad, const Tensor& param, const Tensor& exp_avg,
                        const Tensor& exp_avg_sq) const {
  const int64_t count = param.numel();
  if (count == 0) return;
  const int width = all_aligned(grad, param, exp_avg, exp_avg_sq) ? 4 : 1;
  launch(rt_, "adamw", width == 4 ? adamw_step<4> : adamw_step<1>, blocks_for(count, width), dim3(kThreads), 0, step,
         count, grad.data<float>(), param.data<float>(), exp_avg.data<float>(), exp_avg_sq.data<float>());
}

double CudaKernels::sum_of_squares(const Tensor& x) const {
  const int64_t count = x.numel();
  if (count == 0) return 0;
  // The number of blocks is part of the order: it must not depend on the device.
  const int64_t blocks = std::min<int64_t>(ceil_div(count, kThreads * 8), 1024);
  auto* sums = reinterpret_cast<double*>(rt_.workspace(static_cast<size_t>(blocks + 1) * sizeof(double)));
  launch(rt_, "sum_of_squares", square_sums, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, count,
         x.data<float>(), sums);
  launch(rt_, "sum_of_squares", add_sums, dim3(1), dim3(kThreads), 0, static_cast<int>(blocks), sums, sums + blocks);
  double total = 0;
  check(cudaMemcpyAsync(&total, sums + blocks, sizeof(total), cudaMemcpyDeviceToHost, rt_.stream()), "sum_of_squares");
  rt_.synchronize();
  return total;
}

void CudaKernels::ema(float decay, const Tensor& value, const Tensor& average) const {
  const int64_t count = average.numel();
  if (count == 0) return;
  const int width = all_aligned(value, average) ? 4 : 1;
  launch(rt_, "ema", width == 4 ? ema_step<4> : ema_step<1>, blocks_for(count, width), dim3(kThreads), 0, decay,
         1.0f - decay, count, value.data<float>(), average.data<float>());
}

}  // namespace raedit::backend::cuda
