// Copies between layouts and element types, and resampling of images along both axes.
// These are bound by memory: plain loops that the compiler vectorises for the baseline, so their results are the same
// on every instruction set.
#include <vector>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/elementwise.h"
#include "backend/cpu/rows.h"
#include "tensor/convert.h"

namespace raedit::backend::cpu {

namespace {

constexpr int64_t kTile = 32;

int64_t blocks_of(int64_t size, int64_t block) {
  return (size + block - 1) / block;
}

void copy_rows(const RowLoop& loop, const Tensor& source, const Tensor& target, int threads) {
  const RowLoop::Axis& inner = loop.inner;
  parallel_rows(threads, loop, [&](const RowLoop::Offsets& offsets, int64_t begin, int64_t end) {
    const int64_t from = offsets[0] + begin * inner.strides[0], to = offsets[1] + begin * inner.strides[1];
    convert_row(source.dtype(), row_of(source, from, 0).data, inner.strides[0], target.dtype(),
                row_of(target, to, 0).data, inner.strides[1], end - begin);
  });
}

// The target runs along the inner axis, the source along axis `across`: squares of both, so that a cache line that was
// fetched is used up.
void copy_tiles(RowLoop loop, int across, const Tensor& source, const Tensor& target, int threads) {
  const RowLoop::Axis inner = loop.inner;
  const RowLoop::Axis other = loop.outer[static_cast<size_t>(across)];
  for (int i = across; i + 1 < loop.outer_rank; ++i)
    loop.outer[static_cast<size_t>(i)] = loop.outer[static_cast<size_t>(i + 1)];
  loop.outer_rank -= 1;
  const int64_t columns = blocks_of(inner.size, kTile), bands = blocks_of(other.size, kTile);
  parallel_for(threads, loop.rows / other.size * bands, source.numel(), [&](int64_t unit) {
    const RowLoop::Offsets offsets = loop.offsets(unit / bands);
    const int64_t begin = unit % bands * kTile, end = std::min(begin + kTile, other.size);
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t first = column * kTile, n = std::min(kTile, inner.size - first);
      for (int64_t j = begin; j < end; ++j) {
        const int64_t from = offsets[0] + first * inner.strides[0] + j * other.strides[0];
        const int64_t to = offsets[1] + first * inner.strides[1] + j * other.strides[1];
        convert_row(source.dtype(), row_of(source, from, 0).data, inner.strides[0], target.dtype(),
                    row_of(target, to, 0).data, inner.strides[1], n);
      }
    }
  });
}

// A contiguous float32 copy, or the tensor itself where it is one.
Tensor as_float32(const Kernels& kernels, const Tensor& x) {
  if (x.dtype() == DType::float32 && x.is_contiguous()) return x;
  const Tensor result = Tensor::empty(x.shape(), DType::float32);
  kernels.copy(x, result);
  return result;
}

}  // namespace

void CpuKernels::copy(const Tensor& source, const Tensor& target) const {
  if (source.numel() == 0) return;
  const std::array<const Tensor*, 2> tensors = {&source, &target};
  RowLoop loop(tensors);
  loop.walk_along(1);
  const auto is_compute = [](const Tensor& t) { return t.dtype() == DType::float32 || t.dtype() == DType::bfloat16; };
  if (source.dtype() != target.dtype() && is_compute(source) && is_compute(target) && loop.inner.strides[0] == 1 &&
      loop.inner.strides[1] == 1)
    return evaluate({Op::copy}, {&source}, target, threads_);
  if (loop.inner.strides[0] != 1) {
    for (int i = 0; i < loop.outer_rank; ++i)
      if (loop.outer[static_cast<size_t>(i)].strides[0] == 1) return copy_tiles(loop, i, source, target, threads_);
  }
  copy_rows(loop, source, target, threads_);
}

void CpuKernels::accumulate(const Tensor& source, const Tensor& target) const {
  accumulate_op({Op::copy}, {&source}, target, threads_);
}

void CpuKernels::resample(const Tensor& x, const ResampleAxis& vertical, const ResampleAxis& horizontal,
                          const Tensor& out) const {
  const int64_t planes = x.dim(0) * x.dim(1), in_rows = x.dim(2), in_width = x.dim(3);
  const int64_t out_rows = out.dim(2), out_width = out.dim(3);
  const Tensor input = as_float32(*this, x);
  const Tensor middle = Tensor::empty({planes, in_rows, out_width}, DType::float32);
  const Tensor result = out.dtype() == DType::float32 ? out : Tensor::empty(out.shape(), DType::float32);
  const auto* source = input.data<float>();
  auto* rows = middle.data<float>();
  auto* target = result.data<float>();
  parallel_for(threads_, planes * in_rows, middle.numel(), [&](int64_t row) {
    const float* from = source + row * in_width;
    for (int64_t j = 0; j < out_width; ++j) {
      const ResampleAxis::Taps& taps = horizontal.outputs[static_cast<size_t>(j)];
      float sum = 0;
      for (size_t k = 0; k < taps.weights.size(); ++k)
        sum += taps.weights[k] * from[taps.first + static_cast<int64_t>(k)];
      rows[row * out_width + j] = sum;
    }
  });
  parallel_for(threads_, planes * out_rows, result.numel(), [&](int64_t i) {
    const ResampleAxis::Taps& taps = vertical.outputs[static_cast<size_t>(i % out_rows)];
    const float* from = rows + (i / out_rows * in_rows + taps.first) * out_width;
    float* to = target + i * out_width;
    std::fill_n(to, out_width, 0.0f);
    for (const float weight : taps.weights) {
      for (int64_t j = 0; j < out_width; ++j) to[j] += weight * from[j];
      from += out_width;
    }
  });
  if (out.dtype() != DType::float32) copy(result, out);
}

void CpuKernels::resample_backward(const Tensor& dout, const ResampleAxis& vertical, const ResampleAxis& horizontal,
                                   const Tensor& dx) const {
  if (!dx.defined()) return;
  const int64_t planes = dx.dim(0) * dx.dim(1), in_rows = dx.dim(2), in_width = dx.dim(3);
  const int64_t out_rows = dout.dim(2), out_width = dout.dim(3);
  const Tensor gradient = as_float32(*this, dout);
  const Tensor middle = Tensor::zeros({planes, in_rows, out_width}, DType::float32);
  const Tensor result = Tensor::zeros(dx.shape(), DType::float32);
  const auto* source = gradient.data<float>();
  auto* rows = middle.data<float>();
  auto* target = result.data<float>();
  parallel_for(threads_, planes, middle.numel(), [&](int64_t plane) {
    for (int64_t i = 0; i < out_rows; ++i) {
      const ResampleAxis::Taps& taps = vertical.outputs[static_cast<size_t>(i)];
      const float* from = source + (plane * out_rows + i) * out_width;
      float* to = rows + (plane * in_rows + taps.first) * out_width;
      for (const float weight : taps.weights) {
        for (int64_t j = 0; j < out_width; ++j) to[j] += weight * from[j];
        to += out_width;
      }
    }
  });
  parallel_for(threads_, planes * in_rows, result.numel(), [&](int64_t row) {
    float* to = target + row * in_width;
    for (int64_t j = 0; j < out_width; ++j) {
      const ResampleAxis::Taps& taps = horizontal.outputs[static_cast<size_t>(j)];
      const float value = rows[row * out_width + j];
      for (size_t k = 0; k < taps.weights.size(); ++k)
        to[taps.first + static_cast<int64_t>(k)] += taps.weights[k] * value;
    }
  });
  accumulate(result, dx);
}

}  // namespace raedit::backend::cpu
