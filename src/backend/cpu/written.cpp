// Gradients of activations that are written, or added to, in one pass over rows in either dtype.
#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/target_row.h"
#include "backend/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/written.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/chunk-inl.h"
#include "backend/cpu/gradient_store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

// [begin, end) of a row of values and gates, each `width` long.
void swiglu_gradient_row(const Row& dout, const Row& value, const Row& gate, const TargetRow& dvalue,
                         const TargetRow& dgate, int64_t width) {
  HWY_ALIGN float buffers[3][kChunk];
  for (int64_t first = 0; first < width; first += kChunk) {
    const auto size = static_cast<size_t>(std::min(kChunk, width - first)), at = static_cast<size_t>(first);
    const float* g = stage(dout, first, size, buffers[0]);
    const float* v = stage(value, first, size, buffers[1]);
    const float* x = stage(gate, first, size, buffers[2]);
    each_vector(size, [&](size_t i, size_t n) {
      const auto gradient = some(g, i, n), logit = some(x, i, n);
      FloatVec slope = logit;
      const auto s = sigmoid(logit, slope);
      put(dvalue, at + i, n, hn::Mul(gradient, hn::Mul(logit, s)));
      put(dgate, at + i, n, hn::Mul(hn::Mul(gradient, some(v, i, n)), hn::MulAdd(logit, slope, s)));
    });
  }
}

template <class F>
HWY_INLINE void unary_gradient(const Row& dout, const Row& x, const TargetRow& dx, int64_t width, const F& slope) {
  HWY_ALIGN float buffers[2][kChunk];
  for (int64_t first = 0; first < width; first += kChunk) {
    const auto size = static_cast<size_t>(std::min(kChunk, width - first)), at = static_cast<size_t>(first);
    const float* g = stage(dout, first, size, buffers[0]);
    const float* v = stage(x, first, size, buffers[1]);
    each_vector(size, [&](size_t i, size_t n) { put(dx, at + i, n, hn::Mul(some(g, i, n), slope(some(v, i, n)))); });
  }
}

void activation_gradient_row(Activation kind, const Row& dout, const Row& x, const TargetRow& dx, int64_t width) {
  switch (kind) {
    case Activation::none: return;
    case Activation::silu: return unary_gradient(dout, x, dx, width, [](FloatVec v) { return silu_gradient(v); });
    case Activation::gelu: return unary_gradient(dout, x, dx, width, [](FloatVec v) { return gelu_gradient(v); });
    case Activation::gelu_tanh:
      return unary_gradient(dout, x, dx, width, [](FloatVec v) { return gelu_tanh_gradient(v); });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace raedit::backend::cpu {

HWY_EXPORT(swiglu_gradient_row);
HWY_EXPORT(activation_gradient_row);

namespace {

TargetRow target_row(const Gradient& gradient, int64_t offset) {
  const DType dtype = gradient.at.dtype();
  return {gradient.at.raw() + offset * static_cast<int64_t>(size_of(dtype)), dtype, !gradient.fresh};
}

}  // namespace

void CpuKernels::swiglu_backward_into(const Tensor& dout, const Tensor& x, const Gradient& dx) const {
  if (!dx.wanted() || x.numel() == 0) return;
  if (!dout.is_contiguous() || !x.is_contiguous() || !dx.at.is_contiguous())
    return Kernels::swiglu_backward_into(dout, x, dx);
  const int64_t width = dout.dim(-1);
  const auto run = HWY_DYNAMIC_DISPATCH(swiglu_gradient_row);
  parallel_for(threads_, dout.numel() / width, x.numel(), [&](int64_t i) {
    const int64_t at = 2 * i * width;
    run(row_of(dout, i * width, 1), row_of(x, at, 1), row_of(x, at + width, 1), target_row(dx, at),
        target_row(dx, at + width), width);
  });
}

void CpuKernels::activation_backward_into(Activation kind, const Tensor& dout, const Tensor& x,
                                          const Gradient& dx) const {
  if (!dx.wanted()) return;
  if (kind == Activation::none || !dout.is_contiguous() || !x.is_contiguous() || !dx.at.is_contiguous())
    return Kernels::activation_backward_into(kind, dout, x, dx);
  const auto run = HWY_DYNAMIC_DISPATCH(activation_gradient_row);
  constexpr int64_t kPiece = 4096;
  parallel_for(threads_, (x.numel() + kPiece - 1) / kPiece, x.numel(), [&](int64_t i) {
    const int64_t at = i * kPiece;
    run(kind, row_of(dout, at, 1), row_of(x, at, 1), target_row(dx, at), std::min(kPiece, x.numel() - at));
  });
}

void CpuKernels::rope_backward_into(const Tensor& dout, const Tensor& cos, const Tensor& sin,
                                    const Gradient& dx) const {
  if (!dx.wanted()) return;
  if (!dx.fresh || dx.at.stride(3) != 1) return Kernels::rope_backward_into(dout, cos, sin, dx);
  rope(dout, cos, sin, true, dx.at);
}

}  // namespace raedit::backend::cpu

#endif  // HWY_ONCE
