// Rows on their way into and out of the 8-bit product, once per instruction set.
#include <algorithm>

#include "backend/cpu/gemm_int8.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gemm_int8_rows.cpp"
#include "backend/cpu/targets.h"
// After targets.h: foreach_target includes this file again for each instruction set.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

using IntTag = hn::RebindToSigned<FloatTag>;
using IntVec = hn::Vec<IntTag>;
constexpr int32_t kFirstNotFinite = 0x7f800000;

// |v| as an integer, which orders as the numbers do, with inf and NaN above all.
HWY_INLINE IntVec magnitude_bits(FloatVec v) {
  return hn::And(hn::BitCast(IntTag(), v), hn::Set(IntTag(), 0x7fffffff));
}

HWY_INLINE float as_float(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// at(i, vector) for whole vectors, then for the rest with zeros behind.
template <class T, class F>
HWY_INLINE void each_vector(const T* x, const float* factor, int64_t k, const F& at) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  const auto scaled = [factor](int64_t i, FloatVec v) { return factor != nullptr ? hn::Mul(v, load(factor + i)) : v; };
  int64_t i = 0;
  for (; i + lanes <= k; i += lanes) at(i, scaled(i, load(x + i)));
  if (i < k) at(i, scaled(i, load_n(x + i, static_cast<size_t>(k - i))));
}

// magnitude_bits() of the largest x * factor.
template <class T>
HWY_INLINE int32_t largest_bits(const T* x, const float* factor, int64_t k) {
  IntVec most = hn::Zero(IntTag());
  each_vector(x, factor, k, [&](int64_t, FloatVec v) { most = hn::Max(most, magnitude_bits(v)); });
  return hn::GetLane(hn::MaxOfLanes(IntTag(), most));
}

// bfloat16's own bits are the upper half of them.
HWY_INLINE int32_t largest_bits(const bfloat16* x, const float* factor, int64_t k) {
  if (factor != nullptr) return largest_bits<bfloat16>(x, factor, k);
  const hn::ScalableTag<uint16_t> d;
  const auto* bits = reinterpret_cast<const uint16_t*>(x);
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto magnitude = hn::Set(d, 0x7fff);
  auto most = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= k; i += lanes) most = hn::Max(most, hn::And(hn::LoadU(d, bits + i), magnitude));
  int32_t largest = hn::GetLane(hn::MaxOfLanes(d, most));
  for (; i < k; ++i) largest = std::max(largest, bits[i] & 0x7fff);
  return largest << 16;
}

template <class T>
HWY_INLINE float quantize(const T* x, const float* factor, int64_t k, int64_t depth, uint8_t flip, int8_t* to) {
  const FloatTag d;
  const hn::RebindToUnsigned<FloatTag> du;
  const hn::Rebind<uint8_t, FloatTag> d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int32_t bits = largest_bits(x, factor, k);
  const float largest = as_float(bits);
  // Nothing this small is worth the overflow of its inverse.
  const bool is_zero = largest < 0x1p-100f, finite = bits < kFirstNotFinite;
  const float inverse = is_zero || !finite ? 0.0f : 127.0f / largest;
  // Adding 1.5 * 2^23 rounds half to even and leaves the integer in the low byte; 128 more turns its sign bit over.
  const auto magic = hn::Set(d, 12582912.0f + static_cast<float>(flip)), factor127 = hn::Set(d, inverse);
  each_vector(x, factor, k, [&](int64_t i, FloatVec v) {
    const auto integer = hn::BitCast(du, hn::Add(hn::Mul(v, factor127), magic));
    hn::StoreU(hn::TruncateTo(d8, integer), d8, reinterpret_cast<uint8_t*>(to + i));
  });
  for (int64_t i = (k + lanes - 1) / lanes * lanes; i < depth; ++i) to[i] = static_cast<int8_t>(flip);
  if (!finite) return as_float(0x7fc00000);
  return is_zero ? 0.0f : largest / 127.0f;
}

float quantize_one(DType dtype, const std::byte* x, const float* factor, int64_t k, int64_t depth, uint8_t flip,
                   int8_t* to) {
  if (dtype == DType::bfloat16) return quantize(reinterpret_cast<const bfloat16*>(x), factor, k, depth, flip, to);
  return quantize(reinterpret_cast<const float*>(x), factor, k, depth, flip, to);
}

template <class T>
HWY_INLINE void maxima(const T* x, int64_t rows, int64_t stride, int64_t columns, float* largest) {
  for (int64_t r = 0; r < rows; ++r)
    map(
        static_cast<size_t>(columns), largest,
        [](FloatVec most, FloatVec v) {
          return hn::BitCast(FloatTag(), hn::Max(hn::BitCast(IntTag(), most), magnitude_bits(v)));
        },
        largest, x + r * stride);
}

void all_maxima(DType dtype, const std::byte* x, int64_t rows, int64_t stride, int64_t columns, float* largest) {
  for (int64_t c = 0; c < columns; ++c) largest[c] = 0.0f;
  if (dtype == DType::bfloat16) return maxima(reinterpret_cast<const bfloat16*>(x), rows, stride, columns, largest);
  maxima(reinterpret_cast<const float*>(x), rows, stride, columns, largest);
}

void rescale(const int32_t* sums, int64_t rows, const float* row_scales, const float* scales, float* c) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; ++r) {
    const auto row_scale = hn::Set(d, row_scales[r]);
    for (int64_t i = 0; i < kTileColumns; i += lanes) {
      const auto sum = hn::ConvertTo(d, hn::LoadU(IntTag(), sums + r * kTileColumns + i));
      hn::StoreU(hn::Mul(hn::Mul(sum, row_scale), hn::LoadU(d, scales + i)), d, c + r * kTileColumns + i);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace raedit::backend::cpu {

HWY_EXPORT(quantize_one);
HWY_EXPORT(all_maxima);
HWY_EXPORT(rescale);

float quantize_row(DType dtype, const std::byte* x, const float* factor, int64_t k, int64_t depth, uint8_t flip,
                   int8_t* to) {
  return HWY_DYNAMIC_DISPATCH(quantize_one)(dtype, x, factor, k, depth, flip, to);
}

void column_maxima(DType dtype, const std::byte* x, int64_t rows, int64_t stride, int64_t columns, float* largest) {
  HWY_DYNAMIC_DISPATCH(all_maxima)(dtype, x, rows, stride, columns, largest);
}

void rescale_tile(const int32_t* sums, int64_t rows, const float* row_scales, const float* scales, float* c) {
  HWY_DYNAMIC_DISPATCH(rescale)(sums, rows, row_scales, scales, c);
}

}  // namespace raedit::backend::cpu
#endif  // HWY_ONCE
