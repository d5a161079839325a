// Vector math in float32 for the CPU kernels, compiled once per Highway target: loads and stores of float32 and
// bfloat16 rows, exp, and the activations. Polynomials were fitted for this file (minimax on dense grids, against 40
// digits). A tail goes through the same vector code as the rest, so a value never depends on where in a row it stands.
// Include after hwy/highway.h, outside of any namespace.

#if defined(RAEDIT_BACKEND_CPU_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RAEDIT_BACKEND_CPU_SIMD_MATH_INL_H_
#undef RAEDIT_BACKEND_CPU_SIMD_MATH_INL_H_
#else
#define RAEDIT_BACKEND_CPU_SIMD_MATH_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"
#include "raedit/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

// ---- loads and stores

HWY_INLINE FloatVec load(const float* p) {
  return hn::LoadU(FloatTag(), p);
}

using HalfTag = hn::Rebind<uint16_t, FloatTag>;
using HalfVec = hn::Vec<HalfTag>;

HWY_INLINE FloatVec widen(HalfVec bits) {
  const hn::Rebind<uint32_t, FloatTag> d32;
  return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}

// Rounds to nearest even; NaN stays NaN. Highway's own demotion of this version truncates.
HWY_INLINE HalfVec narrow(FloatVec v) {
  const hn::Rebind<uint32_t, FloatTag> d32;
  const hn::Rebind<int32_t, FloatTag> di32;
  const auto bits = hn::BitCast(d32, v);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto half = hn::Add(hn::And(upper, hn::Set(d32, 1u)), hn::Set(d32, 0x7fffu));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, half));
  const auto quiet = hn::Or(upper, hn::Set(d32, 0x40u));
  const auto result = hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), quiet, rounded);
  return hn::DemoteTo(HalfTag(), hn::BitCast(di32, result));
}

HWY_INLINE FloatVec load(const bfloat16* p) {
  return widen(hn::LoadU(HalfTag(), reinterpret_cast<const uint16_t*>(p)));
}

HWY_INLINE void store(FloatVec v, float* p) {
  hn::StoreU(v, FloatTag(), p);
}

HWY_INLINE void store(FloatVec v, bfloat16* p) {
  hn::StoreU(narrow(v), HalfTag(), reinterpret_cast<uint16_t*>(p));
}

// What is read again after v was stored as T.
template <class T>
HWY_INLINE FloatVec as_stored(FloatVec v) {
  if constexpr (sizeof(T) == 2)
    return widen(narrow(v));
  else
    return v;
}

// The first n < Lanes elements; the other lanes are 0, and nothing beyond is touched.
HWY_INLINE FloatVec load_n(const float* p, size_t n) {
  return hn::MaskedLoad(hn::FirstN(FloatTag(), n), FloatTag(), p);
}

HWY_INLINE void store_n(FloatVec v, float* p, size_t n) {
  hn::BlendedStore(v, hn::FirstN(FloatTag(), n), FloatTag(), p);
}

#if HWY_TARGET == HWY_AVX3

HWY_INLINE FloatVec load_n(const bfloat16* p, size_t n) {
  return widen(hn::MaskedLoad(hn::FirstN(HalfTag(), n), HalfTag(), reinterpret_cast<const uint16_t*>(p)));
}

HWY_INLINE void store_n(FloatVec v, bfloat16* p, size_t n) {
  hn::BlendedStore(narrow(v), hn::FirstN(HalfTag(), n), HalfTag(), reinterpret_cast<uint16_t*>(p));
}

#else  // without masks on 16-bit lanes Highway would touch the whole vector

HWY_INLINE FloatVec load_n(const bfloat16* p, size_t n) {
  bfloat16 lanes[HWY_MAX_BYTES / sizeof(float)] = {};
  std::memcpy(lanes, p, n * sizeof(bfloat16));
  return load(lanes);
}

HWY_INLINE void store_n(FloatVec v, bfloat16* p, size_t n) {
  bfloat16 lanes[HWY_MAX_BYTES / sizeof(float)];
  store(v, lanes);
  std::memcpy(p, lanes, n * sizeof(bfloat16));
}

#endif

// out[i] = f(in[i], ...); each pointer is float or bfloat16.
template <class F, class O, class... I>
HWY_INLINE void map(size_t n, O* out, F f, const I*... in) {
  const size_t lanes = hn::Lanes(FloatTag());
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) store(f(load(in + i)...), out + i);
  if (i < n) store_n(f(load_n(in + i, n - i)...), out + i, n - i);
}

// ---- functions

// c0 + c1 x + c2 x^2 + ...
HWY_INLINE FloatVec polynomial(FloatVec, float c) {
  return hn::Set(FloatTag(), c);
}

template <class... C>
HWY_INLINE FloatVec polynomial(FloatVec x, float c, C... higher) {
  return hn::MulAdd(polynomial(x, higher...), x, hn::Set(FloatTag(), c));
}

