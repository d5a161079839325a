// Blocks of 32 rows by 32 columns: four tiles of sums, two of rows, two of panels. The panels of a block of k stay in
// the first-level cache while rows stream by from the second; so the rows are loaded with a hint that they will not be
// needed soon. The instructions are written as assembly: GCC 12's intrinsics tell the compiler neither what
// LDTILECFG reads nor that tile loads read memory.
#include "backend/cpu/amx.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/gemm.h"

namespace raedit::backend::cpu {
namespace {

constexpr int64_t kTileHeight = 16;
constexpr int64_t kStep = 32;                           // values of k in a tile
constexpr int64_t kTileElements = kTileHeight * kStep;  // 1 KiB
constexpr int64_t kTileBytes = 64;                      // of a row
constexpr int64_t kChunk = 512;                         // of k: two panels of it are 32 KiB
constexpr int64_t kChunkSteps = kChunk / kStep;
// Of rows: a chunk of them stays in a second-level cache.
constexpr int64_t kRowsAtOnce = 512;

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

template <int kTile>
inline void zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kTile>
inline void load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
}
// Past the first-level cache.
template <int kTile>
inline void stream(const void* from, int64_t stride) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile) : "memory");
}
// What the 64 bytes of a row hold, and with them what sums are.
enum class Numbers { bfloat16, int8 };

