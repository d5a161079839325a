// Rows of tensors that share a shape and differ in strides, and loops over rows and threads. Private to the CPU device.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "raedit/tensor.h"

namespace raedit::backend::cpu {

// Below this many elements a second thread costs more than it brings.
inline constexpr int64_t kMinParallelWork = 16384;

// f(i) for i in [0, units); f must not throw. `work` is the number of elements in all.
template <class F>
void parallel_for(int threads, int64_t units, int64_t work, const F& f) {
  const bool parallel = threads > 1 && units > 1 && work >= kMinParallelWork;
#pragma omp parallel for num_threads(threads) schedule(static) if (parallel)
  for (int64_t i = 0; i < units; ++i) f(i);
}

// Elements that a kernel works on at a time: a buffer of them fits the first-level cache many times over.
inline constexpr int64_t kChunk = 512;

struct Row {
  std::byte* data = nullptr;
  DType dtype = DType::float32;  // or bfloat16
  int64_t stride = 1;            // in elements
};

// The row of `tensor` that begins `offset` elements after its first.
inline Row row_of(const Tensor& tensor, int64_t offset, int64_t stride) {
  return {tensor.raw() + offset * static_cast<int64_t>(size_of(tensor.dtype())), tensor.dtype(), stride};
}

// Row-major iteration over the rows of up to kMaxOperands tensors of one shape, all of whose strides are in elements.
// Neighbouring dimensions that every tensor walks through evenly are merged, and those of size 1 dropped.
struct RowLoop {
  static constexpr int kMaxOperands = 8;
  using Offsets = std::array<int64_t, kMaxOperands>;

  struct Axis {
    int64_t size = 1;
    Offsets strides{};
  };

  // keep_inner: the last dimension stays a row of its own and is never merged with the one before.
  explicit RowLoop(std::span<const Tensor* const> operands, bool keep_inner = false);

  // Makes the axis along which operand k has stride 1 the inner one, where there is such an axis.
  void walk_along(int k);
  // Whether operand k has stride 0 along a dimension.
  bool repeats(int k) const;
  // Where each operand's row begins.
  Offsets offsets(int64_t row) const { return cursor(row).offsets; }

  // The same for one row after the other, without the divisions.
  struct Cursor {
    std::array<int64_t, Shape::kMaxRank> index{};
    Offsets offsets{};
  };
  Cursor cursor(int64_t row) const;
  void advance(Cursor& cursor) const;

  int operands = 0;
  int outer_rank = 0;
  std::array<Axis, Shape::kMaxRank> outer{};
  Axis inner;
  int64_t rows = 1;
};

inline RowLoop::RowLoop(std::span<const Tensor* const> tensors, bool keep_inner)
    : operands(static_cast<int>(tensors.size())) {
  const Shape& shape = tensors[0]->shape();
  std::array<Axis, Shape::kMaxRank + 1> axes{};
  int count = 0;
  for (int i = 0; i < shape.rank(); ++i) {
    const bool last = keep_inner && i == shape.rank() - 1;
    Axis axis;
    axis.size = shape[i];
    if (axis.size == 1 && !last) continue;
    bool merge = count > 0 && !last;
    for (size_t k = 0; k < tensors.size(); ++k) {
      axis.strides[k] = tensors[k]->stride(i);
      if (count > 0) merge = merge && axes[static_cast<size_t>(count - 1)].strides[k] == axis.size * axis.strides[k];
    }
    if (merge) {
      axis.size *= axes[static_cast<size_t>(count - 1)].size;
      axes[static_cast<size_t>(count - 1)] = axis;
    } else {
      axes[static_cast<size_t>(count++)] = axis;
    }
  }
  if (count > 0) {
    inner = axes[static_cast<size_t>(--count)];
  } else {
    inner.strides.fill(1);
  }
  outer_rank = count;
  for (int i = 0; i < count; ++i) {
    outer[static_cast<size_t>(i)] = axes[static_cast<size_t>(i)];
    rows *= axes[static_cast<size_t>(i)].size;
  }
}

inline void RowLoop::walk_along(int k) {
  const auto operand = static_cast<size_t>(k);
  if (inner.strides[operand] == 1) return;
  for (int i = 0; i < outer_rank; ++i) {
    Axis& axis = outer[static_cast<size_t>(i)];
    if (axis.strides[operand] != 1) continue;
    rows = rows / axis.size * inner.size;
    std::swap(axis, inner);
    return;
  }
}

inline bool RowLoop::repeats(int k) const {
  const auto operand = static_cast<size_t>(k);
  if (inner.size > 1 && inner.strides[operand] == 0) return true;
  for (int i = 0; i < outer_rank; ++i)
    if (outer[static_cast<size_t>(i)].strides[operand] == 0) return true;
  return false;
}

inline RowLoop::Cursor RowLoop::cursor(int64_t row) const {
  Cursor result;
  for (int i = outer_rank - 1; i >= 0; --i) {
    const Axis& axis = outer[static_cast<size_t>(i)];
    const int64_t index = row % axis.size;
    row /= axis.size;
    result.index[static_cast<size_t>(i)] = index;
    for (size_t k = 0; k < static_cast<size_t>(operands); ++k) result.offsets[k] += index * axis.strides[k];
  }
  return result;
}

inline void RowLoop::advance(Cursor& cursor) const {
  for (int i = outer_rank - 1; i >= 0; --i) {
    const Axis& axis = outer[static_cast<size_t>(i)];
    int64_t& index = cursor.index[static_cast<size_t>(i)];
    const int64_t step = ++index < axis.size ? 1 : 1 - axis.size;
    for (size_t k = 0; k < static_cast<size_t>(operands); ++k) cursor.offsets[k] += step * axis.strides[k];
    if (step == 1) return;
    index = 0;
  }
}

// f(offsets, begin, end) for every row, in pieces [begin, end) of the inner dimension where the row is long. Pieces run
// on any thread.
template <class F>
void parallel_rows(int threads, const RowLoop& loop, const F& f) {
  constexpr int64_t kPiece = 8192;
  const int64_t size = loop.inner.size;
  if (size == 0) return;
  const int64_t pieces = (size + kPiece - 1) / kPiece;
  const int64_t group = std::max<int64_t>(1, kPiece / size);  // rows at a time
  const int64_t groups = (loop.rows + group - 1) / group;
  parallel_for(threads, groups * pieces, loop.rows * size, [&](int64_t unit) {
    const int64_t first_row = unit / pieces * group, begin = unit % pieces * kPiece;
    const int64_t end = std::min(begin + kPiece, size);
    RowLoop::Cursor cursor = loop.cursor(first_row);
    for (int64_t row = first_row; row < std::min(first_row + group, loop.rows); ++row) {
      f(cursor.offsets, begin, end);
      loop.advance(cursor);
    }
  });
}

}  // namespace raedit::backend::cpu
