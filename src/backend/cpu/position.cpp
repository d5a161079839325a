// Rotary position embedding, table lookup and Fourier features.
// Formulas: Su et al., RoFormer (arXiv 2104.09864), on the pairs (2k, 2k + 1); Tancik et al., Fourier Features
// (arXiv 2006.10739).
#include <array>
#include <cmath>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/position.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/chunk-inl.h"
#include "backend/cpu/rotate-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

void rotate_row(const Row& x, const float* cos, const float* sin, bool inverse, int64_t size, const Row& out) {
  HWY_ALIGN float values[kChunk];
  HWY_ALIGN float result[kChunk];
  for (int64_t first = 0; first < size; first += kChunk) {
    const auto n = static_cast<size_t>(std::min(kChunk, size - first));
    float* y = staged_output(out, first, result);
    rotate_chunk(stage(x, first, n, values), cos + first, sin + first, inverse, n, y);
    unstage(out, first, n, y);
  }
}

// `heads` rows of one token, x_step and out_step elements apart, which turn by the same angles.
void rotate_heads(const Row& x, int64_t x_step, const float* cos, const float* sin, bool inverse, int64_t size,
                  int64_t heads, const Row& out, int64_t out_step) {
#if HWY_TARGET != HWY_SCALAR
  if (x.dtype == DType::bfloat16 && out.dtype == DType::bfloat16) {
    for (int64_t h = 0; h < heads; ++h)
      rotate_chunk(reinterpret_cast<const bfloat16*>(x.data) + h * x_step, cos, sin, inverse, static_cast<size_t>(size),
                   reinterpret_cast<bfloat16*>(out.data) + h * out_step);
    return;
  }
#endif
  const auto from = x_step * static_cast<int64_t>(size_of(x.dtype)),
             to = out_step * static_cast<int64_t>(size_of(out.dtype));
  for (int64_t h = 0; h < heads; ++h)
    rotate_row({x.data + h * from, x.dtype, 1}, cos, sin, inverse, size, {out.data + h * to, out.dtype, 1});
}

// target += row
void add_row(const Row& row, int64_t first, int64_t size, const Row& target) {
  HWY_ALIGN float values[kChunk];
  const auto n = static_cast<size_t>(size);
  add_to(target, first, n, stage(row, first, n, values));
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <numbers>

#include "tensor/convert.h"

namespace raedit::backend::cpu {

HWY_EXPORT(rotate_heads);
HWY_EXPORT(add_row);

void CpuKernels::rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool inverse, const Tensor& out) const {
  const int64_t tokens = x.dim(1), heads = x.dim(2), width = x.dim(3);
  const auto* cosines = cos.data<float>();
  const auto* sines = sin.data<float>();
  const auto run = HWY_DYNAMIC_DISPATCH(rotate_heads);
  const std::array<int64_t, 3> from{x.stride(0), x.stride(1), x.stride(2)};
  const std::array<int64_t, 3> to{out.stride(0), out.stride(1), out.stride(2)};
  const int64_t cos_step = cos.stride(0), sin_step = sin.stride(0);
  const Row source = row_of(x, 0, 1), target = row_of(out, 0, 1);
  const auto source_size = static_cast<int64_t>(size_of(x.dtype())),
             target_size = static_cast<int64_t>(size_of(out.dtype()));
  parallel_for(threads_, x.dim(0) * tokens, x.numel(), [&](int64_t i) {
    const int64_t b = i / tokens, n = i % tokens;
    run({source.data + (b * from[0] + n * from[1]) * source_size, source.dtype, 1}, from[2], cosines + n * cos_step,
        sines + n * sin_step, inverse, width, heads,
        {target.data + (b * to[0] + n * to[1]) * target_size, target.dtype, 1}, to[2]);
  });
}

void CpuKernels::embedding(const Tensor& table, const Tensor& ids, const Tensor& out) const {
  const int64_t width = table.dim(1);
  const Tensor rows = ids.contiguous();
  const auto* row = rows.data<int64_t>();
  parallel_for(threads_, rows.numel(), out.numel(), [&](int64_t i) {
    convert_row(table.dtype(), row_of(table, row[i] * table.stride(0), 1).data, 1, out.dtype(),
                row_of(out, i * width, 1).data, 1, width);
  });
}

void CpuKernels::embedding_backward(const Tensor& dout, const Tensor& ids, const Tensor& dtable) const {
  const int64_t width = dtable.dim(1);
  const Tensor rows = ids.contiguous();
  const Tensor gradient = dout.contiguous();
  const auto* row = rows.data<int64_t>();
  // Threads share out the columns, so a row that is looked up twice is summed in the order of the ids.
  parallel_for(threads_, (width + kChunk - 1) / kChunk, gradient.numel(), [&](int64_t block) {
    const int64_t first = block * kChunk;
    for (int64_t i = 0; i < rows.numel(); ++i) HWY_DYNAMIC_DISPATCH(add_row)
    (row_of(gradient, i * width, 1), first, std::min(kChunk, width - first),
     row_of(dtable, row[i] * dtable.stride(0), 1));
  });
}

void CpuKernels::fourier_features(const Tensor& t, const Tensor& w, const Tensor& out) const {
  const int64_t count = w.dim(0);
  const auto* frequencies = w.data<float>();
  const auto* times = t.data<float>();
  // u is rounded to float32 after each product, as a reference in float32 does. It can be thousands of turns, so its
  // sine needs an exact reduction: the double one, rounded once.
  constexpr float kPi = std::numbers::pi_v<float>;
  parallel_for(threads_, t.dim(0), out.numel(), [&](int64_t b) {
    for (int64_t f = 0; f < count; ++f) {
      const float u = times[b * t.stride(0)] * frequencies[f * w.stride(0)] * 2.0f * kPi;
      const auto sine = static_cast<float>(std::sin(static_cast<double>(u)));
      const auto cosine = static_cast<float>(std::cos(static_cast<double>(u)));
      if (out.dtype() == DType::float32) {
        auto* row = reinterpret_cast<float*>(row_of(out, b * 2 * count, 1).data);
        row[f] = sine;
        row[count + f] = cosine;
      } else {
        auto* row = reinterpret_cast<bfloat16*>(row_of(out, b * 2 * count, 1).data);
        row[f] = bfloat16(sine);
        row[count + f] = bfloat16(cosine);
      }
    }
  });
}

}  // namespace raedit::backend::cpu

#endif  // HWY_ONCE
