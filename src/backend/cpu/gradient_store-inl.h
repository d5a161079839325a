// Where a vector of a gradient goes: written in either dtype, or added to float32. Once per Highway target, after
// simd_math-inl.h.

#if defined(RAEDIT_BACKEND_CPU_GRADIENT_STORE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RAEDIT_BACKEND_CPU_GRADIENT_STORE_INL_H_
#undef RAEDIT_BACKEND_CPU_GRADIENT_STORE_INL_H_
#else
#define RAEDIT_BACKEND_CPU_GRADIENT_STORE_INL_H_
#endif

#include "backend/cpu/simd_math-inl.h"
#include "backend/cpu/target_row.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

// Elements [i, i + n) of a row, n up to the number of lanes.
HWY_INLINE void put(const TargetRow& row, size_t i, size_t n, FloatVec v) {
  const bool whole = n == hn::Lanes(FloatTag());
  if (row.dtype == DType::bfloat16) {
    auto* at = reinterpret_cast<bfloat16*>(row.data) + i;
    whole ? store(v, at) : store_n(v, at, n);
  } else {
    auto* at = reinterpret_cast<float*>(row.data) + i;
    if (row.add) v = hn::Add(v, whole ? load(at) : load_n(at, n));
    whole ? store(v, at) : store_n(v, at, n);
  }
}

// f(i, n) for a row in vectors.
template <class F>
HWY_INLINE void each_vector(size_t size, const F& f) {
  const size_t lanes = hn::Lanes(FloatTag());
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) f(i, lanes);
  if (i < size) f(i, size - i);
}

// Elements [i, i + n) of float32.
HWY_INLINE FloatVec some(const float* p, size_t i, size_t n) {
  return n == hn::Lanes(FloatTag()) ? load(p + i) : load_n(p + i, n);
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
