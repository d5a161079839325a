// Products on AMX, the tile unit of Sapphire Rapids and later: eight tile registers of 16 rows by 64 bytes for each
// thread. Source: Intel SDM volume 1 chapter 18 and volume 2 (LDTILECFG, TILELOADD, TDPBF16PS).
//
// The panels are those of gemm.h: 16 pairs of rows of a panel lie as a tile wants its right operand, so one packed
// matrix serves the tiles and the AVX-512 dot product.
#pragma once

#include <cstdint>
#include <type_traits>

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

// c[rows][16 * count] (+)= a[rows][k] * panels[count], 64 bytes of k at a time, in order, an element's chain
// independent of its place. Element is uint16_t, the bits of a bfloat16, summed in float32, or int8_t, summed in int32
// exactly. Strides in elements.
template <class Element>
struct AmxProduct {
  int64_t rows, count;
  const Element* a;
  int64_t lda;
  const Element* panels;  // [k/2][16][2] or [k/4][16][4] each, zeros behind k
  int64_t panel_stride;
  int64_t k;
  std::conditional_t<sizeof(Element) == 1, int32_t, float>* c;
  int64_t ldc;
  bool accumulate = false;
  // a is panels, too, that transpose_tile() (gemm.h) went through: tiles of 16 rows by 64 bytes one after another, 16
  // rows every lda. Both operands hold zeros up to the end of a tile then.
  bool tiled = false;
  // `count` other panels that this thread will probably want afterwards: fetched meanwhile. May be null.
  const Element* next = nullptr;
};
void amx_product(const AmxProduct<uint16_t>& product);
void amx_product(const AmxProduct<int8_t>& product);

}  // namespace raedit::backend::cpu
