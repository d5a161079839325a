// Packing for the 8-bit product, and who computes which tile of it.
#include "backend/cpu/gemm_int8.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/amx.h"
#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/gemm_partition.h"
#include "backend/cpu/rows.h"

namespace raedit::backend::cpu {
namespace {

// Rows that a thread works on while the panels of a group stay in a second-level cache.
constexpr int64_t kBlockRows = 264;
constexpr uint8_t kShift = 0x80;

// s = sqrt(max|x| / max|w|) of every column of w: both get half of the way (alpha 0.5 of 2211.10438). 1 where a column
// is all zeros, or not finite.
std::vector<float> smoothing(const Tensor& weight, const Tensor& input_max, int64_t depth, int threads) {
  const int64_t n = weight.dim(0), k = weight.dim(1);
  const auto size = static_cast<int64_t>(size_of(weight.dtype()));
  std::vector<float> s(static_cast<size_t>(depth));
  constexpr int64_t kColumns = 256;
  parallel_for(threads, (k + kColumns - 1) / kColumns, n * k, [&](int64_t unit) {
    const int64_t first = unit * kColumns;
    column_maxima(weight.dtype(), weight.raw() + first * size, n, weight.stride(0), std::min(kColumns, k - first),
                  s.data() + first);
  });
  const float* most = input_max.data<float>();
  for (size_t i = 0; i < static_cast<size_t>(k); ++i) {
    const float ratio = most[i] / s[i];
    s[i] = ratio > 0.0f && std::isfinite(ratio) ? std::clamp(std::sqrt(ratio), 1e-4f, 1e4f) : 1.0f;
  }
  return s;
}

// Panel p from 16 rows of weights: quantized side by side, then interleaved.
void pack_panel(const Tensor& weight, const float* smooth, Int8Matrix& packed, int64_t p, int8_t* rows) {
  const int64_t depth = packed.depth();
  const auto [first, count] = packed.rows_of(p);
  const auto size = static_cast<int64_t>(size_of(weight.dtype()));
  std::fill(rows + count * depth, rows + kPanel * depth, int8_t{0});
  for (int64_t i = 0; i < count; ++i) {
    int8_t* row = rows + i * depth;
    const auto at = static_cast<size_t>(p * kPanel + i);
    packed.scales[at] = quantize_row(weight.dtype(), weight.raw() + (first + i) * weight.stride(0) * size, smooth,
                                     packed.k, depth, 0, row);
    int32_t sum = 0;
    for (int64_t k = 0; k < depth; ++k) sum += row[k];
    packed.corrections[at] = -128 * sum;
  }
  auto* to = reinterpret_cast<int8_t*>(packed.storage->data()) + p * packed.panel_stride();
  for (int64_t k = 0; k < depth; k += 4)
    for (int64_t i = 0; i < kPanel; ++i) std::memcpy(to + k * kPanel + 4 * i, rows + i * depth + k, 4);
}

// One unit of work: a group of 64 columns and a run of rows.
struct Product {
  const Int8Matrix& w;
  const int8_t* a;
  const float* row_scales;
  Epilogue finish;
  Int8Way way;

  // next: the group that comes afterwards, or -1.
  void multiply(const Partition::Item& item, int64_t next) const {
    const int64_t column = item.group * kTileColumns, end = item.row + item.rows;
    alignas(64) int32_t sums[kAmxInt8Rows * kTileColumns];
    std::fill_n(sums, way.rows * kTileColumns, 0);
    float* const c = reinterpret_cast<float*>(sums);
    Int8Tile tile{};
    tile.count = finish.panels(item.group);
    tile.lda = w.depth();
    tile.panels = w.data() + column * w.depth();
    tile.panel_stride = w.panel_stride();
    tile.depth = w.depth();
    tile.start = w.corrections.data() + column;
    tile.c = sums;
    const bool fetches = next >= 0 && finish.panels(next) == tile.count;
    for (int64_t r = item.row; r < end; r += way.rows) {
      tile.rows = std::min(way.rows, end - r);
      if (fetches && r + tile.rows == end) tile.next = w.data() + next * kTileColumns * w.depth();
      tile.a = a + r * tile.lda;
      way.tile(tile);
      rescale_tile(sums, tile.rows, row_scales + r, w.scales.data() + column, c);
      finish.store(c, item.group, r, tile.rows);
    }
  }
};

void multiply_all(const Product& product, int64_t m, int threads) {
  const Int8Matrix& w = product.w;
  const Partition parts(m, product.finish.groups(), kTileRows, kBlockRows, w.n * w.k, threads);
#pragma omp parallel num_threads(team_of(threads, parts.items()))
  {
    const AmxTiles tiles(product.way.amx);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < parts.items(); ++i) product.multiply(parts[i], parts.next_group(i, omp_get_num_threads()));
  }
}

}  // namespace

