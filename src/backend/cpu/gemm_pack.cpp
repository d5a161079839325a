// Rows of a matrix interleaved in pairs, as the bfloat16 dot product wants them for products over rows.
#include "backend/cpu/gemm.h"
#include "backend/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gemm_pack.cpp"
// After targets.h: foreach_target includes this file again for each instruction set.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

using BitsTag = hn::Rebind<uint32_t, FloatTag>;
using BitsVec = hn::Vec<BitsTag>;

// The upper row in the lower halves of 32-bit lanes, the lower one in the upper halves.
HWY_INLINE BitsVec pairs_of(const bfloat16* upper, const bfloat16* lower) {
  const BitsTag d;
  const auto bits = [](const bfloat16* p) { return hn::LoadU(HalfTag(), reinterpret_cast<const uint16_t*>(p)); };
  return hn::Or(hn::PromoteTo(d, bits(upper)), hn::ShiftLeft<16>(hn::PromoteTo(d, bits(lower))));
}

HWY_INLINE BitsVec pairs_of(const float* upper, const float* lower) {
  const BitsTag d;
  return hn::Or(hn::PromoteTo(d, narrow(load(upper))), hn::ShiftLeft<16>(hn::PromoteTo(d, narrow(load(lower)))));
}

HWY_INLINE uint16_t half_bits(bfloat16 value) {
  return value.bits;
}
HWY_INLINE uint16_t half_bits(float value) {
  return bfloat16(value).bits;
}

template <class T>
HWY_INLINE void pack_pairs(const T* from, int64_t stride, int64_t rows, int64_t columns, uint16_t* to,
                           int64_t panel_stride) {
  const BitsTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t whole = columns / kPanel;
  for (int64_t i = 0; i < rows; i += 2) {
    const T* upper = from + i * stride;
    const T* lower = upper + stride;
    const bool both = i + 1 < rows;
    uint16_t* target = to + i * kPanel;
    int64_t vectors = both ? whole : 0;
    for (int64_t p = 0; p < vectors; ++p)
      for (int64_t c = 0; c < kPanel; c += lanes)
        hn::StoreU(pairs_of(upper + p * kPanel + c, lower + p * kPanel + c), d,
                   reinterpret_cast<uint32_t*>(target + p * panel_stride + 2 * c));
    for (int64_t p = vectors; p * kPanel < columns; ++p) {
      for (int64_t c = 0; c < kPanel; ++c) {
        const int64_t column = p * kPanel + c;
        uint16_t* pair = target + p * panel_stride + 2 * c;
        pair[0] = column < columns ? half_bits(upper[column]) : uint16_t{0};
        pair[1] = column < columns && both ? half_bits(lower[column]) : uint16_t{0};
      }
    }
  }
}

void pack_row_pairs(const PairRows& source, int64_t first, int64_t rows, int64_t column, int64_t columns, uint16_t* to,
                    int64_t panel_stride) {
  const int64_t offset = first * source.stride + column;
  // A few panels at a time: each is a stream of its own.
  constexpr int64_t kAtOnce = 4 * kTileColumns;
  for (int64_t c = 0; c < columns; c += kAtOnce) {
    const int64_t count = columns - c < kAtOnce ? columns - c : kAtOnce;
    uint16_t* target = to + c / kPanel * panel_stride;
    if (source.dtype == DType::bfloat16)
      pack_pairs(static_cast<const bfloat16*>(source.data) + offset + c, source.stride, rows, count, target,
                 panel_stride);
    else
      pack_pairs(static_cast<const float*>(source.data) + offset + c, source.stride, rows, count, target, panel_stride);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <algorithm>

namespace raedit::backend::cpu {

HWY_EXPORT(pack_row_pairs);

void pack_row_pairs(const PairRows& source, int64_t first, int64_t rows, int64_t column, int64_t columns, uint16_t* to,
                    int64_t panel_stride) {
  HWY_DYNAMIC_DISPATCH(pack_row_pairs)(source, first, rows, column, columns, to, panel_stride);
}

void clear_pairs(uint16_t* panels, int64_t count, int64_t panel_stride, int64_t rows) {
  const int64_t from = round_up(rows, 2) * kPanel, to = round_up(rows, 32) * kPanel;
  for (int64_t i = 0; i < count; ++i)
    std::fill(panels + i * panel_stride + from, panels + i * panel_stride + to, uint16_t{0});
}

}  // namespace raedit::backend::cpu
#endif  // HWY_ONCE
