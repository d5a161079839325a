// The tile of the matrix product for one instruction set. Included by Highway's foreach_target, hence the odd guard.
#if defined(RAEDIT_GEMM_TILE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RAEDIT_GEMM_TILE_INL_H
#undef RAEDIT_GEMM_TILE_INL_H
#else
#define RAEDIT_GEMM_TILE_INL_H
#endif

#include "backend/cpu/gemm.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using TileTag = hn::CappedTag<float, 16>;
inline constexpr int kVectorsPerPanel = static_cast<int>(16 / hn::MaxLanes(TileTag()));
// As many accumulators as fit the register file: 24 of 32 with 512-bit vectors, 12 of 16 otherwise.
inline constexpr int kPanelsAtOnce = kVectorsPerPanel == 1 ? 4 : 1;
inline constexpr int kRowsAtOnce = kVectorsPerPanel <= 2 ? 6 : 3;

template <int kRows, int kPanels>
HWY_INLINE void store_accumulators(const hn::Vec<TileTag> (&acc)[kRows][kPanels * kVectorsPerPanel],
                                   float* HWY_RESTRICT c, bool accumulate) {
  const TileTag d;
  const size_t lanes = hn::Lanes(d);
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kPanels * kVectorsPerPanel; ++v) {
      float* at = c + r * kTileColumns + static_cast<size_t>(v) * lanes;
      hn::StoreU(accumulate ? hn::Add(hn::LoadU(d, at), acc[r][v]) : acc[r][v], d, at);
    }
  }
}

template <int kRows, int kPanels>
HWY_INLINE void multiply_f32(const float* HWY_RESTRICT a, int64_t lda, const float* HWY_RESTRICT panels,
                             int64_t panel_stride, int64_t depth, float* HWY_RESTRICT c, bool accumulate) {
  const TileTag d;
  constexpr int kVectors = kPanels * kVectorsPerPanel;
  const size_t lanes = hn::Lanes(d);
  hn::Vec<TileTag> acc[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) acc[r][v] = hn::Zero(d);

  for (int64_t k = 0; k < depth; ++k) {
    hn::Vec<TileTag> b[kVectors];
    for (int v = 0; v < kVectors; ++v)
      b[v] = hn::LoadU(d, panels + (v / kVectorsPerPanel) * panel_stride + k * kPanel +
                              static_cast<size_t>(v % kVectorsPerPanel) * lanes);
    for (int r = 0; r < kRows; ++r) {
      const auto value = hn::Set(d, a[r * lda + k]);
      for (int v = 0; v < kVectors; ++v) acc[r][v] = hn::MulAdd(value, b[v], acc[r][v]);
    }
  }
  store_accumulators<kRows, kPanels>(acc, c, accumulate);
}

// A 32-bit lane holds two neighbours in k: the lower half shifted up and the upper half masked are both float32 values.
template <int kRows, int kPanels>
HWY_INLINE void multiply_bf16(const float* HWY_RESTRICT a, int64_t lda, const uint16_t* HWY_RESTRICT panels,
                              int64_t panel_stride, int64_t depth, float* HWY_RESTRICT c, bool accumulate) {
  const TileTag d;
  const hn::RebindToUnsigned<TileTag> du;
  constexpr int kVectors = kPanels * kVectorsPerPanel;
  const size_t lanes = hn::Lanes(d);
  const auto high_half = hn::Set(du, 0xffff0000u);
  hn::Vec<TileTag> acc[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) acc[r][v] = hn::Zero(d);

  // One half after the other: with both at once the vectors do not fit 16 registers.
  const auto add = [&](int64_t pair, bool odd) HWY_ATTR {
    hn::Vec<TileTag> b[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const uint16_t* at = panels + (v / kVectorsPerPanel) * panel_stride + pair * 2 * kPanel +
                           static_cast<size_t>(v % kVectorsPerPanel) * 2 * lanes;
      const auto both = hn::LoadU(du, reinterpret_cast<const uint32_t*>(at));
      b[v] = hn::BitCast(d, odd ? hn::And(both, high_half) : hn::ShiftLeft<16>(both));
    }
    for (int r = 0; r < kRows; ++r) {
      const auto value = hn::Set(d, a[r * lda + 2 * pair + (odd ? 1 : 0)]);
      for (int v = 0; v < kVectors; ++v) acc[r][v] = hn::MulAdd(value, b[v], acc[r][v]);
    }
  };
  for (int64_t pair = 0; pair < depth; ++pair) {
    add(pair, false);
    add(pair, true);
  }
  store_accumulators<kRows, kPanels>(acc, c, accumulate);
}

// Runs `multiply<rows, panels>` over a whole tile, in pieces that fit the register file.
#define RAEDIT_DEFINE_TILE(name, multiply, element)                                                              \
  HWY_INLINE void name(int64_t rows, const float* a, int64_t lda, const element* panels, int64_t panel_stride,   \
                       int64_t depth, float* c, bool accumulate) {                                               \
    for (int64_t p = 0; p < kTileColumns / kPanel; p += kPanelsAtOnce) {                                         \
      const element* b = panels + p * panel_stride;                                                              \
      for (int64_t r = 0; r < rows; r += kRowsAtOnce) {                                                          \
        const float* ar = a + r * lda;                                                                           \
        float* cr = c + r * kTileColumns + p * kPanel;                                                           \
        switch (rows - r < kRowsAtOnce ? rows - r : kRowsAtOnce) {                                               \
          case 1: multiply<1, kPanelsAtOnce>(ar, lda, b, panel_stride, depth, cr, accumulate); break;            \
          case 2: multiply<2, kPanelsAtOnce>(ar, lda, b, panel_stride, depth, cr, accumulate); break;            \
          case 3: multiply<3, kPanelsAtOnce>(ar, lda, b, panel_stride, depth, cr, accumulate); break;            \
          case 4: multiply<4, kPanelsAtOnce>(ar, lda, b, panel_stride, depth, cr, accumulate); break;            \
          case 5: multiply<5, kPanelsAtOnce>(ar, lda, b, panel_stride, depth, cr, accumulate); break;            \
          default: multiply<kRowsAtOnce, kPanelsAtOnce>(ar, lda, b, panel_stride, depth, cr, accumulate); break; \
        }                                                                                                        \
      }                                                                                                          \
    }                                                                                                            \
  }
RAEDIT_DEFINE_TILE(multiply_tile_f32, multiply_f32, float)
RAEDIT_DEFINE_TILE(multiply_tile_bf16, multiply_bf16, uint16_t)
#undef RAEDIT_DEFINE_TILE

}  // namespace raedit::backend::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
