// Rotary position embedding, table lookup and Fourier features.
// Formulas: Su et al., RoFormer (arXiv 2104.09864), on the pairs (2k, 2k + 1); Tancik et al., Fourier Features
// (arXiv 2006.10739).
#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/overlap.cuh"
#include "backend/cuda/walk.h"

namespace raedit::backend::cuda {
namespace {

// Where things are for the units of a rotation, V elements of a head each.
struct Rotation {
  Divider units_of_head, heads, tokens;
  uint32_t units;
  int64_t x[3], out[3];  // strides of [B,N,H]
  int64_t cos, sin;      // of [N]
  bool inverse;
};

// Products are rounded before they are added, as on the CPU, so the bits are the same for any V. Where rows begin
// anywhere a unit is one pair, read element by element.
template <int V, class T>
__global__ void __launch_bounds__(kThreads) rotate(Rotation r, const T* x, const float* cos, const float* sin, T* out) {
  wait_for_inputs();
  const uint32_t unit = blockIdx.x * kThreads + threadIdx.x;
  if (unit >= r.units) return;
  const uint32_t head = r.units_of_head.quotient(unit), token = r.heads.quotient(head), b = r.tokens.quotient(token);
  const int64_t d = static_cast<int64_t>(unit - head * r.units_of_head.divisor) * V;
  const int64_t h = head - token * r.heads.divisor, n = token - b * r.tokens.divisor;
  constexpr int N = V == 2 ? 1 : kAccess<T, V>, kAngles = V == 2 ? 1 : kAccess<float, V>;
  float v[V], c[V], s[V], y[V];
  load_values<V, T, N>(x + b * r.x[0] + n * r.x[1] + h * r.x[2] + d, v);
  load_values<V, float, kAngles>(cos + n * r.cos + d, c);
  load_values<V, float, kAngles>(sin + n * r.sin + d, s);
#pragma unroll
  for (int i = 0; i < V; i += 2) {
    // Back is the transposed matrix: the sine is that of the element that the partner came from.
    const float even = r.inverse ? __fmul_rn(v[i + 1], s[i + 1]) : -__fmul_rn(v[i + 1], s[i]);
    const float odd = r.inverse ? -__fmul_rn(v[i], s[i]) : __fmul_rn(v[i], s[i + 1]);
    y[i] = __fadd_rn(__fmul_rn(v[i], c[i]), even);
    y[i + 1] = __fadd_rn(__fmul_rn(v[i + 1], c[i + 1]), odd);
  }
  store_values<V, T, N>(y, out + b * r.out[0] + n * r.out[1] + h * r.out[2] + d);
}

template <class T>
void rotate_part(const Runtime& rt, const Tensor& x, const Tensor& cos, const Tensor& sin, bool inverse,
                 const Tensor& out) {
  constexpr int V = kPackOf<T>;
  const int64_t width = x.dim(3);
  const bool vectors = width % V == 0 && rows_aligned(x) && rows_aligned(out) && rows_aligned(cos) && rows_aligned(sin);
  const int64_t of_unit = vectors ? V : 2;
  Rotation r{Divider(width / of_unit), Divider(x.dim(2)), Divider(x.dim(1))};
  r.units = static_cast<uint32_t>(x.numel() / of_unit);
  for (int i = 0; i < 3; ++i) {
    r.x[i] = x.stride(i);
    r.out[i] = out.stride(i);
  }
  r.cos = cos.stride(0);
  r.sin = sin.stride(0);
  r.inverse = inverse;
  launch_overlapping(rt, "rope", vectors ? rotate<V, T> : rotate<2, T>,
                     dim3(static_cast<unsigned>(ceil_div(r.units, kThreads))), dim3(kThreads), 0, r,
                     pointer<const T>(x), pointer<const float>(cos), pointer<const float>(sin), pointer<T>(out));
}

__global__ void __launch_bounds__(kThreads)
    look_up(DType from, const void* table, int64_t table_stride, const int64_t* ids, int64_t id_stride, int64_t width,
            DType to, void* out, int64_t out_stride) {
  const int64_t i = blockIdx.x, d = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (d >= width) return;
  store_any(to, out, i * out_stride + d, load_any(from, table, ids[i * id_stride] * table_stride + d));
}

// The first of several equal ids adds for all of them, in their order.
__global__ void __launch_bounds__(kThreads)
    add_looked_up(const float* dout, int64_t dout_stride, int64_t dout_step, const int64_t* ids, int64_t id_stride,
                  int64_t count, int64_t width, float* dtable, int64_t dtable_stride, int64_t dtable_step) {
  const int64_t first = blockIdx.x, d = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  const int64_t id = ids[first * id_stride];
  for (int64_t i = 0; i < first; ++i)
    if (ids[i * id_stride] == id) return;
  if (d >= width) return;
  float* target = dtable + id * dtable_stride + d * dtable_step;
  float sum = *target;
  for (int64_t i = first; i < count; ++i)
    if (ids[i * id_stride] == id) sum += dout[i * dout_stride + d * dout_step];
  *target = sum;
}

// u is rounded after each product, as a reference in float32 does. It can be thousands of turns, so its sine needs an
// exact reduction: the double one, rounded once.
template <class T>
__global__ void __launch_bounds__(kThreads) fourier(const float* t, int64_t t_stride, const float* w, int64_t w_stride,
                                                    int64_t frequencies, T* out, int64_t out_stride) {
  const int64_t b = blockIdx.x, f = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (f >= frequencies) return;
  constexpr float kPi = 3.14159265358979323846f;
  const float u = __fmul_rn(__fmul_rn(__fmul_rn(t[b * t_stride], w[f * w_stride]), 2.0f), kPi);
  double sine, cosine;
  sincos(static_cast<double>(u), &sine, &cosine);
  out[b * out_stride + f] = from_float<T>(static_cast<float>(sine));
  out[b * out_stride + frequencies + f] = from_float<T>(static_cast<float>(cosine));
}

// A block for each row and each kThreads of its columns.
dim3 row_blocks(int64_t rows, int64_t width) {
  return dim3(static_cast<unsigned>(rows), static_cast<unsigned>(ceil_div(width, kThreads)));
}

}  // namespace

void CudaKernels::rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool inverse, const Tensor& out) const {
  if (x.numel() == 0) return;
  if (x.numel() > kMostElements && x.dim(0) > 1) {
    const int64_t size = x.dim(0), half = size / 2;
    rope(x.slice(0, 0, half), cos, sin, inverse, out.slice(0, 0, half));
    return rope(x.slice(0, half, size), cos, sin, inverse, out.slice(0, half, size));
  }
  check_dtype("rope", out, x.dtype());
  with_type(x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    rotate_part<T>(rt_, x, cos, sin, inverse, out);
  });
}

