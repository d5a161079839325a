// The sum of squares of one tensor, as the host asks for it: training.cu has the optimizer itself.
#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/double_sum.cuh"
#include "backend/cuda/walk.h"

namespace raedit::backend::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) square_sums(int64_t count, const float* x, double* sums) {
  double sum = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
#pragma unroll 8
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const double value = x[i];
    sum = fma(value, value, sum);
  }
  sum = block_sum_double(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) add_sums(int count, const double* sums, double* total) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += sums[i];
  sum = block_sum_double(sum);
  if (threadIdx.x == 0) *total = sum;
}

}  // namespace

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

}  // namespace raedit::backend::cuda
