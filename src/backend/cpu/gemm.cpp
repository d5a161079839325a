// Packing, linear and matmul: who computes which tile. The tiles themselves are in gemm_tile*.cpp.
#include "backend/cpu/gemm.h"

#include <omp.h>

#include <algorithm>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/gemm_int8.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/rows.h"
#include "tensor/convert.h"

namespace raedit::backend::cpu {
namespace {

// Rows whose partial sums a thread keeps at once: 264 x 64 floats are 66 KiB, well inside an L2.
constexpr int64_t kMaxBlockRows = 264;

// One unit of work: a group of 64 columns and a run of rows.
struct Partition {
  int64_t groups;
  int64_t row_blocks;
  int64_t block_rows;

  // Blocks shrink until every thread has a few: the result does not depend on where the cuts are.
  Partition(int64_t m, int64_t all_groups, int threads) : groups(all_groups) {
    row_blocks = (m + kMaxBlockRows - 1) / kMaxBlockRows;
    const int64_t most_blocks = (m + kTileRows - 1) / kTileRows;
    while (threads > 1 && groups * row_blocks < 4 * threads && row_blocks < most_blocks) ++row_blocks;
    block_rows = round_up((m + row_blocks - 1) / row_blocks, kTileRows);
    row_blocks = (m + block_rows - 1) / block_rows;
  }
  int64_t items() const { return groups * row_blocks; }
};

// Widens `count` bfloat16 values and pads with one zero when odd.
void widen(const bfloat16* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
  if (count % 2 != 0) to[count] = 0.0f;
}

// The two ways to fill a thread's partial sums [rows][64] for one group of columns.
struct F32Source {
  static constexpr int64_t kScratch = 0;  // floats a thread
  const float* x;
  int64_t lda;

  void fill(const CpuPackedMatrix& w, int64_t group, int64_t row, int64_t rows, float* sums, float*) const {
    const int64_t stride = w.panel_stride();
    const float* panels = w.panels<float>() + group * (kTileColumns / kPanel) * stride;
    for (int64_t k = 0; k < w.k; k += kBlockK) {
      const int64_t depth = std::min(kBlockK, w.k - k);
      for (int64_t r = 0; r < rows; r += kTileRows)
        tile_f32(std::min(kTileRows, rows - r), x + (row + r) * lda + k, lda, panels + k * kPanel, stride, depth,
                 sums + r * kTileColumns, k != 0);
    }
  }
};

struct Bf16WideSource {
  static constexpr int64_t kScratch = kTileRows * kBlockK;
  const bfloat16* x;
  int64_t lda;

