// Blocks of 32 rows by 32 columns: four tiles of sums, two of rows, two of panels. The panels of a chunk of k stay in
// the first-level cache while rows stream by from the second; so the rows are loaded with a hint that they will not be
// needed soon. Meanwhile the panels that come next are fetched, and a block's sums are stored between the first
// products of the next one. All of that follows what a prototype of this kernel gained by it on a Xeon 6; this code has
// been timed on no AMX machine yet. The instructions are written as assembly: GCC 12's intrinsics tell the compiler
// neither what LDTILECFG reads nor that tile loads read memory.
#include "backend/cpu/amx.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "backend/cpu/gemm.h"

namespace raedit::backend::cpu {
namespace {

// All sizes are in bytes: what those hold, the multiplication alone has to know.
constexpr int64_t kTileHeight = 16;
constexpr int64_t kStep = 64;                        // of a row of a tile
constexpr int64_t kTileBytes = kTileHeight * kStep;  // 1 KiB
constexpr int64_t kMostChunk = 18 * kStep;           // of k: two panels of it are 36 of a first-level cache's 48 KiB
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
  const std::byte* steps;
  int64_t stride;         // between rows
  int64_t step;           // between steps
  const std::byte* tail;  // one tile
};

// 16 columns of the right one.
struct PanelTile {
  const std::byte* steps;
  const std::byte* tail;
};

struct SumTile {
  std::byte* at;
  int64_t stride;
};
using SumTiles = std::array<std::array<SumTile, 2>, 2>;  // [rows][panels]

// What the cores will want next, a few lines at each step.
struct Ahead {
  const std::byte* at[2] = {};
  int64_t lines = 0;  // at each step

  void fetch(int64_t step) const {
    for (const std::byte* panel : at)
      for (int64_t i = 0; panel != nullptr && i < lines; ++i)
        __builtin_prefetch(panel + (step * lines + i) * kStep, 0, 2);
  }
};

// f(tile, row, panel) for the tiles of sums of a block.
template <int kRows, int kPanels, class F>
inline void each_sum(const F& f) {
  const auto at = [&]<int kTile>(std::integral_constant<int, kTile> tile) {
    if constexpr (kTile / 2 < kRows && kTile % 2 < kPanels) f(tile, size_t{kTile / 2}, size_t{kTile % 2});
  };
  at(std::integral_constant<int, 0>());
  at(std::integral_constant<int, 1>());
  at(std::integral_constant<int, 2>());
  at(std::integral_constant<int, 3>());
}

// One block, whose sums stay in their tiles. `before`: where the sums go that the last one left there, which had this
// one's size; null: nowhere. They are stored one by one between products, for the core waits out several stores.
template <Numbers kNumbers, int kRows, int kPanels>
void block(const RowTile* rows, const PanelTile* panels, int64_t steps, bool tail, const SumTiles& sums,
           bool accumulate, const Ahead& ahead, const SumTiles* before) {
  const auto begin = [&](auto tile, size_t row, size_t panel) {
    if (before != nullptr) store<tile>((*before)[row][panel].at, (*before)[row][panel].stride);
    if (accumulate)
      load<tile>(sums[row][panel].at, sums[row][panel].stride);
    else
      zero<tile>();
  };
  const auto step = [&](auto first, const std::byte* const(&b)[2], const std::byte* const(&a)[2],
                        const int64_t(&stride)[2]) {
    load<6>(b[0], kStep);
    stream<4>(a[0], stride[0]);
    if constexpr (kPanels > 1) load<7>(b[1], kStep);
    if constexpr (kRows > 1) stream<5>(a[1], stride[1]);
    each_sum<kRows, kPanels>([&](auto tile, size_t row, size_t panel) {
      if constexpr (first) begin(tile, row, panel);
      multiply<kNumbers, tile, 4 + tile / 2, 6 + tile % 2>();
    });
  };
  constexpr int r1 = kRows - 1, p1 = kPanels - 1;
  const auto whole_step = [&](auto first, int64_t i) {
    ahead.fetch(i);
    step(first, {panels[0].steps + i * kTileBytes, panels[p1].steps + i * kTileBytes},
         {rows[0].steps + i * rows[0].step, rows[r1].steps + i * rows[r1].step}, {rows[0].stride, rows[r1].stride});
  };
  if (steps > 0)
    whole_step(std::true_type(), 0);
  else
    each_sum<kRows, kPanels>(begin);
  for (int64_t i = 1; i < steps; ++i) whole_step(std::false_type(), i);
  if (tail) step(std::false_type(), {panels[0].tail, panels[p1].tail}, {rows[0].tail, rows[r1].tail}, {kStep, kStep});
}

template <int kRows, int kPanels>
void store_sums(const SumTiles& sums) {
  each_sum<kRows, kPanels>(
      [&](auto tile, size_t row, size_t panel) { store<tile>(sums[row][panel].at, sums[row][panel].stride); });
}

// What there is for one size of a block.
struct Block {
  void (*multiply)(const RowTile*, const PanelTile*, int64_t, bool, const SumTiles&, bool, const Ahead&,
                   const SumTiles*);
  void (*store)(const SumTiles&);
};
using Blocks = Block[2][2];  // [rows - 1][panels - 1]
template <Numbers kNumbers>
constexpr Blocks kBlocks = {{{block<kNumbers, 1, 1>, store_sums<1, 1>}, {block<kNumbers, 1, 2>, store_sums<1, 2>}},
                            {{block<kNumbers, 2, 1>, store_sums<2, 1>}, {block<kNumbers, 2, 2>, store_sums<2, 2>}}};

void copy_rows(const std::byte* from, int64_t stride, int64_t rows, int64_t bytes, std::byte* to, int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * to_stride, from + r * stride, static_cast<size_t>(bytes));
}