void CudaKernels::embedding(const Tensor& table, const Tensor& ids, const Tensor& out) const {
  if (out.numel() == 0) return;
  launch(rt_, "embedding", look_up, row_blocks(ids.dim(0), table.dim(1)), dim3(kThreads), 0, table.dtype(),
         pointer<const void>(table), table.stride(0), pointer<const int64_t>(ids), ids.stride(0), table.dim(1),
         out.dtype(), pointer<void>(out), out.stride(0));
}

void CudaKernels::embedding_backward(const Tensor& dout, const Tensor& ids, const Tensor& dtable) const {
  if (!dtable.defined() || dout.numel() == 0) return;
  launch(rt_, "embedding_backward", add_looked_up, row_blocks(ids.dim(0), dtable.dim(1)), dim3(kThreads), 0,
         pointer<const float>(dout), dout.stride(0), dout.stride(1), pointer<const int64_t>(ids), ids.stride(0),
         ids.dim(0), dtable.dim(1), pointer<float>(dtable), dtable.stride(0), dtable.stride(1));
}

void CudaKernels::fourier_features(const Tensor& t, const Tensor& w, const Tensor& out) const {
  if (out.numel() == 0) return;
  with_type(out.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(rt_, "fourier_features", fourier<T>, row_blocks(t.dim(0), w.dim(0)), dim3(kThreads), 0,
           pointer<const float>(t), t.stride(0), pointer<const float>(w), w.stride(0), w.dim(0), pointer<T>(out),
           out.stride(0));
  });
}

}  // namespace raedit::backend::cuda
