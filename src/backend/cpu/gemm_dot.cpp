// Products of bfloat16 operands that come as they are, on the dot product of AVX-512 or the tiles of AMX: a linear
// layer, and the two products of its way back. Each output element is one chain of multiply-adds over one block of k
// after another, whatever the cuts.
#include <omp.h>

#include <algorithm>

#include "backend/cpu/amx.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/gemm_partition.h"
#include "backend/cpu/isa.h"

namespace raedit::backend::cpu {
namespace {

constexpr int64_t kBlock = 2 * kBlockK;  // of what is summed over, for one chain
// Panels of 64 columns this deep stay in a second-level cache while a block of rows goes by.
constexpr int64_t kDeep = 4096;
constexpr int64_t kBlockRows = 264;
// Floats of a thread's sums: whole pages, so that each page belongs to the thread that touches it first.
constexpr int64_t kSumsSize = (kBlockRows * kTileColumns + 1023) / 1024 * 1024;
constexpr int64_t kAmxBlockRows = 256;
constexpr int64_t kAmxTileRows = 32;

int64_t panels_of(int64_t columns) {
  return (columns + kPanel - 1) / kPanel;
}

// sums[rows][64] for one group of 64 columns; a tile is finished as soon as it is whole. next: the group that comes
// afterwards, as far as one can tell; -1: none.
void multiply_item(const DotProduct& p, const Partition::Item& item, float* sums, const Epilogue& finish,
                   int64_t next) {
  const auto [group, row, rows] = item;
  const int64_t first_panel = group * (kTileColumns / kPanel);
  const int64_t count = finish.panels(group);
  if (has_amx_bf16()) {
    const bool fetches = next >= 0 && finish.panels(next) == count;
    amx_product({rows, count, p.a + row * p.lda, p.lda, p.panels + first_panel * p.panel_stride, p.panel_stride, p.k,
                 sums, kTileColumns, false, false,
                 fetches ? p.panels + next * (kTileColumns / kPanel) * p.panel_stride : nullptr});
    return finish.store(sums, group, row, rows);
  }
  DotTile tile{};
  tile.count = count;
  tile.lda = p.lda;
  tile.panel_stride = p.panel_stride;
  tile.ldc = kTileColumns;
  int64_t deep = 0;
  do {  // once even where there is nothing to sum: what is stored must have been written
    const int64_t end = std::min(deep + kDeep, p.k);
    for (int64_t r = 0; r < rows; r += kTileRows) {
      tile.rows = std::min(kTileRows, rows - r);
      tile.c = p.k <= kDeep ? sums : sums + r * kTileColumns;  // whole at once: in the first-level cache
      for (int64_t k = deep; k < end || k == 0; k += kBlock) {
        tile.a = p.a + (row + r) * p.lda + k;
        tile.panels = p.panels + first_panel * p.panel_stride + k * kPanel;
        tile.depth = (std::min(kBlock, end - k) + 1) / 2;
        tile.accumulate = k != 0;
        tile.result = k + kBlock >= p.k ? finish.result(group, row + r) : TileResult();
        tile_bf16_dot(tile);
      }
      if (end == p.k && tile.result.out == nullptr) finish.store(tile.c, group, row + r, tile.rows);
    }
    deep = end;
  } while (deep < p.k);
}

}  // namespace

size_t dot_workspace(int threads) {
  return static_cast<size_t>(threads * kSumsSize) * sizeof(float);
}

void dot_product(const DotProduct& p, const Epilogue& finish, std::byte* workspace, int threads) {
  if (p.m == 0 || finish.n == 0) return;
  const bool amx = has_amx_bf16();
  const Partition parts(p.m, finish.groups(), amx ? kAmxTileRows : kTileRows, amx ? kAmxBlockRows : kBlockRows,
                        2 * finish.n * p.k, threads);
  auto* const sums_of_all = reinterpret_cast<float*>(workspace);
#pragma omp parallel num_threads(team_of(threads, parts.items()))
  {
    const AmxTiles tiles(amx);
    float* const sums = sums_of_all + omp_get_thread_num() * kSumsSize;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < parts.items(); ++i)
      multiply_item(p, parts[i], sums, finish, parts.next_group(i, omp_get_num_threads()));
  }
}

namespace {

// Elements between the panels of one block of rows: a line more than they need, or all of them would begin in the same
// set of a cache.
constexpr int64_t kBlockStride = kBlock * kPanel + 32;
// Rows that a thread packs at a time.
constexpr int64_t kPieceRows = 32;
constexpr int64_t kPieces = kBlock / kPieceRows;
// Panels of d that stay in a second-level cache while the columns of x go by: 256 KiB.
constexpr int64_t kBlockPanels = 16;

// d^T x over one block of rows, both packed, for panels [first, last) of d: into out, or added to it.
struct TransposedBlock {
  const uint16_t *d, *x;
  int64_t panel_stride;
  int64_t n, k, pairs;
  float* out;
  int64_t out_stride;
  bool accumulate;

  void multiply(int64_t first, int64_t last) const {
    if (has_amx_bf16()) return multiply_tiles(first, last);
    for (int64_t block = first; block < last; block += kBlockPanels)
      for (int64_t column = 0; column < k; column += kTileColumns)
        for (int64_t panel = block; panel < std::min(block + kBlockPanels, last); ++panel)
          multiply_panel(panel * kPanel, column);
  }

