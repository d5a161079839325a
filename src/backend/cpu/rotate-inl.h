// The rotation of pairs (2k, 2k + 1) in a row of up to kChunk elements. Once per Highway target.

#if defined(RAEDIT_BACKEND_CPU_ROTATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RAEDIT_BACKEND_CPU_ROTATE_INL_H_
#undef RAEDIT_BACKEND_CPU_ROTATE_INL_H_
#else
#define RAEDIT_BACKEND_CPU_ROTATE_INL_H_
#endif

#include "backend/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR

// One lane holds no pair. The same multiplications and additions, so the same bits.
inline void rotate_chunk(const float* x, const float* cos, const float* sin, bool inverse, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 2) {
    const float a = x[i], b = x[i + 1];
    out[i] = a * cos[i] + (inverse ? b * sin[i + 1] : -b * sin[i]);
    out[i + 1] = b * cos[i + 1] + (inverse ? -a * sin[i] : a * sin[i + 1]);
  }
}

#else

template <class T>
HWY_INLINE void rotate_chunk(const T* x, const float* cos, const float* sin, bool inverse, size_t n, T* out) {
  const FloatTag d;
  // Lanes of a 512-bit vector; narrower ones take the first.
  static constexpr float kEvenMinus[16] = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
  const auto even_minus = hn::LoadU(d, kEvenMinus);
  if (inverse) {  // the transposed matrix: the sine is that of the element the partner came from
    const auto odd_minus = hn::Neg(even_minus);
    const auto rotate = [&](FloatVec v, FloatVec c, FloatVec s) {
      return hn::Add(hn::Mul(v, c), hn::Mul(hn::Shuffle2301(hn::Mul(v, s)), odd_minus));
    };
    map(n, out, rotate, x, cos, sin);
  } else {
    const auto rotate = [&](FloatVec v, FloatVec c, FloatVec s) {
      return hn::Add(hn::Mul(v, c), hn::Mul(hn::Mul(hn::Shuffle2301(v), even_minus), s));
    };
    map(n, out, rotate, x, cos, sin);
  }
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