// Sums of a tile that has fewer than 16 rows: they take a way round, so that nothing behind them is touched.
struct Partial {
  alignas(64) std::byte sums[2][kTileBytes];

  void fetch(const std::byte* c, int64_t ldc, int64_t rows, int64_t panels) {
    std::memset(sums, 0, sizeof sums);
    for (int64_t p = 0; p < panels; ++p) copy_rows(c + p * kStep, ldc, rows, kStep, sums[p], kStep);
  }
  void put(std::byte* c, int64_t ldc, int64_t rows, int64_t panels) const {
    for (int64_t p = 0; p < panels; ++p) copy_rows(sums[p], kStep, rows, kStep, c + p * kStep, ldc);
  }
};

// An AmxProduct without its types; all sums have four bytes.
struct Product {
  const Blocks& blocks;
  int64_t rows, count;
  const std::byte* a;
  int64_t lda;
  const std::byte* panels;
  int64_t panel_stride;
  int64_t k;
  std::byte* c;
  int64_t ldc;
  bool accumulate, tiled;
  const std::byte* next;  // see AmxProduct
};

// One chunk of k, of all rows and panels. row_tile(i) and panel_tile(p) say where operands are.
struct Chunk {
  const Product& product;
  int64_t steps;
  bool tail;
  bool accumulate;
  const std::byte* next;  // what will be read in the place of the first panel's steps; null: not known
  int64_t next_lines;     // of each panel

  template <class Rows, class Panels>
  void multiply(const Rows& row_tile, const Panels& panel_tile) const {
    const int64_t tiles = (product.rows + kTileHeight - 1) / kTileHeight;
    for (int64_t p = 0; p < product.count; p += 2) {
      const int64_t panels = std::min<int64_t>(2, product.count - p);
      const PanelTile right[2] = {panel_tile(p), panel_tile(p + panels - 1)};
      const SumTiles* before = nullptr;
      SumTiles sums[2];  // by turns
      int64_t t = 0;
      for (; (t + 2) * kTileHeight <= product.rows; t += 2) {
        SumTiles& now = sums[t / 2 % 2];
        now = sums_at(t, p);
        const RowTile left[2] = {row_tile(t), row_tile(t + 1)};
        of(2, panels).multiply(left, right, steps, tail, now, accumulate, ahead(t, tiles, p, panels), before);
        before = &now;
      }
      if (before != nullptr) of(2, panels).store(*before);
      if (t < tiles) last_rows(t, tiles, p, panels, row_tile, right);
    }
  }

  const Block& of(int64_t tiles, int64_t panels) const { return product.blocks[tiles - 1][panels - 1]; }

  SumTiles sums_at(int64_t t, int64_t p) const {
    std::byte* const at = product.c + t * kTileHeight * product.ldc + p * kStep;
    std::byte* const below = at + kTileHeight * product.ldc;
    return {{{{{at, product.ldc}, {at + kStep, product.ldc}}}, {{{below, product.ldc}, {below + kStep, product.ldc}}}}};
  }

  // The share of a block in fetching what comes next.
  Ahead ahead(int64_t t, int64_t tiles, int64_t p, int64_t panels) const {
    Ahead result;
    if (next == nullptr || steps == 0) return result;
    const int64_t blocks = (tiles + 1) / 2;
    result.lines = (next_lines + blocks * steps - 1) / (blocks * steps);
    const int64_t first = t / 2 * steps * result.lines;
    for (int64_t i = 0; i < panels && first < next_lines; ++i)
      result.at[i] = next + (p + i) * product.panel_stride + first * kStep;
    return result;
  }

  // Less than two whole tiles.
  template <class Rows>
  void last_rows(int64_t t, int64_t tiles, int64_t p, int64_t panels, const Rows& row_tile,
                 const PanelTile* right) const {
    const int64_t rows = product.rows - (tiles - 1) * kTileHeight;  // of the last tile
    const RowTile left[2] = {row_tile(t), row_tile(tiles - 1)};
    SumTiles sums = sums_at(t, p);
    std::byte* const rest = product.c + (tiles - 1) * kTileHeight * product.ldc + p * kStep;
    Partial partial;
    if (rows < kTileHeight) {
      if (accumulate) partial.fetch(rest, product.ldc, rows, panels);
      for (size_t j = 0; j < 2; ++j) sums[static_cast<size_t>(tiles - 1 - t)][j] = {partial.sums[j], kStep};
    }
    const Block& block = of(tiles - t, panels);
    block.multiply(left, right, steps, tail, sums, accumulate, ahead(t, tiles, p, panels), nullptr);
    block.store(sums);
    if (rows < kTileHeight) partial.put(rest, product.ldc, rows, panels);
  }
};

