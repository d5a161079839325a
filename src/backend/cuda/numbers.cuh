// Numbers on the device: float32 and bfloat16 elements, 16-byte accesses, sums over a warp and a block.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "raedit/dtype.h"

namespace raedit::backend::cuda {

using bf16 = __nv_bfloat16;

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(bf16 x) {
  return __bfloat162float(x);
}
template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// N elements that travel together; 16 bytes are one instruction.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
template <class T>
inline constexpr int kPackOf = 16 / sizeof(T);

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// The sum over the whole block, for every thread, in one fixed order. `shared` holds 32 floats; all threads must call.
__device__ inline float block_sum(float x, float* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
  x = warp_sum(x);
  __syncthreads();  // a former use of `shared` is over
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? shared[lane] : 0.0f);
}

// float32 arithmetic as the CPU backend does it: without contraction where the interface says so.
__device__ inline float silu(float x) {
  return x / (1.0f + expf(-x));
}
__device__ inline float gelu_erf(float x) {
  return 0.5f * x * erfcf(-x * 0.70710678118654752f);
}
__device__ inline float gelu_tanh(float x) {
  return x / (1.0f + expf(-2.0f * 0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

}  // namespace raedit::backend::cuda
