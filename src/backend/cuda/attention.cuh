// What the attention kernels share: tiles of bfloat16 rows in shared memory, and the tensor cores' m16n8k16 product
// with float32 sums. Fragment layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16" and "ldmatrix".
#pragma once

#include "backend/cuda/numbers.cuh"
#include "backend/cuda/runtime.h"
#include "raedit/tensor.h"

namespace raedit::backend::cuda {

// The plain way, in float32 and for every width: scores in memory, any dtypes.
void attention_plain(const Runtime& rt, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                     const Tensor& out);

// A gradient as the kernels see it: columns are neighbours.
struct GradientView {
  float* data = nullptr;  // null: not wanted
  int64_t batch = 0, row = 0, head = 0;
  bool pairs = false;  // pairs of columns lie on addresses that are multiples of their size
  bool half = false;   // bfloat16, and written instead of added to: by the tensor cores' kernels alone
};

// `scratch` has plain_backward_bytes() bytes.
size_t plain_backward_bytes(const Tensor& q, const Tensor& k);
void attention_backward_plain(const Runtime& rt, const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                              float scale, const GradientView& dq, const GradientView& dk, const GradientView& dv,
                              std::byte* scratch);

namespace attention {

constexpr int kWidest = 128;
constexpr float kLog2e = 1.4426950408889634f;

// Tensor cores take bfloat16 numbers, and a float32 number is the sum of three. Rows of few keys are cheap: there, and
// where heads are narrow, all three are multiplied, and results are those of float32 arithmetic. Otherwise the first
// is.
inline bool is_exact(int64_t keys, int64_t width) {
  return keys < 128 || width < 32;
}
constexpr int parts_of(bool exact) {
  return exact ? 3 : 1;
}

// [B,N,H,Dh] without its shape.
template <class T>
struct RowsOf {
  const T* data;
  int64_t batch, row, head;
  bool aligned;  // whole rows can travel in pieces of 16 bytes

  __device__ const T* of(int64_t b, int64_t h) const { return data + b * batch + h * head; }
};
using Rows = RowsOf<bf16>;

// Rows of `Width` columns in shared memory, filled up with zeros to whole steps of 16. The pitch is an odd number of 16
// bytes: eight rows of a column of ldmatrix lie in different banks.
template <int Width>
struct Tile {
  static_assert(Width % 8 == 0);
  static constexpr int kColumns = (Width + 15) / 16 * 16;
  static constexpr int kPitch = kColumns + 8;
  static constexpr int kSteps = kColumns / 16;  // of a sum over the columns
  static constexpr int kEights = Width / 8;     // of a result with these columns
};

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes, zeros where not `inside`; the address must be valid either way.
__device__ inline void copy_async(void* target, const void* source, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)), "l"(source),
               "r"(inside ? 16 : 0)
               : "memory");
}
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// All but the newest `Pending` groups have arrived (for this thread).
template <int Pending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// tile[0,rows) = source rows [first, first + rows), zeros from `limit` and from column `width` on.
template <int Width, int Threads>
__device__ inline void load_tile(bf16* tile, const bf16* source, int64_t stride, bool aligned, int first, int limit,
                                 int rows, int width) {
  constexpr int kPieces = Tile<Width>::kColumns / 8;
  for (int i = static_cast<int>(threadIdx.x); i < rows * kPieces; i += Threads) {
    const int row = i / kPieces, column = i % kPieces * 8;
    const bool inside = first + row < limit && column < width;
    const bf16* from = source + (first + row) * stride + column;
    bf16* to = tile + row * Tile<Width>::kPitch + column;
    if (aligned) {
      copy_async(to, inside ? from : source, inside);
    } else {
      Pack<bf16, 8> piece;
#pragma unroll
      for (int e = 0; e < 8; ++e) piece.at[e] = inside && column + e < width ? from[e] : from_float<bf16>(0.0f);
      *reinterpret_cast<Pack<bf16, 8>*>(to) = piece;
    }
  }
}

__device__ inline void load_matrices(uint32_t (&to)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&to)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// c[16,8] += a[16,16] * b[16,8]. A thread's c: rows lane/4 and lane/4 + 8, columns lane%4*2 and the next.
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The left side of a product: 16 rows of a tile, from registers or from shared memory again and again.
template <int Width, bool InRegisters>
struct LeftRows;
template <int Width>
struct LeftRows<Width, false> {
  const bf16* at;
  __device__ void load(const bf16* rows) {
    const int lane = threadIdx.x % 32;
    at = rows + lane % 16 * Tile<Width>::kPitch + lane / 16 * 8;
  }
  __device__ void step(int step, uint32_t (&a)[4]) const { load_matrices(a, at + step * 16); }
};
template <int Width>
struct LeftRows<Width, true> {
  uint32_t fragments[Tile<Width>::kSteps][4];
  __device__ void load(const bf16* rows) {
    LeftRows<Width, false> memory;
    memory.load(rows);
#pragma unroll
    for (int step = 0; step < Tile<Width>::kSteps; ++step) memory.step(step, fragments[step]);
  }
  __device__ void step(int step, uint32_t (&a)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = fragments[step][i];
  }
};