  // 16 rows as 6, 5 and 5.
  void multiply_panel(int64_t row, int64_t column) const {
    const int64_t rows = std::min(kPanel, n - row), tiles = (rows + kTileRows - 1) / kTileRows;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t begin = rows * i / tiles;
      multiply_tile(row, begin, rows * (i + 1) / tiles - begin, column);
    }
  }

  // Rows [begin, begin + rows) of the panel that begins with `row`.
  void multiply_tile(int64_t row, int64_t begin, int64_t rows, int64_t column) const {
    const int64_t columns = std::min(kTileColumns, k - column);
    float* at = out + (row + begin) * out_stride + column;
    DotTile tile{rows,
                 panels_of(columns),
                 d + row / kPanel * panel_stride + 2 * begin,
                 2 * kPanel,
                 true,
                 x + column / kPanel * panel_stride,
                 panel_stride,
                 pairs,
                 at,
                 out_stride,
                 accumulate};
    if (columns % kPanel == 0) return tile_bf16_dot(tile);
    alignas(64) float sums[kTileRows * kTileColumns];
    tile.c = sums;
    tile.ldc = kTileColumns;
    tile.accumulate = false;
    tile_bf16_dot(tile);
    store_tile(sums, rows, columns, nullptr, at, out_stride, DType::float32, accumulate);
  }

  void multiply_tiles(int64_t first, int64_t last) const {
    const AmxTiles tiles;
    for (int64_t panel = first; panel < last; panel += kBlockPanels) {
      const int64_t row = panel * kPanel, rows = std::min(std::min(last - panel, kBlockPanels) * kPanel, n - row);
      for (int64_t column = 0; column < k; column += kTileColumns) {
        const int64_t columns = std::min(kTileColumns, k - column);
        AmxProduct<uint16_t> product{rows,
                                     panels_of(columns),
                                     d + panel * panel_stride,
                                     panel_stride,
                                     x + column / kPanel * panel_stride,
                                     panel_stride,
                                     2 * pairs,
                                     out + row * out_stride + column,
                                     out_stride,
                                     accumulate,
                                     true};
        if (columns % kPanel == 0) {
          amx_product(product);
          continue;
        }
        alignas(64) float sums[kBlockPanels * kPanel * kTileColumns];
        float* const at = product.c;
        product.c = sums;
        product.ldc = kTileColumns;
        product.accumulate = false;
        amx_product(product);
        store_tile(sums, rows, columns, nullptr, at, out_stride, DType::float32, accumulate);
      }
    }
  }
};

}  // namespace

size_t transposed_workspace(int64_t n, int64_t k) {
  return static_cast<size_t>(2 * (panels_of(n) + panels_of(k)) * kBlockStride) * sizeof(uint16_t);
}

void dot_transposed(const PairRows& d, const PairRows& x, int64_t m, const Tensor& out, bool add, std::byte* workspace,
                    int threads) {
  const int64_t n = out.dim(0), k = out.dim(1);
  if (n == 0 || k == 0) return;
  const int64_t d_panels = panels_of(n), x_panels = panels_of(k);
  // Two of each: one is packed while others still multiply from the other.
  const int64_t half = (d_panels + x_panels) * kBlockStride;
  auto* const packed = reinterpret_cast<uint16_t*>(workspace);
  const bool parallel = threads > 1 && n * k * m >= int64_t{1} << 20, amx = has_amx_bf16();
  static_assert(kPieceRows == 32, "the rows of a tile");
#pragma omp parallel num_threads(parallel ? threads : 1)
  {
    const int64_t thread = omp_get_thread_num(), count = omp_get_num_threads();
    for (int64_t first = 0, block = 0; first < m; first += kBlock, ++block) {
      const int64_t rows = std::min(kBlock, m - first);
      uint16_t* const to = packed + block % 2 * half;
#pragma omp for schedule(static)
      for (int64_t i = 0; i < 2 * kPieces; ++i) {
        const bool is_d = i < kPieces;
        const int64_t row = i % kPieces * kPieceRows, count = std::min(kPieceRows, rows - row);
        if (count <= 0) continue;
        const int64_t panels = is_d ? d_panels : x_panels;
        uint16_t* const at = to + (is_d ? 0 : d_panels) * kBlockStride;
        pack_row_pairs(is_d ? d : x, first + row, count, 0, is_d ? n : k, at + row * kPanel, kBlockStride);
        if (!amx) continue;
        if (row + count == rows) clear_pairs(at, panels, kBlockStride, rows);
        for (int64_t p = 0; is_d && p < panels; ++p) transpose_tile(at + p * kBlockStride + row * kPanel);
      }
      const TransposedBlock work{to,
                                 to + d_panels * kBlockStride,
                                 kBlockStride,
                                 n,
                                 k,
                                 (rows + 1) / 2,
                                 out.data<float>(),
                                 out.stride(0),
                                 add || first > 0};
      work.multiply(d_panels * thread / count, d_panels * (thread + 1) / count);
    }
  }
}

}  // namespace raedit::backend::cpu
