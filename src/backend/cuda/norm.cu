// Layer norm and RMS norm: alone or modulated, before a rotation of heads, and after a gated residual.
// Formulas: norm.cuh; the rotation is that of Su et al., RoFormer (arXiv 2104.09864), on the pairs (2k, 2k + 1).
//
// One kernel in three forms. A row stays in the registers of those who share it (8 numbers a thread), so x is read once
// and out is written once: the floor is (size of x + size of out) / bandwidth. In bfloat16 that is 4 bytes a number for
// norm and norm_rope, 8 for add_gated_norm (x, y, sum, out), plus a gate, scale and shift that are not broadcast.
// Everything that does not depend on the row's moments is asked for before they are known.
#include "backend/cuda/norm.cuh"
#include "backend/cuda/overlap.cuh"

namespace raedit::backend::cuda {
namespace {

enum class NormForm { plain, rope, gated };

struct NormCall {
  NormSize size;
  float eps = 0;
  bool layer = false;
  NormOperand x, scale, shift;
  NormOperand y, gate;  // gated
  const float* weight = nullptr;
  const float* bias = nullptr;
  const float* cos = nullptr;  // rope
  const float* sin = nullptr;
  int64_t cos_stride = 0, sin_stride = 0;
  std::byte* sum = nullptr;  // gated; contiguous, like out
  std::byte* out = nullptr;
};

// What is done to a pack of a normalised row, as it comes from memory.
struct NormFactors {
  RawPack weight, bias;
  RawPack scale, shift;  // rope: cosines and sines
};

template <NormForm form, bool aligned>
__device__ __forceinline__ NormFactors fetch_factors(const NormCall& call, const NormPlace& place, int pack) {
  const int width = call.size.width;
  NormFactors factors;
  if (call.weight != nullptr) factors.weight = fetch_floats<aligned>(call.weight, pack, width);
  if (call.bias != nullptr) factors.bias = fetch_floats<aligned>(call.bias, pack, width);
  if constexpr (form == NormForm::rope) {
    factors.scale = fetch_floats<aligned>(call.cos + place.n * call.cos_stride, pack, width);
    factors.shift = fetch_floats<aligned>(call.sin + place.n * call.sin_stride, pack, width);
  } else {
    if (call.scale.data != nullptr) factors.scale = fetch_operand<aligned, true>(call.scale, place, pack, width);
    if (call.shift.data != nullptr) factors.shift = fetch_operand<aligned, true>(call.shift, place, pack, width);
  }
  return factors;
}

// Every step is rounded on its own, as in norm and rope one after the other.
template <class T>
__device__ __forceinline__ void rotate(const NormFactors& factors, float (&v)[kNormPack]) {
#pragma unroll
  for (int e = 0; e < kNormPack; e += 2) {
    float a = v[e], b = v[e + 1];
    round_pair<T>(a, b);
    v[e] = __fadd_rn(__fmul_rn(a, float_at(factors.scale, e)), __fmul_rn(-b, float_at(factors.shift, e)));
    v[e + 1] = __fadd_rn(__fmul_rn(b, float_at(factors.scale, e + 1)), __fmul_rn(a, float_at(factors.shift, e + 1)));
  }
}

template <class T, NormForm form, bool aligned>
__device__ __forceinline__ void finish(const NormCall& call, const NormFactors& factors, float rstd,
                                       float (&v)[kNormPack]) {
#pragma unroll
  for (int e = 0; e < kNormPack; ++e) v[e] = __fmul_rn(v[e], rstd);
  if (call.weight != nullptr) {
#pragma unroll
    for (int e = 0; e < kNormPack; ++e) v[e] = __fmul_rn(v[e], float_at(factors.weight, e));
  }
  if (call.bias != nullptr) {
#pragma unroll
    for (int e = 0; e < kNormPack; ++e) v[e] = __fadd_rn(v[e], float_at(factors.bias, e));
  }
  if constexpr (form == NormForm::rope) {
    rotate<T>(factors, v);
  } else {
    float modulation[kNormPack];
    if (call.scale.data != nullptr) {
      unpack<aligned>(factors.scale, call.scale.half, modulation);
#pragma unroll
      for (int e = 0; e < kNormPack; ++e) v[e] = __fmul_rn(v[e], __fadd_rn(1.0f, modulation[e]));
    }
    if (call.shift.data != nullptr) {
      unpack<aligned>(factors.shift, call.shift.half, modulation);
#pragma unroll
      for (int e = 0; e < kNormPack; ++e) v[e] = __fadd_rn(v[e], modulation[e]);
    }
  }
}

// The pack of the row to be normalised. gated: sum = x + gate * y, written and rounded.
template <class T, NormForm form, bool aligned>
__device__ __forceinline__ void fill(const NormCall& call, const NormPlace& place, int pack, bool own,
                                     float (&v)[kNormPack]) {
  constexpr bool half = sizeof(T) == 2;
  const int width = call.size.width, column = pack * kNormPack;
  const RawPack x = fetch_pack<aligned>(call.x.data, half, place.offset(call.x), column, width);
  if constexpr (form == NormForm::gated) {
    const RawPack y = fetch_operand<aligned>(call.y, place, pack, width);
    const RawPack gate = fetch_operand<aligned>(call.gate, place, pack, width);
    float ys[kNormPack], gates[kNormPack];
    unpack<aligned>(x, half, v);
    unpack<aligned>(y, call.y.half, ys);
    unpack<aligned>(gate, call.gate.half, gates);
#pragma unroll
    for (int e = 0; e < kNormPack; ++e) v[e] = fmaf(gates[e], ys[e], v[e]);
#pragma unroll
    for (int e = 0; e < kNormPack; e += 2) round_pair<T>(v[e], v[e + 1]);
    if (own)
      store_pack<aligned>(reinterpret_cast<T*>(call.sum) + static_cast<int64_t>(place.row) * width, column, width, v);
  } else {
    unpack<aligned>(x, half, v);
  }
}

// The same pack again, where it was not kept. A thread reads what it wrote itself.
template <class T, NormForm form>
__device__ __forceinline__ void refill(const NormCall& call, const NormPlace& place, int pack, float (&v)[kNormPack]) {
  constexpr bool half = sizeof(T) == 2;
  const bool gated = form == NormForm::gated;
  const int64_t offset = gated ? static_cast<int64_t>(place.row) * call.size.width : place.offset(call.x);
  unpack<false>(fetch_pack<false>(gated ? call.sum : call.x.data, half, offset, pack * kNormPack, call.size.width),
                half, v);
}

template <class T, class Layout, bool aligned, NormForm form>
__global__ void norm_kernel(const NormCall call) {
  alignas(16) __shared__ float shared[RowSum<Layout>::kShared];
  wait_for_inputs();
  RowSum<Layout> row_sum(shared);
  const NormPlace place = norm_place<Layout>(call.size);
  constexpr bool early = Layout::items == 1;  // more would not fit the registers
  NormFactors factors;
  if constexpr (early) factors = fetch_factors<form, aligned>(call, place, min(place.first, place.packs - 1));

  float v[kNormKept<Layout>][kNormPack];
  float own_sum = 0.0f;
  each_pack<Layout>(place, [&](int pack, int i, bool own) {
    fill<T, form, aligned>(call, place, pack, own, v[i]);
    own_sum += own ? tree_sum(v[i]) : 0.0f;
  });
  const auto again = [&](int pack, float(&to)[kNormPack]) { refill<T, form>(call, place, pack, to); };
  const NormMoments moments =
      norm_moments<Layout, aligned>(place, call.size.width, call.layer, call.eps, v, own_sum, row_sum, again);

  T* const out = reinterpret_cast<T*>(call.out) + static_cast<int64_t>(place.row) * call.size.width;
  each_pack<Layout>(place, [&](int pack, int i, bool own) {
    if constexpr (Layout::items == 0) {
      again(pack, v[0]);
      deviate<aligned>(v[0], pack, call.size.width, call.layer, moments.mean);
    }
    if constexpr (!early) factors = fetch_factors<form, aligned>(call, place, pack);
    finish<T, form, aligned>(call, factors, moments.rstd, v[i]);
    if (own) store_pack<aligned>(out, pack * kNormPack, call.size.width, v[i]);
  });
}

NormCall norm_call(const NormArgs& args, const Tensor& out) {
  NormCall call;
  call.size = norm_size(args.x);
  call.eps = args.eps;
  call.layer = args.kind == NormKind::layer;
  call.x = norm_operand(args.x);
  call.scale = norm_operand(args.scale);
  call.shift = norm_operand(args.shift);
  call.weight = pointer<float>(args.weight);
  call.bias = pointer<float>(args.bias);
  call.out = out.raw();
  return call;
}

bool args_aligned(const NormArgs& args, const Tensor& out) {
  bool aligned = args.x.dim(-1) % kNormPack == 0;
  for (const Tensor* tensor : {&args.x, &args.weight, &args.bias, &args.scale, &args.shift, &out})
    aligned = aligned && rows_aligned(*tensor);
  return aligned;
}

template <NormForm form>
void run(const Runtime& rt, const char* name, DType dtype, const NormCall& call, bool aligned) {
  with_type(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_norm_layout(call.size.width, [&](auto layout) {
      using Layout = decltype(layout);
      const NormGrid grid = norm_grid(call.size, layout);
      if constexpr (Layout::items > 0)
        if (aligned)
          return launch_overlapping(rt, name, norm_kernel<T, Layout, true, form>, grid.blocks, grid.threads, 0, call);
      launch_overlapping(rt, name, norm_kernel<T, Layout, false, form>, grid.blocks, grid.threads, 0, call);
    });
  });
}

}  // namespace

