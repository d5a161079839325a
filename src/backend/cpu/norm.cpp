// Layer norm and RMS norm with an optional affine part and an optional modulation, and their gradients.
// Formulas: Ba et al., Layer Normalization (arXiv 1607.06450); Zhang and Sennrich, RMSNorm (arXiv 1910.07467);
// the modulation (1 + scale) y + shift is adaLN of Peebles and Xie, DiT (arXiv 2212.09748).
#include <cmath>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/elementwise.h"
#include "backend/cpu/norm_rows.h"
#include "backend/cpu/targets.h"

#ifndef RAEDIT_BACKEND_CPU_NORM_ROW_
#define RAEDIT_BACKEND_CPU_NORM_ROW_
namespace raedit::backend::cpu {
namespace {

// One row of every operand; data is null where there is none.
struct NormRow {
  Row x, weight, bias, scale, shift;
  Row out;       // forward
  Row dout, dx;  // backward
};

}  // namespace
}  // namespace raedit::backend::cpu
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/norm.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/norm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

void norm_row(const NormRow& row, int64_t size, NormKind kind, float eps) {
  const FloatTag d;
  const Moments moments = row_moments(row.x, size, kind, eps);
  const auto mean = hn::Set(d, moments.mean);
  const auto rstd = hn::Set(d, moments.rstd);
  HWY_ALIGN float result[kChunk];
  HWY_ALIGN float buffer[kChunk];
  each_chunk(size, [&](int64_t first, size_t n) {
    const auto normalize = [&](FloatVec v) { return hn::Mul(hn::Sub(v, mean), rstd); };
    float* y = staged_output(row.out, first, result);
    map(n, y, normalize, stage(row.x, first, n, buffer));
    if (row.weight.data != nullptr) {
      const auto multiply = [](FloatVec v, FloatVec w) { return hn::Mul(v, w); };
      map(n, y, multiply, y, stage(row.weight, first, n, buffer));
    }
    const auto add = [](FloatVec v, FloatVec b) { return hn::Add(v, b); };
    if (row.bias.data != nullptr) map(n, y, add, y, stage(row.bias, first, n, buffer));
    if (row.scale.data != nullptr) {
      const auto modulate = [&](FloatVec v, FloatVec s) { return hn::Mul(v, hn::Add(s, hn::Set(d, 1.0f))); };
      map(n, y, modulate, y, stage(row.scale, first, n, buffer));
    }
    if (row.shift.data != nullptr) map(n, y, add, y, stage(row.shift, first, n, buffer));
    unstage(row.out, first, n, y);
  });
}

// The gradient at the normalised row, dout (1 + scale) weight.
HWY_INLINE const float* inner_gradient(const NormRow& row, int64_t first, size_t n, float* result, float* buffer) {
  const FloatTag d;
  const float* g = stage(row.dout, first, n, buffer);
  if (row.scale.data != nullptr) {
    HWY_ALIGN float scales[kChunk];
    const auto modulate = [&](FloatVec v, FloatVec s) { return hn::Mul(v, hn::Add(s, hn::Set(d, 1.0f))); };
    map(n, result, modulate, g, stage(row.scale, first, n, scales));
    g = result;
  }
  if (row.weight.data != nullptr) {
    HWY_ALIGN float weights[kChunk];
    const auto multiply = [](FloatVec v, FloatVec w) { return hn::Mul(v, w); };
    map(n, result, multiply, g, stage(row.weight, first, n, weights));
    g = result;
  }
  return g;
}

