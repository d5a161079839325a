// Tiles of the matrix product and how they are stored, once per instruction set.
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

// As multiply_bf16() takes pairs apart.
void widen_pairs(const uint16_t* HWY_RESTRICT pairs, int64_t count, float* HWY_RESTRICT to) {
  const TileTag d;
  const hn::RebindToUnsigned<TileTag> du;
  const size_t lanes = hn::Lanes(d);
  const auto high_half = hn::Set(du, 0xffff0000u);
  for (int64_t pair = 0; pair < count; ++pair) {
    for (int v = 0; v < kVectorsPerPanel; ++v) {
      const size_t at = static_cast<size_t>(pair) * 2 * kPanel + static_cast<size_t>(v) * lanes;
      const auto both =
          hn::LoadU(du, reinterpret_cast<const uint32_t*>(pairs + pair * 2 * kPanel) + static_cast<size_t>(v) * lanes);
      hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(both)), d, to + at);
      hn::StoreU(hn::BitCast(d, hn::And(both, high_half)), d, to + at + kPanel);
    }
  }
}

// out = f(c + bias), row by row.
template <class O, class F>
HWY_INLINE void store_with(const TileStore& t, const F& f) {
  const auto columns = static_cast<size_t>(t.columns);
  for (int64_t r = 0; r < t.rows; ++r) {
    const float* from = t.c + r * kTileColumns;
    O* to = static_cast<O*>(t.out) + r * t.out_stride;
    if (t.bias != nullptr)
      map(
          columns, to, [&](FloatVec v, FloatVec b) { return f(hn::Add(v, b)); }, from, t.bias);
    else
      map(columns, to, f, from);
  }
}

template <class O>
HWY_INLINE void store_gated(const TileStore& t) {
  const auto columns = static_cast<size_t>(t.columns);
  const auto gated = [](FloatVec v, FloatVec g) { return hn::Mul(as_stored<O>(v), silu(as_stored<O>(g))); };
  for (int64_t r = 0; r < t.rows; ++r) {
    const float *value = t.c + r * kTileColumns, *gate = t.gate + r * kTileColumns;
    O* to = static_cast<O*>(t.out) + r * t.out_stride;
    if (t.bias != nullptr)
      map(
          columns, to,
          [&](FloatVec v, FloatVec g, FloatVec b, FloatVec c) { return gated(hn::Add(v, b), hn::Add(g, c)); }, value,
          gate, t.bias, t.gate_bias);
    else
      map(columns, to, gated, value, gate);
  }
}

template <class O>
void store_as(const TileStore& t) {
  if (t.gate != nullptr) return store_gated<O>(t);
  switch (t.act) {
    case Activation::none: return store_with<O>(t, [](FloatVec v) { return v; });
    case Activation::silu: return store_with<O>(t, [](FloatVec v) { return silu(as_stored<O>(v)); });
    case Activation::gelu: return store_with<O>(t, [](FloatVec v) { return gelu(as_stored<O>(v)); });
    case Activation::gelu_tanh: return store_with<O>(t, [](FloatVec v) { return gelu_tanh(as_stored<O>(v)); });
  }
}

void store_rows(const TileStore& t) {
  if (t.out_dtype == DType::bfloat16) return store_as<bfloat16>(t);
  if (!t.add) return store_as<float>(t);
  for (int64_t r = 0; r < t.rows; ++r) {
    float* to = static_cast<float*>(t.out) + r * t.out_stride;
    map(
        static_cast<size_t>(t.columns), to, [](FloatVec v, FloatVec b) { return hn::Add(v, b); }, to,
        t.c + r * kTileColumns);
  }
}

}  // namespace raedit::backend::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <algorithm>

namespace raedit::backend::cpu {

HWY_EXPORT(tile_f32);
HWY_EXPORT(tile_bf16_wide);
HWY_EXPORT(widen_pairs);
HWY_EXPORT(store_rows);

void tile_f32(int64_t rows, const float* a, int64_t lda, const float* panels, int64_t panel_stride, int64_t depth,
              float* c, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(tile_f32)(rows, a, lda, panels, panel_stride, depth, c, accumulate);
}

void tile_bf16_wide(int64_t rows, const float* a, int64_t lda, const uint16_t* panels, int64_t panel_stride,
                    int64_t depth, float* c, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(tile_bf16_wide)(rows, a, lda, panels, panel_stride, depth, c, accumulate);
}

void widen_panel(const uint16_t* pairs, int64_t count, float* to) {
  HWY_DYNAMIC_DISPATCH(widen_pairs)(pairs, count, to);
}

void store_tile(const TileStore& store) {
  HWY_DYNAMIC_DISPATCH(store_rows)(store);
}

void Epilogue::store(const float* sums, int64_t group, int64_t row, int64_t rows) const {
  const int64_t width = paired ? kPairColumns : kTileColumns, half = n / 2;
  const int64_t column = group * width, stride = out.stride(0);
  const int64_t columns = std::min(width, (paired ? half : n) - column);
  const auto from = [&](int64_t first) { return bias != nullptr ? bias + first : nullptr; };
  const auto to = [&](int64_t first) {
    return out.raw() + (row * stride + first) * static_cast<int64_t>(size_of(out.dtype()));
  };
  TileStore tile{sums, rows, columns, from(column), to(column), stride, out.dtype(), add, act};
  if (swiglu) {
    tile.gate = sums + width;
    tile.gate_bias = from(half + column);
  }
  store_tile(tile);
  if (!paired || swiglu) return;
  tile.c = sums + width;
  tile.bias = from(half + column);
  tile.out = to(half + column);
  store_tile(tile);
}

TileResult Epilogue::result(int64_t group, int64_t row) const {
  const int64_t column = group * kTileColumns;
  if (paired || act != Activation::none || std::min(kTileColumns, n - column) % kPanel != 0) return {};
  const int64_t at = row * out.stride(0) + column;
  return {out.raw() + at * static_cast<int64_t>(size_of(out.dtype())), out.stride(0), out.dtype(),
          bias != nullptr ? bias + column : nullptr, add};
}

}  // namespace raedit::backend::cpu
#endif  // HWY_ONCE
