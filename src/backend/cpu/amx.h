// Products on AMX, the tile unit of Sapphire Rapids and later: eight tile registers of 16 rows by 64 bytes for each
// thread. Source: Intel SDM volume 1 chapter 18 and volume 2 (LDTILECFG, TILELOADD, TDPBF16PS).
//
// The panels are those of gemm.h: 16 pairs of rows of a panel lie as a tile wants its right operand, so one packed
// matrix serves the tiles and the AVX-512 dot product.
#pragma once

#include <cstdint>

namespace raedit::backend::cpu {

// While one lives, this thread's tiles are set up, as 16 rows by 64 bytes each; afterwards they are given back, which
// keeps the thread's switches cheap. Only where has_amx_bf16() (isa.h).
class AmxTiles {
 public:
  explicit AmxTiles(bool wanted = true);
  ~AmxTiles();
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

 private:
  bool wanted_;
};

// c[rows][16 * count] float32 (+)= a[rows][k] * panels[count], in bfloat16, summed in float32: 32 values of k at a
// time, in order, an element's chain independent of its place. Strides in elements.
struct AmxProduct {
  int64_t rows, count;
  const uint16_t* a;
  int64_t lda;
  const uint16_t* panels;  // [k/2][16][2] each; where k is odd, one zero follows each column
  int64_t panel_stride;
  int64_t k;
  float* c;
  int64_t ldc;
  bool accumulate;
};
void amx_product(const AmxProduct& product);

// The same of 8-bit integers, summed in int32 exactly: rows and panels as bytes, k a multiple of 64, panels
// [k/4][16][4].
struct AmxInt8Product {
  int64_t rows, count;
  const int8_t* a;
  int64_t lda;
  const int8_t* panels;
  int64_t panel_stride;
  int64_t k;
  int32_t* c;
  int64_t ldc;
};
void amx_int8_product(const AmxInt8Product& product);

// The same with a's rows as panels, too, that transpose_tile() (gemm.h) went through: [16 rows][32 values] tiles one
// after another, 16 rows every a_panel_stride. Both operands hold zeros where k is not a multiple of 32.
struct AmxPanelProduct {
  int64_t rows, count;
  const uint16_t* a;
  int64_t a_panel_stride;
  const uint16_t* panels;
  int64_t panel_stride;
  int64_t k;
  float* c;
  int64_t ldc;
  bool accumulate;
};
void amx_panel_product(const AmxPanelProduct& product);

}  // namespace raedit::backend::cpu
