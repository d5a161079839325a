// Products on the bfloat16 dot product whose operands come as they are: a linear layer, and the two products of its way
// back. Each output element is one chain of multiply-adds over kBlockPairs pairs after another, whatever the cuts.
#include <omp.h>

#include <algorithm>

#include "backend/cpu/gemm.h"

namespace raedit::backend::cpu {
namespace {

constexpr int64_t kBlock = 2 * kBlockK;  // of what is summed over, for one chain
// Panels of 64 columns this deep stay in a second-level cache while a block of rows goes by.
constexpr int64_t kDeep = 4096;
constexpr int64_t kBlockRows = 264;
// Floats of a thread's sums: whole pages, so that each page belongs to the thread that touches it first.
constexpr int64_t kSumsSize = (kBlockRows * kTileColumns + 1023) / 1024 * 1024;

int64_t panels_of(int64_t columns) {
  return (columns + kPanel - 1) / kPanel;
}

// sums[rows][64] for one group of 64 columns; store(r, tile_rows, sums) as soon as a tile is whole.
template <class Store>
void multiply_rows(const DotProduct& p, int64_t group, int64_t row, int64_t rows, float* sums, const Store& store) {
  const int64_t first_panel = group * (kTileColumns / kPanel);
  DotTile tile{};
  tile.count = std::min(kTileColumns / kPanel, panels_of(p.n) - first_panel);
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
        tile_bf16_dot(tile);
      }
      if (end == p.k) store(r, tile.rows, tile.c);
    }
    deep = end;
  } while (deep < p.k);
}

}  // namespace

size_t dot_workspace(int threads) {
  return static_cast<size_t>(threads * kSumsSize) * sizeof(float);
}

void dot_product(const DotProduct& p, const Tensor& out, bool add, std::byte* workspace, int threads) {
  if (p.m == 0 || p.n == 0) return;
  const int64_t groups = (p.n + kTileColumns - 1) / kTileColumns;
  // Blocks shrink until every thread has a few: the result does not depend on where the cuts are.
  int64_t blocks = (p.m + kBlockRows - 1) / kBlockRows;
  const int64_t most = (p.m + kTileRows - 1) / kTileRows;
  while (threads > 1 && groups * blocks < 4 * threads && blocks < most) ++blocks;
  const int64_t block_rows = round_up((p.m + blocks - 1) / blocks, kTileRows);
  blocks = (p.m + block_rows - 1) / block_rows;
  const int64_t items = groups * blocks;
  // Consecutive items share what is larger: rows of a, or columns that are streamed from memory once.
  const bool rows_first = p.n * p.k <= (int64_t{1} << 20);
  const int team = static_cast<int>(std::min<int64_t>(threads, items));
  auto* const sums_of_all = reinterpret_cast<float*>(workspace);
  const int64_t stride = out.stride(0);
  const auto size = static_cast<int64_t>(size_of(out.dtype()));
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
  for (int64_t item = 0; item < items; ++item) {
    float* sums = sums_of_all + omp_get_thread_num() * kSumsSize;
    const int64_t group = rows_first ? item % groups : item / blocks;
    const int64_t row = (rows_first ? item / groups : item % blocks) * block_rows;
    const int64_t column = group * kTileColumns;
    const float* bias = p.bias != nullptr ? p.bias + column : nullptr;
    multiply_rows(p, group, row, std::min(block_rows, p.m - row), sums, [&](int64_t r, int64_t rows, const float* c) {
      store_tile(c, rows, std::min(kTileColumns, p.n - column), bias, out.raw() + ((row + r) * stride + column) * size,
                 stride, out.dtype(), add);
    });
  }
}

namespace {

// Elements between the panels of one block of rows: a line more than they need, or all of them would begin in the same
// set of a cache.
constexpr int64_t kBlockStride = kBlock * kPanel + 32;
// Rows that a thread packs at a time.
constexpr int64_t kPieceRows = 32;
constexpr int64_t kPieces = kBlock / kPieceRows;

// d^T x over one block of rows, both packed, for panels [first, last) of d: into out, or added to it.
struct TransposedBlock {
  const uint16_t *d, *x;
  int64_t panel_stride;
  int64_t n, k, pairs;
  float* out;
  int64_t out_stride;
  bool accumulate;

  void multiply(int64_t first, int64_t last) const {
    for (int64_t column = 0; column < k; column += kTileColumns) {
      for (int64_t panel = first; panel < last; ++panel) {
        const int64_t row = panel * kPanel, rows = std::min(kPanel, n - row);
        // 16 rows as 6, 5 and 5.
        const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
        for (int64_t i = 0; i < tiles; ++i) {
          const int64_t begin = rows * i / tiles;
          one(row, begin, rows * (i + 1) / tiles - begin, column);
        }
      }
    }
  }

  void one(int64_t row, int64_t begin, int64_t rows, int64_t column) const {
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
  const bool parallel = threads > 1 && n * k * m >= int64_t{1} << 20;
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
        if (count > 0)
          pack_row_pairs(is_d ? d : x, first + row, count, 0, is_d ? n : k,
                         to + (is_d ? 0 : d_panels) * kBlockStride + row * kPanel, kBlockStride);
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
