// The matrix product of the CPU backend: x[M,K] * w[N,K]^T with w packed once.
//
// Packed layout, the same on every instruction set: panels of 16 output columns in groups of four, padded with zeros.
//   float32:  panel[k][16]
//   bfloat16: panel[k/2][16][2], an odd K padded with one zero
// A paired matrix, that of a SwiGLU, has in each group 32 columns of its first half, the values, and then the 32 of its
// second half that are their gates; so one group of sums is all that 32 results need.
// A tile is up to 6 rows by 64 columns. K is cut into blocks of kBlockK (twice that with the
// bfloat16 dot product); inside a block each output element is one
// chain of multiply-adds in the order of k, and blocks are added in order. So an element depends on its row of x, its
// row of w and the instruction set alone: never on M, on the tile it fell into or on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/kernels.h"

namespace raedit::backend::cpu {

inline constexpr int64_t kPanel = 16;
inline constexpr int64_t kTileColumns = 64;
inline constexpr int64_t kPairColumns = kTileColumns / 2;
inline constexpr int64_t kTileRows = 6;
inline constexpr int64_t kBlockK = 256;  // a tile's columns are 64 KiB of float32; shorter chains also round less

// Threads for so many units: all or one. OpenMP's runtime ends the threads that a smaller team leaves out and starts
// new ones for the next.
inline int team_of(int threads, int64_t units) {
  return units > 1 ? threads : 1;
}

// Another number whenever a packed matrix of a model becomes other bytes: files of them are kept.
inline constexpr const char* kPackedLayout = "cpu panels 1";

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Groups of 64 columns that n columns are packed in.
inline int64_t groups_of(int64_t n, bool paired) {
  return paired ? (n / 2 + kPairColumns - 1) / kPairColumns : (n + kTileColumns - 1) / kTileColumns;
}

// Rows of the weight that become one panel.
struct PanelRows {
  int64_t first, count;
};

// What every packed matrix of this device is.
class PanelMatrix : public PackedMatrix {
 public:
  std::shared_ptr<Storage> storage;
  bool paired = false;
  int64_t groups() const { return groups_of(n, paired); }
  int64_t panels_count() const { return groups() * (kTileColumns / kPanel); }
  PanelRows rows_of(int64_t panel) const;
};

class CpuPackedMatrix final : public PanelMatrix {
 public:
  size_t nbytes() const override { return static_cast<size_t>(panels_count() * panel_stride()) * size_of(dtype); }
  // Elements of one panel.
  int64_t panel_stride() const { return kPanel * (dtype == DType::bfloat16 ? round_up(k, 2) : k); }
  template <class T>
  const T* panels() const {
    return reinterpret_cast<const T*>(storage->data());
  }
};

// c[rows][64] = (accumulate ? c : 0) + a[rows][depth] * panels[4][depth][16]. rows <= kTileRows.
// lda and panel_stride in elements; depth counts k for float32 weights, pairs of k for bfloat16 ones.
void tile_f32(int64_t rows, const float* a, int64_t lda, const float* panels, int64_t panel_stride, int64_t depth,
              float* c, bool accumulate);
// bfloat16 weights, a widened to float32: 2 * depth floats a row.
void tile_bf16_wide(int64_t rows, const float* a, int64_t lda, const uint16_t* panels, int64_t panel_stride,
                    int64_t depth, float* c, bool accumulate);
// Rows of a bfloat16 panel, `count` pairs of them, as the same rows of a float32 panel.
void widen_panel(const uint16_t* pairs, int64_t count, float* to);
// Where a tile puts its sums, rounded and with a bias, when nothing else is to be done with them.
struct TileResult {
  void* out = nullptr;  // null: there is more to do, and the sums stay
  int64_t stride = 0;   // elements
  DType dtype = DType::float32;
  const float* bias = nullptr;  // [16 * count]
  bool add = false;             // to what is in out, which is float32
};
// bfloat16 weights and a, only for machines with the AVX-512 dot product (isa.h): c[rows][16 * count], ldc elements a
// row. `paired`: pair p of row r is at a[p * lda + 2 * r], as in a panel; else at a[r * lda + 2 * p].
struct DotTile {
  int64_t rows, count;  // of rows and panels: up to 6 and 4
  const uint16_t* a;
  int64_t lda;
  bool paired;
  const uint16_t* panels;
  int64_t panel_stride;
  int64_t depth;  // pairs
  float* c;
  int64_t ldc;
  bool accumulate;
  TileResult result{};  // where it has an `out`, the sums go there instead of into c
};
void tile_bf16_dot(const DotTile& tile);

// out[r][0..columns) = act(c[r][0..columns) + bias), rows of 64 sums; bias may be null. With `gate`, out =
// (c + bias) * silu(gate + gate_bias). out is float32 or bfloat16 rows, out_stride elements apart; what goes into a
// function is rounded to that type first, so that the bits are those of one pass after the other. `add`: added to what
// is in out, which is float32; without bias or activation then.
struct TileStore {
  const float* c;
  int64_t rows, columns;
  const float* bias;
  void* out;
  int64_t out_stride;
  DType out_dtype;
  bool add = false;
  Activation act = Activation::none;
  const float* gate = nullptr;
  const float* gate_bias = nullptr;
};
void store_tile(const TileStore& store);

inline void store_tile(const float* c, int64_t rows, int64_t columns, const float* bias, void* out, int64_t out_stride,
                       DType out_dtype, bool add = false) {
  store_tile({c, rows, columns, bias, out, out_stride, out_dtype, add});
}

// What becomes of a product's sums on their way out, whoever summed them: bias, activation or SwiGLU, and the type of
// the result. Every product finishes here, or in its tile as result() says.
struct Epilogue {
  Tensor out;  // [M,n], [M,n/2] with swiglu
  int64_t n = 0;
  const float* bias = nullptr;  // [n]
  Activation act = Activation::none;
  bool paired = false;  // how the columns are packed
  bool swiglu = false;  // of a paired matrix
  bool add = false;     // to out, which is float32