  void fill(const CpuPackedMatrix& w, int64_t group, int64_t row, int64_t rows, float* sums, float* scratch) const {
    const int64_t stride = w.panel_stride();
    const uint16_t* panels = w.panels<uint16_t>() + group * (kTileColumns / kPanel) * stride;
    for (int64_t k = 0; k < w.k; k += kBlockK) {
      const int64_t depth = std::min(kBlockK, w.k - k);
      for (int64_t r = 0; r < rows; r += kTileRows) {
        const int64_t tile_rows = std::min(kTileRows, rows - r);
        for (int64_t i = 0; i < tile_rows; ++i) widen(x + (row + r + i) * lda + k, depth, scratch + i * kBlockK);
        tile_bf16_wide(tile_rows, scratch, kBlockK, panels + k * kPanel, stride, (depth + 1) / 2,
                       sums + r * kTileColumns, k != 0);
      }
    }
  }
};

// Floats of a thread's sums and scratch: whole pages, so that each page belongs to the thread that touches it first.
template <class Source>
constexpr int64_t kWorkspace = (kMaxBlockRows * kTileColumns + Source::kScratch + 1023) / 1024 * 1024;

template <class Source>
void run(const Source& source, int64_t m, const CpuPackedMatrix& w, const Epilogue& finish, float* workspace,
         int threads) {
  const Partition parts(m, w.groups(), threads);
#pragma omp parallel num_threads(team_of(threads, parts.items()))
  {
    const int64_t thread = omp_get_thread_num();
    const int64_t count = omp_get_num_threads();
    float* sums = workspace + thread * kWorkspace<Source>;
    float* scratch = sums + kMaxBlockRows * kTileColumns;
    // Consecutive items share their columns, so a thread streams each panel from memory once.
    for (int64_t item = parts.items() * thread / count; item < parts.items() * (thread + 1) / count; ++item) {
      const int64_t group = item / parts.row_blocks;
      const int64_t row = item % parts.row_blocks * parts.block_rows;
      const int64_t rows = std::min(parts.block_rows, m - row);
      if (w.k == 0) std::fill_n(sums, rows * kTileColumns, 0.0f);
      source.fill(w, group, row, rows, sums, scratch);
      finish.store(sums, group, row, rows);
    }
  }
}

// Panels are written in order, 16 rows are read side by side.
template <class From, class To>
void pack_panels(const Tensor& weight, CpuPackedMatrix& packed, int threads) {
  const int64_t k = packed.k, panel_stride = packed.panel_stride();
  const int64_t row_stride = weight.stride(0), column_stride = weight.stride(1);
  const From* from = weight.data<From>();
  To* to = reinterpret_cast<To*>(packed.storage->data());
  constexpr int64_t kGroup = sizeof(To) == 2 ? 2 : 1;  // neighbours in k that stand together
  const int64_t panels = packed.panels_count();
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t p = 0; p < panels; ++p) {
    To* panel = to + p * panel_stride;
    const PanelRows rows = packed.rows_of(p);
    if (rows.count < kPanel || panel_stride / kPanel > k) std::fill(panel, panel + panel_stride, To(0.0f));
    for (int64_t i = 0; i < k; ++i) {
      To* target = panel + i / kGroup * kGroup * kPanel + i % kGroup;
      const From* source = from + rows.first * row_stride + i * column_stride;
      for (int64_t c = 0; c < rows.count; ++c)
        target[c * kGroup] = static_cast<To>(static_cast<float>(source[c * row_stride]));
    }
  }
}

template <class To>
void pack_from(const Tensor& weight, CpuPackedMatrix& packed, int threads) {
  switch (weight.dtype()) {
    case DType::float32: return pack_panels<float, To>(weight, packed, threads);
    case DType::bfloat16: return pack_panels<bfloat16, To>(weight, packed, threads);
    case DType::float16: return pack_panels<float16, To>(weight, packed, threads);
    default: return pack_panels<float, To>(weight.to(DType::float32), packed, threads);
  }
}

// The same from rows whose values are neighbours, as a checkpoint has them.
template <class To>
void pack_rows(const Tensor& weight, CpuPackedMatrix& packed, int threads) {
  auto* to = reinterpret_cast<To*>(packed.storage->data());
  const int64_t stride = packed.panel_stride();
  const int64_t row_bytes = weight.stride(0) * static_cast<int64_t>(size_of(weight.dtype()));
  parallel_for(threads, packed.panels_count(), weight.numel(), [&](int64_t p) {
    const PanelRows rows = packed.rows_of(p);
    pack_panel({weight.raw() + rows.first * row_bytes, weight.dtype(), weight.stride(0), rows.count}, packed.k,
               to + p * stride);
  });
}

bool is_for_dot_product(const Tensor& a, const Tensor& b) {
  return a.dtype() == DType::bfloat16 && b.dtype() == DType::bfloat16 && has_avx512_bf16();
}

const float* data_of(const Tensor& bias) {
  return bias.defined() ? bias.data<float>() : nullptr;
}

PairRows pair_rows(const Tensor& t) {
  return {t.raw(), t.dtype(), t.stride(0)};
}

}  // namespace