// dx += rstd (g - mean(g) - xhat mean(g xhat)); the middle term is the mean's own, so rms has none.
Moments norm_row_backward(const NormRow& row, int64_t size, NormKind kind, float eps) {
  const FloatTag d;
  const Moments moments = row_moments(row.x, size, kind, eps);
  if (row.dx.data == nullptr) return moments;
  const auto mean = hn::Set(d, moments.mean);
  const auto rstd = hn::Set(d, moments.rstd);
  HWY_ALIGN float result[kChunk];
  HWY_ALIGN float gradients[kChunk];
  HWY_ALIGN float values[kChunk];
  double sum = 0, product_sum = 0;
  each_chunk(size, [&](int64_t first, size_t n) {
    const float* g = inner_gradient(row, first, n, result, gradients);
    const auto product = [&](FloatVec gv, FloatVec v) { return hn::Mul(gv, hn::Mul(hn::Sub(v, mean), rstd)); };
    product_sum += sum_of(n, product, g, stage(row.x, first, n, values));
    if (kind == NormKind::layer)
      sum += sum_of(
          n, [](FloatVec v) { return v; }, g);
  });
  const auto g_mean = hn::Set(d, static_cast<float>(sum / static_cast<double>(size)));
  const auto product_mean = hn::Set(d, static_cast<float>(product_sum / static_cast<double>(size)));
  each_chunk(size, [&](int64_t first, size_t n) {
    const float* g = inner_gradient(row, first, n, result, gradients);
    const auto gradient = [&](FloatVec gv, FloatVec v) {
      const auto xhat = hn::Mul(hn::Sub(v, mean), rstd);
      return hn::Mul(rstd, hn::NegMulAdd(xhat, product_mean, hn::Sub(gv, g_mean)));
    };
    map(n, result, gradient, g, stage(row.x, first, n, values));
    add_to(row.dx, first, n, result);
  });
  return moments;
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace raedit::backend::cpu {

HWY_EXPORT(norm_row);
HWY_EXPORT(norm_row_backward);

namespace {

Tensor or_constant(const Tensor& tensor, float value, const Shape& shape) {
  return tensor.defined() ? tensor : Tensor::full(Shape{}, value).expand(shape);
}

}  // namespace

void CpuKernels::norm(const NormArgs& args, const Tensor& out) const {
  const Shape& shape = args.x.shape();
  if (shape.numel() == 0) return;
  const RowsOf<NormRow> rows({{&NormRow::x, args.x},
                              {&NormRow::weight, expanded(args.weight, shape)},
                              {&NormRow::bias, expanded(args.bias, shape)},
                              {&NormRow::scale, args.scale},
                              {&NormRow::shift, args.shift},
                              {&NormRow::out, out}});
  const auto run = HWY_DYNAMIC_DISPATCH(norm_row);
  parallel_for(threads_, rows.rows(), shape.numel(),
               [&](int64_t i) { run(rows.row(i), rows.size(), args.kind, args.eps); });
}

void CpuKernels::norm_backward(const Tensor& dout, const NormArgs& args, const NormGrads& grads) const {
  const Shape& shape = args.x.shape();
  if (shape.numel() == 0) return;
  const Tensor weight = expanded(args.weight, shape);
  const RowsOf<NormRow> rows({{&NormRow::x, args.x},
                              {&NormRow::weight, weight},
                              {&NormRow::scale, args.scale},
                              {&NormRow::dout, dout},
                              {&NormRow::dx, grads.x}});
  Tensor moments = Tensor::empty({2, rows.rows()}, DType::float32);
  float* const means = moments.data<float>();
  float* const rstds = means + rows.rows();
  const auto run = HWY_DYNAMIC_DISPATCH(norm_row_backward);
  parallel_for(threads_, rows.rows(), shape.numel(), [&](int64_t i) {
    const Moments result = run(rows.row(i), rows.size(), args.kind, args.eps);
    means[i] = result.mean;
    rstds[i] = result.rstd;
  });

  Shape column = shape;  // [B,N,1]
  column.set(-1, 1);
  const Tensor mean = moments.select(0, 0).reshape(column).expand(shape);
  const Tensor rstd = moments.select(0, 1).reshape(column).expand(shape);
  const Tensor scale = or_constant(args.scale, 0.0f, shape);
  accumulate_op({Op::norm_weight}, {&dout, &scale, &args.x, &mean, &rstd}, expanded(grads.weight, shape), threads_);
  accumulate_op({Op::norm_bias}, {&dout, &scale}, expanded(grads.bias, shape), threads_);
  if (grads.scale.defined()) {
    const Tensor w = or_constant(weight, 1.0f, shape);
    const Tensor b = or_constant(expanded(args.bias, shape), 0.0f, shape);
    accumulate_op({Op::norm_scale}, {&dout, &args.x, &mean, &rstd, &w, &b}, grads.scale, threads_);
  }
  accumulate_op({Op::copy}, {&dout}, grads.shift, threads_);
}

}  // namespace raedit::backend::cpu

#endif  // HWY_ONCE
