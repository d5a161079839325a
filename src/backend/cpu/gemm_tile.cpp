// Tiles of the matrix product and their store, once per instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gemm_tile.cpp"
#include "backend/cpu/targets.h"
// After targets.h: foreach_target includes this file again for each instruction set.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/gemm_tile-inl.h"
#include "backend/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu::HWY_NAMESPACE {

void tile_f32(int64_t rows, const float* a, int64_t lda, const float* panels, int64_t panel_stride, int64_t depth,
              float* c, bool accumulate) {
  multiply_tile_f32(rows, a, lda, panels, panel_stride, depth, c, accumulate);
}

void tile_bf16_wide(int64_t rows, const float* a, int64_t lda, const uint16_t* panels, int64_t panel_stride,
                    int64_t depth, float* c, bool accumulate) {
  multiply_tile_bf16(rows, a, lda, panels, panel_stride, depth, c, accumulate);
}

// out = c + bias, row by row.
template <class O>
HWY_INLINE void store_converted(const float* c, int64_t rows, size_t columns, const float* bias, O* out,
                                int64_t out_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = c + r * kTileColumns;
    if (bias != nullptr)
      map(
          columns, out + r * out_stride, [](FloatVec v, FloatVec b) { return hn::Add(v, b); }, from, bias);
    else
      map(
          columns, out + r * out_stride, [](FloatVec v) { return v; }, from);
  }
}

void store_rows(const float* c, int64_t rows, int64_t columns, const float* bias, void* out, int64_t out_stride,
                DType out_dtype, bool add) {
  const auto count = static_cast<size_t>(columns);
  if (out_dtype == DType::bfloat16)
    return store_converted(c, rows, count, bias, static_cast<bfloat16*>(out), out_stride);
  auto* to = static_cast<float*>(out);
  if (!add) return store_converted(c, rows, count, bias, to, out_stride);
  for (int64_t r = 0; r < rows; ++r)
    map(
        count, to + r * out_stride, [](FloatVec v, FloatVec b) { return hn::Add(v, b); }, to + r * out_stride,
        c + r * kTileColumns);
}

}  // namespace raedit::backend::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace raedit::backend::cpu {

HWY_EXPORT(tile_f32);
HWY_EXPORT(tile_bf16_wide);
HWY_EXPORT(store_rows);

void tile_f32(int64_t rows, const float* a, int64_t lda, const float* panels, int64_t panel_stride, int64_t depth,
              float* c, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(tile_f32)(rows, a, lda, panels, panel_stride, depth, c, accumulate);
}

void tile_bf16_wide(int64_t rows, const float* a, int64_t lda, const uint16_t* panels, int64_t panel_stride,
                    int64_t depth, float* c, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(tile_bf16_wide)(rows, a, lda, panels, panel_stride, depth, c, accumulate);
}

void store_tile(const float* c, int64_t rows, int64_t columns, const float* bias, void* out, int64_t out_stride,
                DType out_dtype, bool add) {
  HWY_DYNAMIC_DISPATCH(store_rows)(c, rows, columns, bias, out, out_stride, out_dtype, add);
}

}  // namespace raedit::backend::cpu
#endif  // HWY_ONCE
