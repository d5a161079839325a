// The moments of a row. Once per Highway target.

#if defined(RAEDIT_BACKEND_CPU_NORM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RAEDIT_BACKEND_CPU_NORM_INL_H_
#undef RAEDIT_BACKEND_CPU_NORM_INL_H_
#else
#define RAEDIT_BACKEND_CPU_NORM_INL_H_
#endif

#include <cmath>

#include "backend/cpu/chunk-inl.h"
#include "backend/cpu/norm_rows.h"
#include "backend/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

// f(first, n) for the chunks of a row.
template <class F>
HWY_INLINE void each_chunk(int64_t size, const F& f) {
  for (int64_t first = 0; first < size; first += kChunk) f(first, static_cast<size_t>(std::min(kChunk, size - first)));
}

// Two passes: the mean first, then the squared deviations from it. Chunks are summed in double.
inline Moments row_moments(const Row& x, int64_t size, NormKind kind, float eps) {
  const FloatTag d;
  HWY_ALIGN float buffer[kChunk];
  double sum = 0;
  if (kind == NormKind::layer) {
    each_chunk(size, [&](int64_t first, size_t n) {
      sum += sum_of(
          n, [](FloatVec v) { return v; }, stage(x, first, n, buffer));
    });
  }
  const auto mean = static_cast<float>(sum / static_cast<double>(size));
  double squares = 0;
  each_chunk(size, [&](int64_t first, size_t n) {
    const auto square = [&](FloatVec v) {
      const auto deviation = hn::Sub(v, hn::Set(d, mean));
      return hn::Mul(deviation, deviation);
    };
    squares += sum_of(n, square, stage(x, first, n, buffer));
  });
  const double variance = squares / static_cast<double>(size);
  return {mean, static_cast<float>(1.0 / std::sqrt(variance + static_cast<double>(eps)))};
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
