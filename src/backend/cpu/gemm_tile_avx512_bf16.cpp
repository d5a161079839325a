// The bfloat16 tile for machines with the AVX-512 dot product (Cooper Lake, Sapphire Rapids, Zen 4 and later), and the
// transposition that its panels need. Highway 1.0 has no such target, so these are intrinsics behind a function
// attribute; callers ask the CPU first.
#include <immintrin.h>

#include <array>
#include <cstring>
#include <utility>

#include "backend/cpu/gemm.h"

#define RAEDIT_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace raedit::backend::cpu {
namespace {

// To nearest even; NaN stays NaN.
RAEDIT_AVX512_BF16 inline __m256i narrow(__m512 v) {
  const __m512i bits = _mm512_castps_si512(v), upper = _mm512_srli_epi32(bits, 16);
  const __m512i half = _mm512_add_epi32(_mm512_and_si512(upper, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
}

// Row r, panel p of a tile's sums.
RAEDIT_AVX512_BF16 inline void finish(const TileResult& result, int r, int p, __m512 sums) {
  const int64_t at = r * result.stride + p * kPanel;
  if (result.bias != nullptr) sums = _mm512_add_ps(sums, _mm512_loadu_ps(result.bias + p * kPanel));
  if (result.dtype == DType::bfloat16)
    return _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<uint16_t*>(result.out) + at), narrow(sums));
  float* const to = static_cast<float*>(result.out) + at;
  _mm512_storeu_ps(to, result.add ? _mm512_add_ps(_mm512_loadu_ps(to), sums) : sums);
}

// All loops over registers are unrolled: GCC 12 keeps an array that a loop walks through in memory.
template <int kRows, int kPanels, bool kPaired>
RAEDIT_AVX512_BF16 void multiply(const DotTile& t) {
  const uint16_t* __restrict a = t.a;
  const uint16_t* __restrict panels = t.panels;
  const int64_t lda = t.lda, panel_stride = t.panel_stride, depth = t.depth;
  __m512 acc[kRows][kPanels];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) acc[r][p] = _mm512_setzero_ps();
  if (kPaired)  // sums that lie in the result: they come from memory meanwhile
    for (int r = 0; r < kRows; ++r)
      for (int p = 0; p < kPanels; ++p)
        _mm_prefetch(reinterpret_cast<const char*>(t.c + r * t.ldc + p * kPanel), _MM_HINT_T0);

  for (int64_t pair = 0; pair < depth; ++pair) {
    __m512bh b[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p)
      b[p] = (__m512bh)_mm512_loadu_si512(panels + p * panel_stride + pair * 2 * kPanel);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      int both;
      std::memcpy(&both, kPaired ? a + pair * lda + 2 * r : a + r * lda + 2 * pair, sizeof both);
      const __m512bh value = (__m512bh)_mm512_set1_epi32(both);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) acc[r][p] = _mm512_dpbf16_ps(acc[r][p], value, b[p]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      float* const at = t.c + r * t.ldc + p * kPanel;
      if (t.accumulate) acc[r][p] = _mm512_add_ps(_mm512_loadu_ps(at), acc[r][p]);
      if (t.result.out != nullptr)
        finish(t.result, r, p, acc[r][p]);
      else
        _mm512_storeu_ps(at, acc[r][p]);
    }
  }
}

using Multiply = void (*)(const DotTile&);
constexpr int kPanelsPerTile = static_cast<int>(kTileColumns / kPanel);

// multiply<rows, panels, paired> at [paired][rows - 1][panels - 1].
template <bool kPaired, int... kIndex>
constexpr auto multiplies(std::integer_sequence<int, kIndex...>) {
  return std::array<Multiply, sizeof...(kIndex)>{
      multiply<kIndex / kPanelsPerTile + 1, kIndex % kPanelsPerTile + 1, kPaired>...};
}
using Indices = std::make_integer_sequence<int, kPanelsPerTile* static_cast<int>(kTileRows)>;
constexpr auto kPlain = multiplies<false>(Indices());
constexpr auto kPaired = multiplies<true>(Indices());

// 16 rows of 16 32-bit values.
RAEDIT_AVX512_BF16 inline void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // r[4 q + c] holds in 128-bit block b: column 4 b + c of rows 4 q to 4 q + 3.
  for (int c = 0; c < 4; ++c) {
    t[c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
    t[8 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    t[12 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
  }
  for (int c = 0; c < 4; ++c) {
    r[c] = _mm512_shuffle_i32x4(t[c], t[8 + c], 0x88);
    r[8 + c] = _mm512_shuffle_i32x4(t[c], t[8 + c], 0xdd);
    r[4 + c] = _mm512_shuffle_i32x4(t[4 + c], t[12 + c], 0x88);
    r[12 + c] = _mm512_shuffle_i32x4(t[4 + c], t[12 + c], 0xdd);
  }
}

}  // namespace

void tile_bf16_dot(const DotTile& tile) {
  const auto index = static_cast<size_t>((tile.rows - 1) * kPanelsPerTile + tile.count - 1);
  (tile.paired ? kPaired : kPlain)[index](tile);
}

RAEDIT_AVX512_BF16 void transpose_tile(uint16_t* tile) {
  __m512i r[16];
  for (int64_t i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(tile + 2 * kPanel * i);
  transpose(r);
  for (int64_t i = 0; i < 16; ++i) _mm512_storeu_si512(tile + 2 * kPanel * i, r[i]);
}

RAEDIT_AVX512_BF16 void pack_column_pairs(const uint16_t* from, int64_t stride, int64_t rows, int64_t k, uint16_t* to) {
  for (int64_t first = 0; first < k; first += 32) {
    const int64_t count = k - first < 32 ? k - first : 32;  // values of a row
    const __mmask32 mask = count == 32 ? 0xffffffffu : (1u << count) - 1;
    __m512i r[16];
    for (int64_t i = 0; i < 16; ++i)
      r[i] = i < rows ? _mm512_maskz_loadu_epi16(mask, from + i * stride + first) : _mm512_setzero_si512();
    transpose(r);
    const int64_t pairs = (count + 1) / 2;
    for (int64_t i = 0; i < pairs; ++i) _mm512_storeu_si512(to + (first + 2 * i) * kPanel, r[i]);
  }
}

}  // namespace raedit::backend::cpu