  int64_t groups() const { return groups_of(n, paired); }
  // Panels of a group that hold columns.
  int64_t panels(int64_t group) const {
    const int64_t left = paired ? kTileColumns : n - group * kTileColumns;
    return (left < kTileColumns ? left + kPanel - 1 : kTileColumns) / kPanel;
  }
  // Finishes sums[rows][64] of rows [row, row + rows) in one group of columns.
  void store(const float* sums, int64_t group, int64_t row, int64_t rows) const;
  // What store() would do with rows from `row` on, where it is so little that the tile does it with the sums in its
  // registers: rounding, a bias, adding.
  TileResult result(int64_t group, int64_t row) const;
};

// ---- packing

// Up to 16 rows of a weight in any floating type, `stride` elements apart.
struct PanelSource {
  const std::byte* data;
  DType dtype;
  int64_t stride;
  int64_t rows;
};
// One panel of them, as float32 or as pairs of bfloat16; what is missing becomes zeros.
void pack_panel(const PanelSource& source, int64_t k, float* to);
void pack_panel(const PanelSource& source, int64_t k, uint16_t* to);

// ---- packing for the dot product: panels of 16 columns, [pair][16][2], zeros where there is nothing

// Rows of a matrix, in bfloat16 or float32 (rounded here), for products over its rows: pairs are neighbouring rows.
struct PairRows {
  const void* data;
  DType dtype;
  int64_t stride;  // elements
};
// Rows [first, first + rows) and columns [column, column + columns), whole panels from `to` on.
void pack_row_pairs(const PairRows& source, int64_t first, int64_t rows, int64_t column, int64_t columns, uint16_t* to,
                    int64_t panel_stride);
// 16 pairs of a panel become 16 rows of 32 values, and back: what AMX wants of a left operand.
void transpose_tile(uint16_t* tile);
// Zeros in what `rows` rows leave of the last 32 of each panel: AMX reads them whole.
void clear_pairs(uint16_t* panels, int64_t count, int64_t panel_stride, int64_t rows);
// One panel of up to 16 rows of k bfloat16 values, for products over k: pairs are neighbours in a row.
void pack_column_pairs(const uint16_t* from, int64_t stride, int64_t rows, int64_t k, uint16_t* to);

// ---- products with the dot product, everything bfloat16 but for sums
struct DotProduct {
  const uint16_t* a;  // [m,k]; where k is odd, a zero follows each row
  int64_t lda;
  const uint16_t* panels;
  int64_t panel_stride;
  int64_t m, k;
};
// a * panels, finished; with so many bytes of workspace.
size_t dot_workspace(int threads);
void dot_product(const DotProduct& product, const Epilogue& finish, std::byte* workspace, int threads);
// out[n,k] float32 (+)= d[m,n]^T * x[m,k], with so many bytes of workspace.
size_t transposed_workspace(int64_t n, int64_t k);
void dot_transposed(const PairRows& d, const PairRows& x, int64_t m, const Tensor& out, bool add, std::byte* workspace,
                    int threads);

}  // namespace raedit::backend::cpu
