// The 8-bit matrix product: weights are integers in [-127, 127] with one scale per output column, rows of x the same
// with one scale per row, chosen as they come. Sums are exact int32, so they are the same on every instruction set;
// then out = float(sum) * row scale * column scale + bias in float32, each step rounded.
//
// Packed layout: panels of 16 output columns, panel[k/4][16][4], K padded with zeros to a multiple of 64 and the
// columns to whole groups of gemm.h, pairs of a SwiGLU included. Four neighbours in k stand together, so 4 k of a panel
// are one line of a cache: what vpdpbusd reads, and a row of a B tile of AMX.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "backend/cpu/gemm.h"

namespace raedit::backend::cpu {

inline constexpr int64_t kInt8DepthStep = 64;
// 255 * 127 * 16384 stays inside an int32.
inline constexpr int64_t kMostInt8Depth = 16384;

class Int8Matrix final : public PanelMatrix {
 public:
  bool divides = false;  // has divisors
  // The storage is panels, scales, corrections and divisors, one after another, each a multiple of 64 bytes. May be a
  // mapped file: what looks at it only reads.
  std::span<float> scales;         // of the columns as they are packed, padded with zeros
  std::span<int32_t> corrections;  // -128 * the sum of each column: what rows that are stored as x + 128 begin with
  std::span<float> divisors;       // 1 / s of SmoothQuant [depth()], padded with zeros; empty: none

  int64_t columns() const { return groups() * kTileColumns; }
  int64_t depth() const { return round_up(k, kInt8DepthStep); }
  int64_t panel_stride() const { return kPanel * depth(); }  // bytes
  const int8_t* data() const { return reinterpret_cast<const int8_t*>(storage->data()); }
  size_t nbytes() const override;
  // nbytes() bytes that hold the parts, or shall.
  void look_at(std::shared_ptr<Storage> bytes);
};

// ---- rows

// One row in 8 bits: to[i] = x[i] * factor[i] * 127 / max|x * factor|, rounded half to even, for i < k, and 0 up to
// `depth`; `flip` is 0, or 0x80 for x + 128 in the place of every x. Returns the row's scale: 0 for a row of zeros (or
// of nothing above 2^-100), NaN where a value is not finite. factor may be null; else it has `depth` values.
float quantize_row(DType dtype, const std::byte* x, const float* factor, int64_t k, int64_t depth, uint8_t flip,
                   int8_t* to);

// largest[c] = max over the rows of |x[r][c]| for columns [0, columns) of rows that lie `stride` elements apart.
void column_maxima(DType dtype, const std::byte* x, int64_t rows, int64_t stride, int64_t columns, float* largest);

// c[r][i] = float(sums[r][i]) * row_scales[r] * scales[i], rows of 64. c may be the memory of sums.
void rescale_tile(const int32_t* sums, int64_t rows, const float* row_scales, const float* scales, float* c);

// ---- tiles

// c[rows][64] = start + a[rows][depth] * panels, for up to Int8Way::rows rows and 4 panels; columns of panels that are
// not there are left alone.
struct Int8Tile {
  int64_t rows, count;
  const int8_t* a;
  int64_t lda;
  const int8_t* panels;
  int64_t panel_stride;
  int64_t depth;         // a multiple of 64
  const int32_t* start;  // [16 * count], for the tile that reads x + 128
  int32_t* c;
  const int8_t* next = nullptr;  // see AmxProduct (amx.h)
};

void tile_int8_vnni(const Int8Tile& tile);  // a is x + 128, `start` the columns' corrections
void tile_int8_avx2(const Int8Tile& tile);
void tile_int8_plain(const Int8Tile& tile);
// Inside of AmxTiles (amx.h).
void tile_int8_amx(const Int8Tile& tile);

// How this machine multiplies.
inline constexpr int64_t kAmxInt8Rows = 128;
struct Int8Way {
  void (*tile)(const Int8Tile&);
  bool shifted;  // rows are x + 128
  bool amx;
  int64_t rows;  // of a tile
};
Int8Way int8_way();

}  // namespace raedit::backend::cpu
