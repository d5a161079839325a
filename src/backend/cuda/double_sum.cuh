// Sums in float64, in one fixed order.
#pragma once

#include "backend/cuda/walk.h"

namespace raedit::backend::cuda {

// Over a block of kThreads, for thread 0.
__device__ inline double block_sum_double(double x) {
  __shared__ double sums[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < kThreads / 32; ++i) sum += sums[i];
  return sum;
}

}  // namespace raedit::backend::cuda
