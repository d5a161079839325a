// Packing, linear and matmul: who computes which tile. The tiles themselves are in gemm_tile*.cpp.
#include "backend/cpu/gemm.h"

#include <omp.h>

#include <algorithm>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/gemm_int8.h"
#include "backend/cpu/gemm_partition.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/rows.h"
#include "tensor/convert.h"

namespace raedit::backend::cpu {
namespace {

// Rows whose partial sums a thread keeps at once: 264 x 64 floats are 66 KiB, well inside an L2.
constexpr int64_t kMaxBlockRows = 264;

// Floats of a thread's workspace: sums, and a block of panels in float32. Whole pages, so that each page belongs to the
// thread that touches it first.
constexpr int64_t kSumsSize = (kMaxBlockRows * kTileColumns + 1023) / 1024 * 1024;
constexpr int64_t kWorkSize = kSumsSize + kBlockK * kTileColumns;

// float32 rows by a matrix in either type; where it is bfloat16 and k is odd, a zero follows each row.
struct Product {
  const float* x;
  int64_t lda;
  const CpuPackedMatrix& w;
  const Epilogue& finish;

  void multiply(const Partition::Item& item, float* sums) const {
    for (int64_t k = 0; k < w.k || k == 0; k += kBlockK) {  // once even where there is nothing to sum
      const int64_t depth = std::min(kBlockK, w.k - k);
      const Panels block = panels(item, k, depth, sums + kSumsSize);
      for (int64_t r = 0; r < item.rows; r += kTileRows) {
        const int64_t row = item.row + r, rows = std::min(kTileRows, item.rows - r);
        float* const c = sums + r * kTileColumns;
        const float* const a = x + row * lda + k;
        if (block.wide != nullptr)
          tile_f32(rows, a, lda, block.wide, block.stride, depth, c, k != 0);
        else
          tile_bf16_wide(rows, a, lda, block.pairs, block.stride, (depth + 1) / 2, c, k != 0);
        if (k + depth == w.k) finish.store(c, item.group, row, rows);
      }
    }
  }

  // The four panels of an item from k on, in one of the types.
  struct Panels {
    const float* wide;
    const uint16_t* pairs;
    int64_t stride;
  };
  // Those of bfloat16 are widened once for all rows, unless the rows are so few that a tile does it on the way: there
  // it costs registers and ports that the sums of six rows need.
  Panels panels(const Partition::Item& item, int64_t k, int64_t depth, float* widened) const {
    constexpr int64_t kCount = kTileColumns / kPanel, kStride = kBlockK * kPanel;
    const int64_t stride = w.panel_stride(), first = item.group * kCount * stride + k * kPanel;
    if (w.dtype == DType::float32) return {w.panels<float>() + first, nullptr, stride};
    const uint16_t* const pairs = w.panels<uint16_t>() + first;
    if (item.rows <= kTileRows) return {nullptr, pairs, stride};
    for (int64_t p = 0; p < kCount; ++p) widen_panel(pairs + p * stride, (depth + 1) / 2, widened + p * kStride);
    return {widened, nullptr, kStride};
  }

  void run(int64_t m, float* workspace, int threads) const {
    const Partition parts(m, w.groups(), kTileRows, kMaxBlockRows, static_cast<int64_t>(w.nbytes()), threads);
#pragma omp parallel num_threads(team_of(threads, parts.items()))
    {
      float* const sums = workspace + omp_get_thread_num() * kWorkSize;
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < parts.items(); ++i) multiply(parts[i], sums);
    }
  }
};

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
  // What comes from a file stays as long as the model, as does all that is packed while there is a store; in training
  // weights are packed anew in every step.
  const bool stays = store_ != nullptr || weight.storage()->read_only();
  const size_t bytes = packed->nbytes();
  const PackedForm form{paired ? "paired" : "plain"};
  if (store_ != nullptr) packed->storage = store_->find({&weight, 1}, form, bytes);
  if (packed->storage != nullptr) return packed;
  packed->storage = stays ? Storage::allocate(bytes) : temporary_bytes(bytes);
  const bool in_rows = weight.stride(1) == 1;
  if (compute != DType::bfloat16)
    in_rows ? pack_rows<float>(weight, *packed, threads_) : pack_from<float>(weight, *packed, threads_);
  else
    in_rows ? pack_rows<uint16_t>(weight, *packed, threads_) : pack_from<bfloat16>(weight, *packed, threads_);
  if (store_ != nullptr) store_->keep({&weight, 1}, form, packed->storage);
  return packed;
}

// Rows of an even number of values: x itself where it is such, else a copy with a zero after each row.
Tensor CpuKernels::even_rows(const Tensor& x, DType dtype) const {
  const int64_t m = x.dim(0), k = x.dim(1), even = round_up(k, 2);
  if (x.dtype() == dtype && x.stride(1) == 1 && even == k) return x;
  const Tensor rows = temporary({m, even}, dtype);
  const auto from_size = static_cast<int64_t>(size_of(x.dtype())), size = static_cast<int64_t>(size_of(dtype));
  parallel_for(threads_, m, m * k, [&](int64_t i) {
    std::byte* const to = rows.raw() + i * even * size;
    convert_row(x.dtype(), x.raw() + i * x.stride(0) * from_size, x.stride(1), dtype, to, 1, k);
    std::fill(to + k * size, to + even * size, std::byte{0});
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
    const Tensor rows = even_rows(x, DType::bfloat16);
    return dot_product({reinterpret_cast<const uint16_t*>(rows.data<bfloat16>()), rows.stride(0), w.panels<uint16_t>(),
                        w.panel_stride(), m, w.k},
                       finish, temporary_bytes(dot_workspace(threads_))->data(), threads_);
  }
  const Tensor rows = w.dtype == DType::float32 ? x : even_rows(x, DType::float32);
  const auto workspace = temporary_bytes(static_cast<size_t>(threads_ * kWorkSize) * sizeof(float));
  const Product product{rows.data<float>(), rows.stride(0), w, finish};
  product.run(m, reinterpret_cast<float*>(workspace->data()), threads_);
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
  const Tensor left = even_rows(a, DType::bfloat16);
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