size_t Int8Matrix::nbytes() const {
  const int64_t each = columns() * (depth() + int64_t{sizeof(float)} + int64_t{sizeof(int32_t)});
  return static_cast<size_t>(each + (divides ? depth() * int64_t{sizeof(float)} : 0));
}

void Int8Matrix::look_at(std::shared_ptr<Storage> bytes) {
  storage = std::move(bytes);
  const auto padded = static_cast<size_t>(columns());
  auto* const at = storage->data() + padded * static_cast<size_t>(depth());
  scales = {reinterpret_cast<float*>(at), padded};
  corrections = {reinterpret_cast<int32_t*>(scales.data() + padded), padded};
  if (divides) divisors = {reinterpret_cast<float*>(corrections.data() + padded), static_cast<size_t>(depth())};
}

std::shared_ptr<const PackedMatrix> CpuKernels::pack_int8(const Tensor& weight, const Tensor& input_max) const {
  return pack_int8_as(weight, input_max, false);
}

std::shared_ptr<const PackedMatrix> CpuKernels::pack_int8_swiglu(const Tensor& weight, const Tensor& input_max) const {
  return pack_int8_as(weight, input_max, weight.dim(0) % 2 == 0);
}

std::shared_ptr<const PackedMatrix> CpuKernels::pack_int8_as(const Tensor& weight, const Tensor& input_max,
                                                             bool paired) const {
  RAEDIT_CHECK(weight.dim(1) <= kMostInt8Depth, {.code = ErrorCode::unsupported,
                                                 .what = "a matrix is too wide for sums of 8-bit products in 32 bits",
                                                 .where = "pack_int8",
                                                 .found = fmt::format("{} inputs", weight.dim(1)),
                                                 .expected = fmt::format("at most {}", kMostInt8Depth),
                                                 .hint = "load this model without quantization"});
  auto packed = std::make_shared<Int8Matrix>();
  packed->n = weight.dim(0);
  packed->k = weight.dim(1);
  packed->dtype = DType::int8;
  packed->paired = paired;
  packed->divides = input_max.defined();
  PackedStore* const store = store_.get();
  const PackedForm form{paired ? "int8 paired" : "int8", input_max};
  const auto found = store == nullptr ? nullptr : store->find({&weight, 1}, form, packed->nbytes());
  packed->look_at(found != nullptr ? found : Storage::allocate(packed->nbytes()));
  if (found != nullptr) return packed;
  const bool direct = weight.stride(1) == 1 && (weight.dtype() == DType::float32 || weight.dtype() == DType::bfloat16);
  const Tensor rows = direct ? weight : weight.to(DType::float32).contiguous();
  const int64_t columns = packed->columns(), depth = packed->depth();
  std::ranges::fill(packed->scales, 0.0f);
  std::ranges::fill(packed->corrections, 0);
  std::vector<float> s;
  if (packed->divides) {
    s = smoothing(rows, input_max, depth, threads_);
    std::ranges::fill(packed->divisors, 0.0f);
    std::transform(s.begin(), s.begin() + packed->k, packed->divisors.begin(), [](float v) { return 1.0f / v; });
  }
  // Made before the threads start: an exception must not leave a parallel region.
  std::vector<int8_t> scratch(static_cast<size_t>(threads_ * kPanel * depth));
  parallel_for(threads_, columns / kPanel, weight.numel(), [&](int64_t p) {
    pack_panel(rows, s.empty() ? nullptr : s.data(), *packed, p,
               scratch.data() + omp_get_thread_num() * kPanel * depth);
  });
  if (store != nullptr) store->keep({&weight, 1}, form, packed->storage);
  return packed;
}

void CpuKernels::multiply_int8(const Tensor& x, const Int8Matrix& w, const Epilogue& finish) const {
  const int64_t m = x.dim(0), depth = w.depth();
  if (w.n == 0) return;
  const Int8Way way = int8_way();
  const Tensor rows = temporary({m, depth}, DType::int8), scales = temporary({m}, DType::float32);
  auto* const to = rows.data<int8_t>();
  auto* const row_scales = scales.data<float>();
  const float* factor = w.divisors.empty() ? nullptr : w.divisors.data();
  const int64_t stride = x.stride(0) * static_cast<int64_t>(size_of(x.dtype()));
  parallel_for(threads_, m, m * w.k, [&](int64_t i) {
    row_scales[i] = quantize_row(x.dtype(), x.raw() + i * stride, factor, w.k, depth, way.shifted ? kShift : uint8_t{0},
                                 to + i * depth);
  });
  multiply_all({w, to, row_scales, finish, way}, m, threads_);
}

}  // namespace raedit::backend::cpu
