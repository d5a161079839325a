// Norms together with what stands before or after them, in one pass over a row: a gated branch and the norm of the sum,
// and a head's norm and its rotation. Between the two a number is rounded as if it had been stored, so the bits are
// those of one after the other. Formulas: see norm.cpp and position.cpp.
#include <algorithm>
#include <array>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/norm_rows.h"
#include "backend/cpu/targets.h"

#ifndef RAEDIT_BACKEND_CPU_NORM_FUSED_
#define RAEDIT_BACKEND_CPU_NORM_FUSED_
namespace raedit::backend::cpu {
namespace {

// Contiguous rows of one type; data is null where there is none.
struct GatedNormRow {
  Row x, y, gate, sum;
  Row scale, shift, out;
  const float *weight = nullptr, *bias = nullptr;
};

// The heads of one token, `x_step` and `out_step` elements apart; cos is null where they are not turned.
struct HeadRows {
  Row x, out;
  int64_t x_step, out_step, heads, width;
  const float *weight, *bias, *cos, *sin;
};

}  // namespace
}  // namespace raedit::backend::cpu
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/norm_fused.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/norm-inl.h"
#include "backend/cpu/rotate-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

template <class T>
HWY_INLINE T* elements(const Row& row) {
  return reinterpret_cast<T*>(row.data);
}

// f(i, n) for a row in vectors.
template <class F>
HWY_INLINE void each_vector(int64_t count, const F& f) {
  const size_t lanes = hn::Lanes(FloatTag()), size = static_cast<size_t>(count);
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) f(i, lanes);
  if (i < size) f(i, size - i);
}

// Elements [i, i + n), n up to the number of lanes.
template <class T>
HWY_INLINE FloatVec some(const T* p, size_t i, size_t n) {
  return n == hn::Lanes(FloatTag()) ? load(p + i) : load_n(p + i, n);
}

template <class T>
HWY_INLINE void put(FloatVec v, T* p, size_t i, size_t n) {
  n == hn::Lanes(FloatTag()) ? store(v, p + i) : store_n(v, p + i, n);
}

// `buffer` holds a row in float32.
template <class T>
HWY_INLINE void gated_norm(const GatedNormRow& row, int64_t size, NormKind kind, float eps, float* buffer) {
  const T *x = elements<T>(row.x), *y = elements<T>(row.y), *gate = elements<T>(row.gate);
  T* const sum = elements<T>(row.sum);
  float* const wide = sizeof(T) == 2 ? buffer : reinterpret_cast<float*>(sum);
  each_vector(size, [&](size_t i, size_t n) {
    const auto v = hn::MulAdd(some(gate, i, n), some(y, i, n), some(x, i, n));
    put(v, sum, i, n);
    if constexpr (sizeof(T) == 2) put(as_stored<T>(v), wide, i, n);
  });

  const FloatTag d;
  const Moments moments = row_moments({reinterpret_cast<std::byte*>(wide), DType::float32, 1}, size, kind, eps);
  const auto mean = hn::Set(d, moments.mean), rstd = hn::Set(d, moments.rstd), one = hn::Set(d, 1.0f);
  const T *scale = elements<T>(row.scale), *shift = elements<T>(row.shift);
  T* const out = elements<T>(row.out);
  each_vector(size, [&](size_t i, size_t n) {
    auto v = hn::Mul(hn::Sub(some(wide, i, n), mean), rstd);
    if (row.weight != nullptr) v = hn::Mul(v, some(row.weight, i, n));
    if (row.bias != nullptr) v = hn::Add(v, some(row.bias, i, n));
    if (scale != nullptr) v = hn::Mul(v, hn::Add(some(scale, i, n), one));
    if (shift != nullptr) v = hn::Add(v, some(shift, i, n));
    put(v, out, i, n);
  });
}

void gated_norm_row(const GatedNormRow& row, int64_t size, NormKind kind, float eps, float* buffer) {
  if (row.x.dtype == DType::bfloat16) return gated_norm<bfloat16>(row, size, kind, eps, buffer);
  gated_norm<float>(row, size, kind, eps, nullptr);
}