// Below 1.1 ulp where the result is normal; correct limits: 0 below -104, inf above 88.73, NaN for NaN.
HWY_INLINE FloatVec exp(FloatVec x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  // x = n ln 2 + r with |r| <= ln 2 / 2. Adding 1.5 * 2^23 leaves n in the low bits.
  const auto magic = hn::Set(d, 12582912.0f);
  const auto clamped = hn::Min(hn::Max(x, hn::Set(d, -105.0f)), hn::Set(d, 89.0f));
  const auto shifted = hn::MulAdd(clamped, hn::Set(d, 1.44269504f), magic);
  const auto n = hn::Sub(shifted, magic);
  auto r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), clamped);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  // (e^r - 1 - r) / r^2, relative error of e^r 4.3e-9 before rounding.
  const auto q = polynomial(r, 0.49999994f, 0.1666652f, 0.041668393f, 0.008368781f, 0.0013814468f);
  const auto e = hn::Add(hn::MulAdd(hn::Mul(r, r), q, r), hn::Set(d, 1.0f));
  // 2^n as a product of two, so that results near 0 are subnormal and those past the end infinite.
  const auto ni = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, magic));
  const auto half = hn::ShiftRight<1>(ni);
  const auto bias = hn::Set(di, 127);
  const auto scale0 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const auto scale1 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(ni, half), bias)));
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Mul(hn::Mul(e, scale0), scale1));
}

// e = e^-|x|, and the numerator of sigmoid(x) over 1 + e. Nothing overflows, so small results keep their digits.
HWY_INLINE FloatVec sigmoid_numerator(FloatVec x, FloatVec& e) {
  const FloatTag d;
  e = exp(hn::Neg(hn::Abs(x)));
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, hn::Set(d, 1.0f));
}

// `slope` is the derivative, s (1 - s) without the cancellation.
HWY_INLINE FloatVec sigmoid(FloatVec x, FloatVec& slope) {
  FloatVec e = x;
  const auto numerator = sigmoid_numerator(x, e);
  const auto inverse = hn::Div(hn::Set(FloatTag(), 1.0f), hn::Add(e, hn::Set(FloatTag(), 1.0f)));
  slope = hn::Mul(hn::Mul(e, inverse), inverse);
  return hn::Mul(numerator, inverse);
}

HWY_INLINE FloatVec silu(FloatVec x) {
  FloatVec e = x;
  const auto numerator = sigmoid_numerator(x, e);
  return hn::Div(hn::Mul(x, numerator), hn::Add(e, hn::Set(FloatTag(), 1.0f)));
}

HWY_INLINE FloatVec silu_gradient(FloatVec x) {
  FloatVec slope = x;
  const auto s = sigmoid(x, slope);
  return hn::MulAdd(x, slope, s);
}

// The normal distribution, (1 + erf(x / sqrt 2)) / 2, and its density exp(-x^2 / 2) / sqrt(2 pi). For x = -a <= 0 the
// first is exp(-a^2 / 2) t P(1 - t) with t = 1 / (1 + a / 2), so the tail keeps the digits that 1 + erf would lose.
// Relative error of t P(1 - t): 4.5e-8 before rounding, 2.0e-7 in float32; exact at 0. Hence erf to 2e-7.
HWY_INLINE FloatVec normal_cdf(FloatVec x, FloatVec& density) {
  const FloatTag d;
  const auto one = hn::Set(d, 1.0f);
  const auto a = hn::Min(hn::Abs(x), hn::Set(d, 20.0f));
  const auto square = hn::Mul(a, a);
  const auto rest = hn::MulSub(a, a, square);  // what the rounding of the square lost, 0 without FMA
  const auto half = hn::Set(d, -0.5f);
  auto e = exp(hn::Mul(half, square));
  e = hn::MulAdd(e, hn::Mul(half, rest), e);
  const auto half_a = hn::Mul(a, hn::Set(d, 0.5f));
  const auto t = hn::Div(one, hn::Add(half_a, one));
  const auto p = polynomial(hn::Mul(half_a, t), 0.5f, -0.29788265f, -0.09586336f, 0.04411704f, 0.039402086f,
                            0.08672806f, -0.19485956f, 0.32830533f, -0.36988744f, 0.1972577f, -0.03783667f);
  const auto tail = hn::Mul(hn::Mul(e, t), p);
  density = hn::Mul(e, hn::Set(d, 0.398942280f));
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(one, tail));
}

// x Phi(x), the exact one.
HWY_INLINE FloatVec gelu(FloatVec x) {
  FloatVec density = x;
  return hn::Mul(x, normal_cdf(x, density));
}

HWY_INLINE FloatVec gelu_gradient(FloatVec x) {
  FloatVec density = x;
  const auto cdf = normal_cdf(x, density);
  return hn::MulAdd(x, density, cdf);
}

// x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), which is x sigmoid(2 u). `slope` is x times the
// derivative of that sigmoid.
HWY_INLINE FloatVec gelu_tanh_sigmoid(FloatVec x, FloatVec& slope) {
  const FloatTag d;
  // Beyond 20 the sigmoid is 0 or 1 in float32; the cube must not overflow before that. NaN stays.
  const auto limit = hn::Set(d, 20.0f);
  const auto c = hn::IfThenElse(hn::Gt(hn::Abs(x), limit), hn::CopySign(limit, x), x);
  const auto square = hn::Mul(c, c);
  const auto factor = hn::Set(d, 1.59576912f);  // 2 sqrt(2 / pi)
  const auto cubic = hn::Set(d, 1.59576912f * 0.044715f);
  FloatVec outer = x;
  const auto s = sigmoid(hn::Mul(c, hn::MulAdd(square, cubic, factor)), outer);
  slope = hn::Mul(outer, hn::Mul(c, hn::MulAdd(square, hn::Mul(cubic, hn::Set(d, 3.0f)), factor)));
  return s;
}

HWY_INLINE FloatVec gelu_tanh(FloatVec x) {
  FloatVec slope = x;
  return hn::Mul(x, gelu_tanh_sigmoid(x, slope));
}

HWY_INLINE FloatVec gelu_tanh_gradient(FloatVec x) {
  FloatVec slope = x;
  const auto s = gelu_tanh_sigmoid(x, slope);
  return hn::Add(s, slope);
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