template <Numbers kNumbers, int kSums, int kRows, int kPanel>
inline void multiply() {
  if constexpr (kNumbers == Numbers::bfloat16)
    asm volatile("tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"i"(kPanel), "i"(kRows), "i"(kSums));
  else
    asm volatile("tdpbssd %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"i"(kPanel), "i"(kRows), "i"(kSums));
}

// 16 rows of the left operand: whole steps, and what is left of k behind them.
struct RowTile {
  const uint16_t* steps;
  int64_t stride;        // bytes between rows
  int64_t step;          // elements between steps
  const uint16_t* tail;  // one tile, rows 64 bytes apart
};

// 16 columns of the right one.
struct PanelTile {
  const uint16_t* steps;
  const uint16_t* tail;
};

struct SumTile {
  float* at;
  int64_t stride;  // bytes
};

// What the cores will want next, a few lines at each step.
struct Ahead {
  const uint16_t* at[2] = {};
  int64_t lines = 0;  // at each step

  void fetch(int64_t step) const {
    for (const uint16_t* panel : at)
      for (int64_t i = 0; panel != nullptr && i < lines; ++i)
        __builtin_prefetch(reinterpret_cast<const char*>(panel) + (step * lines + i) * 64, 0, 2);
  }
};

template <Numbers kNumbers, int kRows, int kPanels>
void block(const RowTile* rows, const PanelTile* panels, int64_t steps, bool tail, const SumTile (*sums)[2],
           bool accumulate, const Ahead& ahead) {
  if (accumulate) {
    load<0>(sums[0][0].at, sums[0][0].stride);
    if constexpr (kPanels > 1) load<1>(sums[0][1].at, sums[0][1].stride);
    if constexpr (kRows > 1) load<2>(sums[1][0].at, sums[1][0].stride);
    if constexpr (kRows > 1 && kPanels > 1) load<3>(sums[1][1].at, sums[1][1].stride);
  } else {
    zero<0>();
    if constexpr (kPanels > 1) zero<1>();
    if constexpr (kRows > 1) zero<2>();
    if constexpr (kRows > 1 && kPanels > 1) zero<3>();
  }
  const auto step = [&](const uint16_t* const(&b)[2], const uint16_t* const(&a)[2], const int64_t(&stride)[2]) {
    load<6>(b[0], kTileBytes);
    stream<4>(a[0], stride[0]);
    multiply<kNumbers, 0, 4, 6>();
    if constexpr (kPanels > 1) {
      load<7>(b[1], kTileBytes);
      multiply<kNumbers, 1, 4, 7>();
    }
    if constexpr (kRows > 1) {
      stream<5>(a[1], stride[1]);
      multiply<kNumbers, 2, 5, 6>();
      if constexpr (kPanels > 1) multiply<kNumbers, 3, 5, 7>();
    }
  };
  constexpr int r1 = kRows - 1, p1 = kPanels - 1;
  for (int64_t i = 0; i < steps; ++i) {
    ahead.fetch(i);
    step({panels[0].steps + i * kTileElements, panels[p1].steps + i * kTileElements},
         {rows[0].steps + i * rows[0].step, rows[r1].steps + i * rows[r1].step}, {rows[0].stride, rows[r1].stride});
  }
  if (tail) step({panels[0].tail, panels[p1].tail}, {rows[0].tail, rows[r1].tail}, {kTileBytes, kTileBytes});
  store<0>(sums[0][0].at, sums[0][0].stride);
  if constexpr (kPanels > 1) store<1>(sums[0][1].at, sums[0][1].stride);
  if constexpr (kRows > 1) store<2>(sums[1][0].at, sums[1][0].stride);
  if constexpr (kRows > 1 && kPanels > 1) store<3>(sums[1][1].at, sums[1][1].stride);
}

using Block = void (*)(const RowTile*, const PanelTile*, int64_t, bool, const SumTile (*)[2], bool, const Ahead&);
// [rows - 1][panels - 1]
template <Numbers kNumbers>
constexpr Block kBlocks[2][2] = {{block<kNumbers, 1, 1>, block<kNumbers, 1, 2>},
                                 {block<kNumbers, 2, 1>, block<kNumbers, 2, 2>}};

// Sums of a tile that has fewer than 16 rows: they take a way round, so that nothing behind them is touched.
struct Partial {
  alignas(64) float sums[2][kTileHeight][kPanel];

  void fetch(const float* c, int64_t ldc, int64_t rows, int64_t panels) {
    std::memset(sums, 0, sizeof sums);
    for (int64_t p = 0; p < panels; ++p)
      for (int64_t r = 0; r < rows; ++r) std::copy_n(c + r * ldc + p * kPanel, kPanel, sums[p][r]);
  }
  void put(float* c, int64_t ldc, int64_t rows, int64_t panels) const {
    for (int64_t p = 0; p < panels; ++p)
      for (int64_t r = 0; r < rows; ++r) std::copy_n(sums[p][r], kPanel, c + r * ldc + p * kPanel);
  }
};

// One chunk of k, of all rows and panels. row_tile(i) and panel_tile(p) say where operands are.
struct Chunk {
  int64_t rows, count;  // of panels
  int64_t steps;
  bool tail;
  float* c;
  int64_t ldc;
  bool accumulate;
  Numbers numbers;
  int64_t next;  // elements from a panel's steps to those of the next chunk; 0: there is none

  template <class Rows, class Panels>
  void multiply(const Rows& row_tile, const Panels& panel_tile) const {
    const int64_t tiles = (rows + kTileHeight - 1) / kTileHeight, blocks = (tiles + 1) / 2;
    for (int64_t p = 0; p < count; p += 2) {
      const int64_t panels = std::min<int64_t>(2, count - p);
      const PanelTile right[2] = {panel_tile(p), panel_tile(p + panels - 1)};
      for (int64_t t = 0; t < tiles; t += 2) {
        Ahead ahead;
        if (next != 0 && steps > 0) {
          ahead.lines = (kChunkSteps * kTileHeight + blocks * steps - 1) / (blocks * steps);
          const int64_t offset = next + t / 2 * steps * ahead.lines * kStep;
          for (int64_t i = 0; i < panels; ++i) ahead.at[i] = right[i].steps + offset;
        }
        pair_of_tiles(t, std::min<int64_t>(2, tiles - t), p, panels, row_tile, right, ahead);
      }
    }
  }

  template <class Rows>
  void pair_of_tiles(int64_t t, int64_t tiles, int64_t p, int64_t panels, const Rows& row_tile, const PanelTile* right,
                     const Ahead& ahead) const {
    const RowTile left[2] = {row_tile(t), row_tile(t + tiles - 1)};
    const int64_t last = rows - (t + tiles - 1) * kTileHeight;  // rows of the second tile
    float* const at = c + t * kTileHeight * ldc + p * kPanel;
    SumTile sums[2][2];
    for (int64_t i = 0; i < tiles; ++i)
      for (int64_t j = 0; j < panels; ++j)
        sums[i][j] = {at + i * kTileHeight * ldc + j * kPanel, ldc * static_cast<int64_t>(sizeof(float))};
    const auto& blocks = numbers == Numbers::int8 ? kBlocks<Numbers::int8> : kBlocks<Numbers::bfloat16>;
    const Block work = blocks[tiles - 1][panels - 1];
    if (last >= kTileHeight) return work(left, right, steps, tail, sums, accumulate, ahead);
    Partial partial;
    float* const rest = at + (tiles - 1) * kTileHeight * ldc;
    if (accumulate) partial.fetch(rest, ldc, last, panels);
    for (int64_t j = 0; j < panels; ++j) sums[tiles - 1][j] = {partial.sums[j][0], kTileBytes};
    work(left, right, steps, tail, sums, accumulate, ahead);
    partial.put(rest, ldc, last, panels);
  }
};

// What is left of k behind whole steps, as a tile of its own with zeros behind it.
void copy_rows(const uint16_t* from, int64_t stride, int64_t rows, int64_t values, uint16_t* to, int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * to_stride, from + r * stride, static_cast<size_t>(values) * sizeof(uint16_t));
    std::fill(to + r * to_stride + values, to + (r + 1) * to_stride, uint16_t{0});
  }
}