void CudaKernels::norm(const NormArgs& args, const Tensor& out) const {
  if (args.x.numel() == 0) return;
  run<NormForm::plain>(rt_, "norm", args.x.dtype(), norm_call(args, out), args_aligned(args, out));
}

void CudaKernels::norm_rope(const NormArgs& args, const Tensor& cos, const Tensor& sin, const Tensor& out) const {
  if (args.x.numel() == 0) return;
  NormCall call = norm_call(args, out);
  const DType dtype = args.x.dtype();
  const bool aligned = args_aligned(args, out) && rows_aligned(cos) && rows_aligned(sin);
  if (!cos.defined()) return run<NormForm::plain>(rt_, "norm_rope", dtype, call, aligned);
  call.cos = pointer<float>(cos);
  call.sin = pointer<float>(sin);
  call.cos_stride = cos.stride(0);
  call.sin_stride = sin.stride(0);
  run<NormForm::rope>(rt_, "norm_rope", dtype, call, aligned);
}

void CudaKernels::add_gated_norm(const Tensor& x, const Tensor& y, const Tensor& gate, const NormArgs& args,
                                 const Tensor& out) const {
  if (x.numel() == 0) return;
  NormCall call = norm_call(args, out);
  call.sum = args.x.raw();
  call.x = norm_operand(x);
  call.y = norm_operand(y);
  call.gate = norm_operand(gate);
  run<NormForm::gated>(rt_, "add_gated_norm", x.dtype(), call,
                       args_aligned(args, out) && rows_aligned(x) && rows_aligned(y) && rows_aligned(gate));
}

}  // namespace raedit::backend::cuda