// c[16,8*Eights] += left * rows^T, the sum over the columns of both, for `Tall` times 16 rows. With Whole unset only
// rows below `live` (up to the next 16) are read.
template <int Width, bool Whole, int Tall, int Eights, class Left>
__device__ inline void multiply_rows(float (&c)[Tall][Eights][4], const Left (&left)[Tall], const bf16* rows,
                                     int live) {
  const int lane = threadIdx.x % 32;
  const bf16* at = rows + (lane % 8 + lane / 16 * 8) * Tile<Width>::kPitch + lane / 8 % 2 * 8;
#pragma unroll
  for (int step = 0; step < Tile<Width>::kSteps; ++step) {
    uint32_t a[Tall][4];
#pragma unroll
    for (int t = 0; t < Tall; ++t) left[t].step(step, a[t]);
#pragma unroll
    for (int pair = 0; pair < Eights / 2; ++pair) {
      if (Whole || pair * 16 < live) {
        uint32_t b[4];
        load_matrices(b, at + pair * 16 * Tile<Width>::kPitch + step * 16);
#pragma unroll
        for (int t = 0; t < Tall; ++t) {
          multiply_add(c[t][2 * pair], a[t], b[0], b[1]);
          multiply_add(c[t][2 * pair + 1], a[t], b[2], b[3]);
        }
      }
    }
  }
}

// c[16,Width] += a[16,16] * rows[16,Width], `Tall` times.
template <int Width, int Tall>
__device__ inline void multiply_columns(float (&c)[Tall][Tile<Width>::kEights][4], const uint32_t (&a)[Tall][4],
                                        const bf16* rows) {
  const int lane = threadIdx.x % 32;
  const bf16* at = rows + lane % 16 * Tile<Width>::kPitch + lane / 16 * 8;
#pragma unroll
  for (int pair = 0; pair < Tile<Width>::kSteps; ++pair) {
    uint32_t b[4];
    load_matrices_transposed(b, at + pair * 16);
#pragma unroll
    for (int t = 0; t < Tall; ++t) {
      multiply_add(c[t][2 * pair], a[t], b[0], b[1]);
      if (2 * pair + 1 < Tile<Width>::kEights) multiply_add(c[t][2 * pair + 1], a[t], b[2], b[3]);
    }
  }
}

__device__ inline uint32_t pack_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
// The left side of the next product out of two neighbouring results: columns become the sum.
__device__ inline void as_left(uint32_t (&a)[4], const float (&c0)[4], const float (&c1)[4]) {
  a[0] = pack_pair(c0[0], c0[1]);
  a[1] = pack_pair(c0[2], c0[3]);
  a[2] = pack_pair(c1[0], c1[1]);
  a[3] = pack_pair(c1[2], c1[3]);
}
// What as_left rounded off.
__device__ inline float remainder(float x) {
  return x - to_float(from_float<bf16>(x));
}
template <int Count>
__device__ inline void keep_remainders(float (&x)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) x[i] = remainder(x[i]);
}

template <int Eights>
__device__ inline void clear(float (&c)[Eights][4]) {
#pragma unroll
  for (int i = 0; i < Eights; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) c[i][e] = 0.0f;
}
template <int Tall, int Eights>
__device__ inline void clear(float (&c)[Tall][Eights][4]) {
#pragma unroll
  for (int t = 0; t < Tall; ++t) clear(c[t]);
}

// Over the four threads that share a row.
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Columns from `live` on have no logits.
template <int Eights>
__device__ inline void mask(float (&s)[Eights][4], int live) {
  const int first = threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < Eights; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (i * 8 + first + e % 2 >= live) s[i][e] = -INFINITY;
  }
}
// Over the thread's columns of row lane/4 + 8 * r.
template <int Eights>
__device__ inline float largest_of(const float (&s)[Eights][4], int r) {
  float largest = -INFINITY;
#pragma unroll
  for (int i = 0; i < Eights; ++i) largest = fmaxf(largest, fmaxf(s[i][2 * r], s[i][2 * r + 1]));
  return largest;
}

}  // namespace attention
}  // namespace raedit::backend::cuda