// Up to kRowsAtOnce rows.
void multiply_rows(const AmxProduct& p, Numbers numbers) {
  const int64_t whole = p.k / kStep * kStep, tail = p.k - whole;
  const int64_t tiles = (p.rows + kTileHeight - 1) / kTileHeight, full = p.rows / kTileHeight;
  alignas(64) uint16_t row_tails[kRowsAtOnce * kStep];
  alignas(64) uint16_t last_rows[kTileHeight * kChunk];
  if (tail > 0) {
    copy_rows(p.a + whole, p.lda, p.rows, tail, row_tails, kStep);
    std::fill(row_tails + p.rows * kStep, row_tails + tiles * kTileElements, uint16_t{0});
  }
  if (full < tiles) std::fill(last_rows, last_rows + kTileHeight * kChunk, uint16_t{0});
  int64_t k = 0;
  do {  // once even where there is nothing to sum
    const int64_t values = std::min(kChunk, whole - k);
    const bool ends = k + values == whole;
    if (full < tiles)
      copy_rows(p.a + full * kTileHeight * p.lda + k, p.lda, p.rows - full * kTileHeight, values, last_rows, kChunk);
    alignas(64) uint16_t panel_tails[2][kTileElements];
    const Chunk chunk{p.rows,
                      p.count,
                      values / kStep,
                      ends && tail > 0,
                      p.c,
                      p.ldc,
                      p.accumulate || k > 0,
                      numbers,
                      k + 2 * kChunk <= whole ? kChunk : 0};
    chunk.multiply(
        [&](int64_t i) -> RowTile {
          const uint16_t* const rest = row_tails + i * kTileElements;
          if (i < full) return {p.a + i * kTileHeight * p.lda + k, 2 * p.lda, kStep, rest};
          return {last_rows, 2 * kChunk, kStep, rest};
        },
        [&](int64_t i) -> PanelTile {
          const uint16_t* const panel = p.panels + i * p.panel_stride;
          uint16_t* const rest = panel_tails[i % 2];
          if (ends && tail > 0)
            copy_rows(panel + whole * kPanel, 0, 1, (tail + 1) / 2 * 2 * kPanel, rest, kTileElements);
          return {panel + k * kPanel, rest};
        });
    k += values;
    if (ends) break;
  } while (true);
}

void multiply(const AmxProduct& product, Numbers numbers) {
  for (int64_t row = 0; row < product.rows; row += kRowsAtOnce) {
    AmxProduct part = product;
    part.rows = std::min(kRowsAtOnce, product.rows - row);
    part.a += row * product.lda;
    part.c += row * product.ldc;
    multiply_rows(part, numbers);
  }
}

}  // namespace

AmxTiles::AmxTiles(bool wanted) : wanted_(wanted) {
  if (!wanted) return;
  TileConfig config;
  std::fill_n(config.bytes, 8, static_cast<uint16_t>(kTileBytes));
  std::fill_n(config.rows, 8, static_cast<uint8_t>(kTileHeight));
  asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
}

AmxTiles::~AmxTiles() {
  if (wanted_) asm volatile("tilerelease" ::: "memory");
}

void amx_product(const AmxProduct& product) {
  multiply(product, Numbers::bfloat16);
}

// Two bytes stand where one bfloat16 number would.
void amx_int8_product(const AmxInt8Product& p) {
  multiply(
      {p.rows, p.count, reinterpret_cast<const uint16_t*>(p.a), p.lda / 2, reinterpret_cast<const uint16_t*>(p.panels),
       p.panel_stride / 2, p.k / 2, reinterpret_cast<float*>(p.c), p.ldc, false},
      Numbers::int8);
}

void amx_panel_product(const AmxPanelProduct& p) {
  const int64_t steps = (p.k + kStep - 1) / kStep;
  for (int64_t k = 0; k < steps; k += kChunkSteps) {
    const Chunk chunk{
        p.rows, p.count, std::min(kChunkSteps, steps - k), false, p.c, p.ldc, p.accumulate || k > 0, Numbers::bfloat16,
        0};
    chunk.multiply(
        [&](int64_t i) -> RowTile {
          return {p.a + i * p.a_panel_stride + k * kTileElements, kTileBytes, kTileElements, nullptr};
        },
        [&](int64_t i) -> PanelTile {
          return {p.panels + i * p.panel_stride + k * kTileElements, nullptr};
        });
  }
}

}  // namespace raedit::backend::cpu