PanelRows PanelMatrix::rows_of(int64_t panel) const {
  constexpr int64_t kPairPanels = kPairColumns / kPanel;
  int64_t first = panel * kPanel, end = n;
  if (paired) {
    const int64_t half = n / 2;
    const bool gate = panel / kPairPanels % 2 != 0;
    first = (panel / (2 * kPairPanels) * kPairPanels + panel % kPairPanels) * kPanel + (gate ? half : 0);
    end = gate ? n : half;
  }
  return {std::min(first, end), std::clamp<int64_t>(end - first, 0, kPanel)};
}

std::string CpuKernels::packed_layout() const {
  return kPackedLayout;
}

std::shared_ptr<const PackedMatrix> CpuKernels::pack(const Tensor& weight, DType compute) const {
  return pack_as(weight, compute, false);
}

std::shared_ptr<const PackedMatrix> CpuKernels::pack_swiglu(const Tensor& weight, DType compute) const {
  return pack_as(weight, compute, weight.dim(0) % 2 == 0);
}

std::shared_ptr<const PackedMatrix> CpuKernels::pack_as(const Tensor& weight, DType compute, bool paired) const {
  auto packed = std::make_shared<CpuPackedMatrix>();
  packed->n = weight.dim(0);
  packed->k = weight.dim(1);
  packed->dtype = compute;
  packed->paired = paired;
  // What comes from a file stays as long as the model; in training weights are packed anew in every step.
  const bool stays = weight.storage()->read_only();
  const size_t bytes = packed->nbytes();
  const PackedForm form{paired ? "paired" : "plain"};
  if (stays && store_ != nullptr) packed->storage = store_->find({&weight, 1}, form, bytes);
  if (packed->storage != nullptr) return packed;
  packed->storage = stays ? Storage::allocate(bytes) : temporary_bytes(bytes);
  const bool in_rows = weight.stride(1) == 1;
  if (compute != DType::bfloat16)
    in_rows ? pack_rows<float>(weight, *packed, threads_) : pack_from<float>(weight, *packed, threads_);
  else
    in_rows ? pack_rows<uint16_t>(weight, *packed, threads_) : pack_from<bfloat16>(weight, *packed, threads_);
  if (stays && store_ != nullptr) store_->keep({&weight, 1}, form, packed->storage);
  return packed;
}

// bfloat16 rows of an even number of values: x itself where it is such, else a copy with a zero after each row.
Tensor CpuKernels::even_rows(const Tensor& x) const {
  const int64_t m = x.dim(0), k = x.dim(1), even = round_up(k, 2);
  if (x.dtype() == DType::bfloat16 && x.stride(1) == 1 && even == k) return x;
  const Tensor rows = temporary({m, even}, DType::bfloat16);
  parallel_for(threads_, m, m * k, [&](int64_t i) {
    bfloat16* to = rows.data<bfloat16>() + i * even;
    convert_row(x.dtype(), x.raw() + i * x.stride(0) * static_cast<int64_t>(size_of(x.dtype())), x.stride(1),
                DType::bfloat16, reinterpret_cast<std::byte*>(to), 1, k);
    if (even != k) to[k] = bfloat16(0.0f);
  });
  return rows;
}

void CpuKernels::linear(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, Activation act,
                        const Tensor& out) const {
  const bool paired = static_cast<const PanelMatrix&>(weight).paired;
  multiply(x, weight, {.out = out, .n = weight.n, .bias = data_of(bias), .act = act, .paired = paired});
}

bool CpuKernels::linear_swiglu(const Tensor& x, const PackedMatrix& weight, const Tensor& bias,
                               const Tensor& out) const {
  if (!static_cast<const PanelMatrix&>(weight).paired) return false;
  multiply(x, weight, {.out = out, .n = weight.n, .bias = data_of(bias), .paired = true, .swiglu = true});
  return true;
}

