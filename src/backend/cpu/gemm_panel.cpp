// One panel of a weight: up to 16 rows of any floating type, converted on the way and turned so that 16 outputs stand
// side by side. Both layouts are 32-bit words once converted, a float or a pair of bfloat16, and are turned as such.
#include <algorithm>
#include <cstring>

#include "backend/cpu/gemm.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/targets.h"
#include "tensor/convert.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gemm_panel.cpp"
// After targets.h: foreach_target includes this file again for each instruction set.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

// Words of a row at a time: 16 rows of them stay in the first-level cache.
constexpr int64_t kWords = 64;

// Rows of words, wherever they lie.
struct Words {
  const std::byte* rows[kPanel];
};

// to[i][16] = word i of the 16 rows. count is a multiple of 4.
HWY_INLINE void turn(const Words& words, int64_t count, uint32_t* to) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t i = 0; i < count; ++i)
    for (int64_t r = 0; r < kPanel; ++r) std::memcpy(to + i * kPanel + r, words.rows[r] + i * 4, 4);
#else
  const hn::Full128<uint32_t> d;
  const hn::Full128<uint64_t> wide;
  const hn::Full128<uint8_t> bytes;
  for (int64_t i = 0; i < count; i += 4) {
    for (int64_t r = 0; r < kPanel; r += 4) {
      const auto row = [&](int64_t k) {
        return hn::BitCast(d, hn::LoadU(bytes, reinterpret_cast<const uint8_t*>(words.rows[r + k]) + i * 4));
      };
      const auto row0 = row(0), row1 = row(1), row2 = row(2), row3 = row(3);
      const auto a = hn::BitCast(wide, hn::InterleaveLower(d, row0, row1));
      const auto b = hn::BitCast(wide, hn::InterleaveLower(d, row2, row3));
      const auto e = hn::BitCast(wide, hn::InterleaveUpper(d, row0, row1));
      const auto f = hn::BitCast(wide, hn::InterleaveUpper(d, row2, row3));
      uint32_t* const at = to + i * kPanel + r;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(wide, a, b)), d, at);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(wide, a, b)), d, at + kPanel);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(wide, e, f)), d, at + 2 * kPanel);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(wide, e, f)), d, at + 3 * kPanel);
    }
  }
#endif
}

// `count` values, a multiple of the vector length, to float32 or bfloat16 words.
template <class From>
HWY_INLINE void convert(const From* from, int64_t count, float* to) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  for (int64_t i = 0; i < count; i += lanes) hn::StoreU(load(from + i), FloatTag(), to + i);
}
HWY_INLINE void convert(const float* from, int64_t count, uint16_t* to) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  for (int64_t i = 0; i < count; i += lanes) hn::StoreU(narrow(load(from + i)), HalfTag(), to + i);
}

// Values [first, first + count) of a row as To, where they are not such already; zeros up to `padded`.
template <class To>
HWY_INLINE void convert_values(const PanelSource& source, const std::byte* row, int64_t count, int64_t padded, To* to) {
  constexpr bool kWide = sizeof(To) == 4;
  constexpr int64_t kMost = kWords * 4 / static_cast<int64_t>(sizeof(To));
  if (kWide && source.dtype == DType::bfloat16 && count == kMost) {
    if constexpr (kWide) convert(reinterpret_cast<const bfloat16*>(row), count, to);
    return;
  }
  if (!kWide && source.dtype == DType::float32 && count == kMost) {
    if constexpr (!kWide) convert(reinterpret_cast<const float*>(row), count, to);
    return;
  }
  convert_row(source.dtype, row, 1, kWide ? DType::float32 : DType::bfloat16, reinterpret_cast<std::byte*>(to), 1,
              count);
  std::fill(to + count, to + padded, To{});
}

template <class To>
HWY_INLINE void pack(const PanelSource& source, int64_t k, To* to) {
  constexpr int64_t kValues = 4 / static_cast<int64_t>(sizeof(To));  // in a word
  constexpr DType kType = sizeof(To) == 4 ? DType::float32 : DType::bfloat16;
  const auto size = static_cast<int64_t>(size_of(source.dtype));
  alignas(64) To buffer[kPanel][kWords * kValues];
  alignas(64) static constexpr To kZeros[kWords * kValues] = {};
  alignas(64) uint32_t last[4 * kPanel];
  for (int64_t first = 0; first < k; first += kWords * kValues) {
    const int64_t count = std::min(kWords * kValues, k - first);
    const int64_t words = (count + kValues - 1) / kValues, turned = words / 4 * 4;
    Words rows;
    for (int64_t r = 0; r < kPanel; ++r) {
      const std::byte* row = source.data + (r * source.stride + first) * size;
      rows.rows[r] = reinterpret_cast<const std::byte*>(kZeros);
      if (r >= source.rows) continue;
      rows.rows[r] = row;
      if (source.dtype == kType && count == kWords * kValues) continue;
      convert_values(source, row, count, round_up(words, 4) * kValues, buffer[r]);
      rows.rows[r] = reinterpret_cast<const std::byte*>(buffer[r]);
    }
    auto* const target = reinterpret_cast<uint32_t*>(to + first * kPanel);
    turn(rows, turned, target);
    if (turned == words) continue;
    for (const std::byte*& row : rows.rows) row += turned * 4;
    turn(rows, 4, last);
    std::copy(last, last + (words - turned) * kPanel, target + turned * kPanel);
  }
}

void pack_panel_f32(const PanelSource& source, int64_t k, float* to) {
  pack(source, k, to);
}
void pack_panel_pairs(const PanelSource& source, int64_t k, uint16_t* to) {
  pack(source, k, to);
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace raedit::backend::cpu {

HWY_EXPORT(pack_panel_f32);
HWY_EXPORT(pack_panel_pairs);

void pack_panel(const PanelSource& source, int64_t k, float* to) {
  HWY_DYNAMIC_DISPATCH(pack_panel_f32)(source, k, to);
}
void pack_panel(const PanelSource& source, int64_t k, uint16_t* to) {
  if (source.dtype == DType::bfloat16 && has_avx512_bf16())
    return pack_column_pairs(reinterpret_cast<const uint16_t*>(source.data), source.stride, source.rows, k, to);
  HWY_DYNAMIC_DISPATCH(pack_panel_pairs)(source, k, to);
}

}  // namespace raedit::backend::cpu
#endif  // HWY_ONCE
