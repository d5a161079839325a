// The bfloat16 tile for machines with the AVX-512 dot product (Cooper Lake, Sapphire Rapids, Zen 4 and later).
// Highway 1.0 has no such target, so these are intrinsics behind a function attribute; gemm.cpp asks the CPU first.
#include <immintrin.h>

#include <cstring>

#include "backend/cpu/gemm.h"

#define RAEDIT_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace raedit::backend::cpu {
namespace {

template <int kRows>
RAEDIT_AVX512_BF16 inline void multiply(const uint16_t* __restrict a, int64_t lda, const uint16_t* __restrict panels,
                                        int64_t panel_stride, int64_t depth, float* __restrict c, bool accumulate) {
  constexpr int kPanels = kTileColumns / kPanel;
  __m512 acc[kRows][kPanels];
  for (int r = 0; r < kRows; ++r)
    for (int p = 0; p < kPanels; ++p) acc[r][p] = _mm512_setzero_ps();

  for (int64_t pair = 0; pair < depth; ++pair) {
    __m512bh b[kPanels];
    for (int p = 0; p < kPanels; ++p)
      b[p] = (__m512bh)_mm512_loadu_si512(panels + p * panel_stride + pair * 2 * kPanel);
    for (int r = 0; r < kRows; ++r) {
      int both;
      std::memcpy(&both, a + r * lda + 2 * pair, sizeof both);
      const __m512bh value = (__m512bh)_mm512_set1_epi32(both);
      for (int p = 0; p < kPanels; ++p) acc[r][p] = _mm512_dpbf16_ps(acc[r][p], value, b[p]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) {
      float* at = c + r * kTileColumns + p * kPanel;
      _mm512_storeu_ps(at, accumulate ? _mm512_add_ps(_mm512_loadu_ps(at), acc[r][p]) : acc[r][p]);
    }
  }
}

}  // namespace

RAEDIT_AVX512_BF16 void tile_bf16_dot(int64_t rows, const uint16_t* a, int64_t lda, const uint16_t* panels,
                                      int64_t panel_stride, int64_t depth, float* c, bool accumulate) {
  switch (rows) {
    case 1: multiply<1>(a, lda, panels, panel_stride, depth, c, accumulate); break;
    case 2: multiply<2>(a, lda, panels, panel_stride, depth, c, accumulate); break;
    case 3: multiply<3>(a, lda, panels, panel_stride, depth, c, accumulate); break;
    case 4: multiply<4>(a, lda, panels, panel_stride, depth, c, accumulate); break;
    case 5: multiply<5>(a, lda, panels, panel_stride, depth, c, accumulate); break;
    default: multiply<6>(a, lda, panels, panel_stride, depth, c, accumulate); break;
  }
}

}  // namespace raedit::backend::cpu