void CpuKernels::multiply(const Tensor& x, const PackedMatrix& weight, const Epilogue& finish) const {
  const int64_t m = x.dim(0);
  if (m == 0) return;
  if (weight.dtype == DType::int8) return multiply_int8(x, static_cast<const Int8Matrix&>(weight), finish);
  const auto& w = static_cast<const CpuPackedMatrix&>(weight);
  if (w.dtype == DType::bfloat16 && has_avx512_bf16()) {
    const Tensor rows = even_rows(x);
    return dot_product({reinterpret_cast<const uint16_t*>(rows.data<bfloat16>()), rows.stride(0), w.panels<uint16_t>(),
                        w.panel_stride(), m, w.k},
                       finish, temporary_bytes(dot_workspace(threads_))->data(), threads_);
  }
  const int64_t floats = w.dtype == DType::float32 ? kWorkspace<F32Source> : kWorkspace<Bf16WideSource>;
  const auto workspace = temporary_bytes(static_cast<size_t>(threads_ * floats) * sizeof(float));
  auto* const sums = reinterpret_cast<float*>(workspace->data());
  if (w.dtype == DType::float32)
    run(F32Source{x.data<float>(), x.stride(0)}, m, w, finish, sums, threads_);
  else
    run(Bf16WideSource{x.data<bfloat16>(), x.stride(0)}, m, w, finish, sums, threads_);
}

void CpuKernels::matmul(const Tensor& a, const Tensor& b, const Tensor& out, bool accumulate, DType compute) const {
  (void)compute;  // float32 operands are not rounded here
  if (is_for_dot_product(a, b)) return multiply_halves(a, b, out, accumulate);
  const Tensor rows = a.to(DType::float32).contiguous();
  const auto columns = pack(b.transpose(0, 1), DType::float32);
  if (!accumulate) return linear(rows, *columns, Tensor(), Activation::none, out);
  const Tensor product = temporary(out.shape(), DType::float32);
  linear(rows, *columns, Tensor(), Activation::none, product);
  this->accumulate(product, out);
}

void CpuKernels::matmul_into(const Tensor& a, const Tensor& b, const Gradient& out, DType compute) const {
  if (!out.wanted()) return;
  if (is_for_dot_product(a, b)) return multiply_halves(a, b, out.at, !out.fresh);
  Kernels::matmul_into(a, b, out, compute);
}

void CpuKernels::multiply_halves(const Tensor& a, const Tensor& b, const Tensor& out, bool add) const {
  const int64_t m = out.dim(0), n = out.dim(1), k = a.dim(1);
  const Tensor rows = b.stride(1) == 1 ? b : b.contiguous();
  // The gradient of a weight: a is the transpose of rows, and may be as long as it likes.
  if (k > 0 && a.stride(1) != 1 && a.stride(0) == 1 && out.dtype() == DType::float32 && out.stride(1) == 1) {
    const size_t bytes = transposed_workspace(m, n);
    return dot_transposed(pair_rows(a.transpose(0, 1)), pair_rows(rows), k, out, add, temporary_bytes(bytes)->data(),
                          threads_);
  }
  const Tensor left = even_rows(a);
  const int64_t panel_stride = round_up(k, 2) * kPanel, groups = (n + kTileColumns - 1) / kTileColumns;
  const Tensor panels = temporary({groups * (kTileColumns / kPanel), panel_stride}, DType::bfloat16);
  auto* to = reinterpret_cast<uint16_t*>(panels.data<bfloat16>());
  // Pieces of 256 rows: there may be more threads than groups.
  constexpr int64_t kPiece = 256;
  const int64_t pieces = (k + kPiece - 1) / kPiece;
  parallel_for(threads_, groups * pieces, n * k, [&](int64_t i) {
    const int64_t column = i / pieces * kTileColumns, first = i % pieces * kPiece;
    pack_row_pairs(pair_rows(rows), first, std::min(kPiece, k - first), column, std::min(kTileColumns, n - column),
                   to + column / kPanel * panel_stride + first * kPanel, panel_stride);
  });
  dot_product({reinterpret_cast<const uint16_t*>(left.data<bfloat16>()), left.stride(0), to, panel_stride, m, k},
              {.out = out, .n = n, .add = add}, temporary_bytes(dot_workspace(threads_))->data(), threads_);
}

}  // namespace raedit::backend::cpu