// So many bytes of k, whole steps, in chunks of one size: a short one at the end would carry all sums through memory
// for little.
int64_t chunk_size(int64_t whole) {
  const int64_t chunks = std::max<int64_t>(1, (whole + kMostChunk - 1) / kMostChunk);
  return round_up((whole + chunks - 1) / chunks, kStep);
}

// Up to kRowsAtOnce rows.
void multiply_rows(const Product& p) {
  // What is left of k behind whole steps, and of the rows behind whole tiles, becomes tiles of its own with zeros
  // behind it.
  const int64_t whole = p.tiled ? round_up(p.k, kStep) : p.k / kStep * kStep, tail = std::max<int64_t>(p.k - whole, 0);
  const int64_t tiles = (p.rows + kTileHeight - 1) / kTileHeight, full = p.tiled ? tiles : p.rows / kTileHeight;
  alignas(64) std::byte row_tails[kRowsAtOnce * kStep], panel_tails[2][kTileBytes];
  alignas(64) std::byte last_rows[kTileHeight * kMostChunk];
  if (tail > 0) {
    std::fill_n(row_tails, tiles * kTileBytes, std::byte{0});
    copy_rows(p.a + whole, p.lda, p.rows, tail, row_tails, kStep);
  }
  if (full < tiles) std::fill_n(last_rows, kTileHeight * kMostChunk, std::byte{0});
  const int64_t size = chunk_size(whole);
  int64_t k = 0;
  do {  // once even where there is nothing to sum
    const int64_t bytes = std::min(size, whole - k), behind = k + bytes;
    const bool ends = behind == whole;
    if (full < tiles)
      copy_rows(p.a + full * kTileHeight * p.lda + k, p.lda, p.rows - full * kTileHeight, bytes, last_rows, kMostChunk);
    const Chunk chunk{p,
                      bytes / kStep,
                      ends && tail > 0,
                      p.accumulate || k > 0,
                      ends ? p.next : p.panels + behind * kTileHeight,
                      (ends ? size : std::min(size, whole - behind)) / kStep * kTileHeight};
    chunk.multiply(
        [&](int64_t i) -> RowTile {
          const std::byte* const rest = row_tails + i * kTileBytes;
          if (p.tiled) return {p.a + i * p.lda + k * kTileHeight, kStep, kTileBytes, nullptr};
          if (i < full) return {p.a + i * kTileHeight * p.lda + k, p.lda, kStep, rest};
          return {last_rows, kMostChunk, kStep, rest};
        },
        [&](int64_t i) -> PanelTile {
          const std::byte* const panel = p.panels + i * p.panel_stride;
          std::byte* const rest = panel_tails[i % 2];
          if (ends && tail > 0) {
            std::fill_n(rest, kTileBytes, std::byte{0});
            std::memcpy(rest, panel + whole * kTileHeight, static_cast<size_t>(round_up(tail, 4) * kTileHeight));
          }
          return {panel + k * kTileHeight, rest};
        });
    k = behind;
    if (ends) break;
  } while (true);
}

template <class Element>
void multiply(const AmxProduct<Element>& p) {
  constexpr int64_t size = sizeof(Element);
  constexpr Numbers numbers = size == 1 ? Numbers::int8 : Numbers::bfloat16;
  const int64_t row_bytes = p.lda * size / (p.tiled ? kTileHeight : 1);
  for (int64_t row = 0; row < p.rows; row += kRowsAtOnce)
    multiply_rows({kBlocks<numbers>, std::min(kRowsAtOnce, p.rows - row), p.count,
                   reinterpret_cast<const std::byte*>(p.a) + row * row_bytes, p.lda * size,
                   reinterpret_cast<const std::byte*>(p.panels), p.panel_stride * size, p.k * size,
                   reinterpret_cast<std::byte*>(p.c + row * p.ldc), p.ldc * 4, p.accumulate, p.tiled,
                   row + kRowsAtOnce < p.rows ? nullptr : reinterpret_cast<const std::byte*>(p.next)});
}

}  // namespace

AmxTiles::AmxTiles(bool wanted) : wanted_(wanted) {
  if (!wanted) return;
  TileConfig config;
  std::fill_n(config.bytes, 8, static_cast<uint16_t>(kStep));
  std::fill_n(config.rows, 8, static_cast<uint8_t>(kTileHeight));
  asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
}

AmxTiles::~AmxTiles() {
  if (wanted_) asm volatile("tilerelease" ::: "memory");
}

void amx_product(const AmxProduct<uint16_t>& product) {
  multiply(product);
}

void amx_product(const AmxProduct<int8_t>& product) {
  multiply(product);
}

}  // namespace raedit::backend::cpu
