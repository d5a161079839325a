// Tiles of the 8-bit product. All of them sum exactly, so they agree bit for bit. The two with intrinsics are behind
// function attributes; callers ask the CPU first.
#include <immintrin.h>

#include <array>
#include <cstring>
#include <utility>

#include "backend/cpu/amx.h"
#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/gemm_int8.h"
#include "backend/cpu/isa.h"

#define RAEDIT_AVX512_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define RAEDIT_AVX2 __attribute__((target("avx2")))

namespace raedit::backend::cpu {
namespace {

inline int four_of(const int8_t* at) {
  int four;
  std::memcpy(&four, at, sizeof four);
  return four;
}

// vpdpbusd multiplies unsigned by signed bytes and does not saturate; the excess of x + 128 is in `start`.
// Without the pragmas GCC 12 keeps the sums in memory, too, and writes them in every step.
template <int kRows, int kPanels>
RAEDIT_AVX512_VNNI void multiply_vnni(const Int8Tile& t) {
  const int8_t* __restrict a = t.a;
  const int8_t* __restrict panels = t.panels;
  const int64_t lda = t.lda, panel_stride = t.panel_stride, depth = t.depth;
  __m512i acc[kRows][kPanels];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) acc[r][p] = _mm512_loadu_si512(t.start + p * kPanel);
  for (int64_t k = 0; k < depth; k += 4) {
    __m512i b[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) b[p] = _mm512_loadu_si512(panels + p * panel_stride + k * kPanel);
    // A line of each row of the next tile.
    if (k % 64 == 0)
      for (int r = 0; r < kRows; ++r)
        _mm_prefetch(reinterpret_cast<const char*>(a + (r + kRows) * lda + k), _MM_HINT_T0);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512i value = _mm512_set1_epi32(four_of(a + r * lda + k));
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) acc[r][p] = _mm512_dpbusd_epi32(acc[r][p], value, b[p]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) _mm512_storeu_si512(t.c + r * kTileColumns + p * kPanel, acc[r][p]);
}

using Multiply = void (*)(const Int8Tile&);
constexpr int kPanelsPerTile = static_cast<int>(kTileColumns / kPanel);

template <int... kIndex>
constexpr auto multiplies(std::integer_sequence<int, kIndex...>) {
  return std::array<Multiply, sizeof...(kIndex)>{
      multiply_vnni<kIndex / kPanelsPerTile + 1, kIndex % kPanelsPerTile + 1>...};
}
constexpr auto kVnni = multiplies(std::make_integer_sequence<int, kPanelsPerTile* static_cast<int>(kTileRows)>());

// vpmaddubsw saturates at 32767, but |x| * |w| <= 127 * 127 twice does not get there: one operand without its sign, the
// other with both signs.
template <int kRows>
RAEDIT_AVX2 void multiply_avx2(const int8_t* __restrict a, int64_t lda, const int8_t* __restrict panel, int64_t depth,
                               int32_t* c) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i acc[kRows][2];
  for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < depth; k += 4) {
    __m256i b[2];
    for (int v = 0; v < 2; ++v)
      b[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + k * kPanel + 32 * v));
    for (int r = 0; r < kRows; ++r) {
      const __m256i value = _mm256_set1_epi32(four_of(a + r * lda + k));
      const __m256i magnitude = _mm256_abs_epi8(value);
      for (int v = 0; v < 2; ++v) {
        const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(b[v], value));
        acc[r][v] = _mm256_add_epi32(acc[r][v], _mm256_madd_epi16(pairs, ones));
      }
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < 2; ++v)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(c + r * kTileColumns + 8 * v), acc[r][v]);
}

void multiply_plain(const int8_t* a, const int8_t* panel, int64_t depth, int32_t* c) {
  int32_t sums[kPanel] = {};
  for (int64_t k = 0; k < depth; k += 4)
    for (int64_t i = 0; i < kPanel; ++i)
      for (int64_t j = 0; j < 4; ++j) sums[i] += int32_t{a[k + j]} * int32_t{panel[k * kPanel + 4 * i + j]};
  std::memcpy(c, sums, sizeof sums);
}

}  // namespace

void tile_int8_vnni(const Int8Tile& tile) {
  kVnni[static_cast<size_t>((tile.rows - 1) * kPanelsPerTile + tile.count - 1)](tile);
}

void tile_int8_avx2(const Int8Tile& t) {
  for (int64_t p = 0; p < t.count; ++p) {
    for (int64_t r = 0; r < t.rows; r += 3) {
      const int8_t* a = t.a + r * t.lda;
      const int8_t* panel = t.panels + p * t.panel_stride;
      int32_t* c = t.c + r * kTileColumns + p * kPanel;
      switch (t.rows - r) {
        case 1: multiply_avx2<1>(a, t.lda, panel, t.depth, c); break;
        case 2: multiply_avx2<2>(a, t.lda, panel, t.depth, c); break;
        default: multiply_avx2<3>(a, t.lda, panel, t.depth, c); break;
      }
    }
  }
}

void tile_int8_plain(const Int8Tile& t) {
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t p = 0; p < t.count; ++p)
      multiply_plain(t.a + r * t.lda, t.panels + p * t.panel_stride, t.depth, t.c + r * kTileColumns + p * kPanel);
}

void tile_int8_amx(const Int8Tile& t) {
  amx_product(
      {t.rows, t.count, t.a, t.lda, t.panels, t.panel_stride, t.depth, t.c, kTileColumns, false, false, t.next});
}

Int8Way int8_way() {
  static const Int8Way way = [] {
    if (has_amx_int8()) return Int8Way{tile_int8_amx, false, true, kAmxInt8Rows};
    if (has_avx512_vnni()) return Int8Way{tile_int8_vnni, true, false, kTileRows};
    // Every machine of Highway's AVX-512 and AVX2 targets has AVX2.
    return Int8Way{isa_name() == "sse2" ? tile_int8_plain : tile_int8_avx2, false, false, kTileRows};
  }();
  return way;
}

}  // namespace raedit::backend::cpu