void norm_head(const HeadRows& rows, const Row& x, NormKind kind, float eps, const Row& out) {
  const FloatTag d;
  const Moments moments = row_moments(x, rows.width, kind, eps);
  const auto mean = hn::Set(d, moments.mean), rstd = hn::Set(d, moments.rstd);
  const bool rounds = rows.cos != nullptr && out.dtype == DType::bfloat16;
  HWY_ALIGN float values[kChunk];
  HWY_ALIGN float result[kChunk];
  each_chunk(rows.width, [&](int64_t first, size_t count) {
    const float* from = stage(x, first, count, values);
    float* const to = staged_output(out, first, result);
    float* const normed = rows.cos != nullptr ? values : to;
    each_vector(static_cast<int64_t>(count), [&](size_t i, size_t n) {
      const size_t at = static_cast<size_t>(first) + i;
      auto v = hn::Mul(hn::Sub(some(from, i, n), mean), rstd);
      if (rows.weight != nullptr) v = hn::Mul(v, some(rows.weight, at, n));
      if (rows.bias != nullptr) v = hn::Add(v, some(rows.bias, at, n));
      put(rounds ? as_stored<bfloat16>(v) : v, normed, i, n);
    });
    if (rows.cos != nullptr) rotate_chunk(normed, rows.cos + first, rows.sin + first, false, count, to);
    unstage(out, first, count, to);
  });
}

void norm_heads(const HeadRows& rows, NormKind kind, float eps) {
  const int64_t from = rows.x_step * static_cast<int64_t>(size_of(rows.x.dtype)),
                to = rows.out_step * static_cast<int64_t>(size_of(rows.out.dtype));
  for (int64_t h = 0; h < rows.heads; ++h)
    norm_head(rows, {rows.x.data + h * from, rows.x.dtype, 1}, kind, eps, {rows.out.data + h * to, rows.out.dtype, 1});
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <omp.h>

namespace raedit::backend::cpu {

HWY_EXPORT(gated_norm_row);
HWY_EXPORT(norm_heads);

namespace {

const float* values_of(const Tensor& vector) {
  return vector.defined() ? vector.data<float>() : nullptr;
}

}  // namespace

void CpuKernels::add_gated_norm(const Tensor& x, const Tensor& y, const Tensor& gate, const NormArgs& args,
                                const Tensor& out) const {
  const Shape& shape = x.shape();
  if (shape.numel() == 0) return;
  const std::array<const Tensor*, 7> operands{&x, &y, &gate, &args.x, &args.scale, &args.shift, &out};
  const bool alike = std::all_of(operands.begin(), operands.end(), [&](const Tensor* t) {
    return !t->defined() || (t->dtype() == x.dtype() && (t->stride(-1) == 1 || shape[-1] == 1));
  });
  if (!alike) {
    add_gated(x, y, gate, args.x);
    return norm(args, out);
  }
  using R = GatedNormRow;
  const RowsOf<R> rows({{&R::x, x},
                        {&R::y, y},
                        {&R::gate, gate},
                        {&R::sum, args.x},
                        {&R::scale, args.scale},
                        {&R::shift, args.shift},
                        {&R::out, out}});
  const int64_t width = (rows.size() + 15) / 16 * 16;
  const Tensor buffers = temporary({threads_, width}, DType::float32);
  auto* const buffer = buffers.data<float>();
  const float *weight = values_of(args.weight), *bias = values_of(args.bias);
  const auto run = HWY_DYNAMIC_DISPATCH(gated_norm_row);
  parallel_for(threads_, rows.rows(), shape.numel(), [&](int64_t i) {
    R row = rows.row(i);
    row.weight = weight;
    row.bias = bias;
    run(row, rows.size(), args.kind, args.eps, buffer + omp_get_thread_num() * width);
  });
}

void CpuKernels::norm_rope(const NormArgs& args, const Tensor& cos, const Tensor& sin, const Tensor& out) const {
  const Tensor& x = args.x;
  if (x.numel() == 0) return;
  const int64_t tokens = x.dim(1);
  const auto run = HWY_DYNAMIC_DISPATCH(norm_heads);
  const float *weight = values_of(args.weight), *bias = values_of(args.bias);
  parallel_for(threads_, x.dim(0) * tokens, x.numel(), [&](int64_t i) {
    const int64_t b = i / tokens, n = i % tokens;
    const auto angle = [&](const Tensor& t) { return t.defined() ? t.data<float>() + n * t.stride(0) : nullptr; };
    run({row_of(x, b * x.stride(0) + n * x.stride(1), 1), row_of(out, b * out.stride(0) + n * out.stride(1), 1),
         x.stride(2), out.stride(2), x.dim(2), x.dim(3), weight, bias, angle(cos), angle(sin)},
        args.kind, args.eps);
  });
}

}  // namespace raedit::backend::cpu

#endif  // HWY_ONCE
