// A block of four warps has 16 rows of the weight, and each warp a quarter of k. Its tensor-core products (mma
// m16n8k16, the weight as the first operand) sum over k in any order, as long as both operands agree on it: so every
// thread takes 16 bytes of a row at once, which make its part of two products. All loads of kAhead steps are under way
// together. The floor is the weight's bytes over the bandwidth. Source: PTX ISA, "Matrix fragments for mma.m16n8k16".
#include "backend/cuda/gemm_skinny.h"

#include "backend/cuda/dispatch.h"
#include "backend/cuda/gemm_finish.cuh"

namespace raedit::backend::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kTileRows = 16;    // of the weight
constexpr int kTileColumns = 8;  // rows of x
constexpr int kStep = 32;        // of k: 8 for each of the four threads of a row
constexpr int kAhead = 4;        // steps

struct SkinnyCall {
  const bf16* x;
  int64_t x_stride;
  const bf16* w;
  int64_t w_stride;
  const float* bias;
  int rows;  // of x
  int n;
  int k;  // a multiple of 8
  Activation act;
  int64_t out_stride;
};

__device__ __forceinline__ uint4 load_streamed(const bf16* from) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(from));
  return v;
}

__device__ __forceinline__ void multiply(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                         uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <int kTiles, class O>
__global__ void __launch_bounds__(32 * kWarps) skinny_kernel(const SkinnyCall call, O* out) {
  __shared__ float partial[kWarps][kTiles][4][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quarter = lane % 4;
  const int top = blockIdx.x * kTileRows;
  const int steps = (call.k + kStep - 1) / kStep;
  const int begin = warp * steps / kWarps, end = (warp + 1) * steps / kWarps;
  const bool upper = top + group < call.n, lower = top + group + 8 < call.n;
  const bf16* w_upper = call.w + (top + group) * call.w_stride;
  const bf16* w_lower = w_upper + 8 * call.w_stride;

  float sums[kTiles][4] = {};
  for (int first = begin; first < end; first += kAhead) {
    uint4 a[kAhead], b[kAhead];
#pragma unroll
    for (int s = 0; s < kAhead; ++s) {
      const int k = (first + s) * kStep + quarter * 8;
      const bool inside = first + s < end && k < call.k;
      a[s] = inside && upper ? load_streamed(w_upper + k) : make_uint4(0, 0, 0, 0);
      b[s] = inside && lower ? load_streamed(w_lower + k) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int s = 0; s < kAhead; ++s) {
      const int k = (first + s) * kStep + quarter * 8;
      const bool inside = first + s < end && k < call.k;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int row = tile * kTileColumns + group;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (inside && row < call.rows) x = *reinterpret_cast<const uint4*>(call.x + row * call.x_stride + k);
        multiply(sums[tile], a[s].x, b[s].x, a[s].y, b[s].y, x.x, x.y);
        multiply(sums[tile], a[s].z, b[s].z, a[s].w, b[s].w, x.z, x.w);
      }
    }
  }

#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int i = 0; i < 4; ++i) partial[warp][tile][i][lane] = sums[tile][i];
  __syncthreads();
  // Thread by thread one of the 16 x 8 numbers of a tile: the warp is which of a thread's four it was.
  const int column = top + group + warp / 2 * 8;
  if (column >= call.n) return;
  const float bias = call.bias != nullptr ? call.bias[column] : 0.0f;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int row = tile * kTileColumns + quarter * 2 + warp % 2;
    if (row >= call.rows) continue;
    float sum = partial[0][tile][warp][lane];
#pragma unroll
    for (int part = 1; part < kWarps; ++part) sum += partial[part][tile][warp][lane];
    out[row * call.out_stride + column] = finished<O>(sum, bias, call.act);
  }
}

}  // namespace

bool skinny_fits(const CudaPackedMatrix& w, int64_t rows) {
  constexpr int64_t kMost = int64_t{1} << 30;
  return w.dtype == DType::bfloat16 && rows >= 1 && rows <= kSkinnyRows && w.n < kMost && w.padded_k < kMost;
}

void skinny_linear(const Runtime& rt, const Matrix& x, const CudaPackedMatrix& w, const float* bias, Activation act,
                   const Matrix& out) {
  const SkinnyCall call{reinterpret_cast<const bf16*>(x.data),
                        x.row_stride,
                        reinterpret_cast<const bf16*>(w.data),
                        w.ld,
                        bias,
                        static_cast<int>(x.rows),
                        static_cast<int>(w.n),
                        static_cast<int>(w.padded_k),
                        act,
                        out.row_stride};
  const dim3 blocks(static_cast<unsigned>(ceil_div(w.n, kTileRows)));
  with_type(out.dtype, [&]<class O>(Type<O>) {
    void (*kernel)(SkinnyCall, O*) = x.rows <= 8    ? skinny_kernel<1, O>
                                     : x.rows <= 16 ? skinny_kernel<2, O>
                                                    : skinny_kernel<4, O>;
    launch(rt, "skinny_linear", kernel, blocks, dim3(32 * kWarps), 0, call,
           reinterpret_cast<O*>(const_cast<std::byte*>(out.data)));
  });
}

}  // namespace raedit::backend::cuda
