// What linear() of the CUDA device reads: a weight with padded rows, in memory of its own or a view of the tensor it
// came from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "backend/cuda/dispatch.h"
#include "backend/cuda/runtime.h"
#include "backend/kernels.h"

namespace raedit::backend::cuda {

inline int64_t round_up(int64_t value, int64_t unit) {
  return ceil_div(value, unit) * unit;
}

// How many elements are 16 bytes.
inline int64_t lanes_of(DType dtype) {
  return 16 / static_cast<int64_t>(size_of(dtype));
}

// Of scratch: a multiple of 256.
inline size_t bytes_of(int64_t elements, DType dtype) {
  return static_cast<size_t>(round_up(elements * static_cast<int64_t>(size_of(dtype)), 256));
}

inline unsigned grid(int64_t count, int64_t block) {
  return static_cast<unsigned>(ceil_div(count, block));
}

// 128 threads for rows of `items`: as many along the row as it has, the rest for further rows.
inline dim3 row_block(int64_t items) {
  unsigned x = 1;
  while (x < items && x < 128) x *= 2;
  return dim3(x, 128 / x);
}

// A matrix somewhere on the device, with any strides.
struct Matrix {
  const std::byte* data = nullptr;
  DType dtype = DType::float32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 0;
  int64_t column_stride = 0;

  Matrix() = default;
  explicit Matrix(const Tensor& t) : Matrix(t.raw(), t.dtype(), t.dim(0), t.dim(1), t.stride(0), t.stride(1)) {}
  Matrix(const std::byte* at, DType type, int64_t r, int64_t c, int64_t rs, int64_t cs)
      : data(at), dtype(type), rows(r), columns(c), row_stride(rs), column_stride(cs) {
    // The stride of a dimension of one element says nothing: give it the one of a contiguous matrix.
    if (columns <= 1) column_stride = 1;
    if (rows <= 1) row_stride = std::max(columns, column_stride * columns);
    if (columns <= 1 && rows > 1 && row_stride == 1) column_stride = rows;
  }

  Matrix transposed() const { return {data, dtype, columns, rows, column_stride, row_stride}; }
  bool row_major() const { return column_stride == 1 && row_stride >= columns; }
  // Whether rows begin on 16-byte addresses.
  bool aligned() const {
    return column_stride == 1 && reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
           (rows <= 1 || row_stride * static_cast<int64_t>(size_of(dtype)) % 16 == 0);
  }
};

// Memory of the device's pool, taken and given back in the order of the stream.
class StreamBytes {
 public:
  StreamBytes(std::shared_ptr<const Runtime> runtime, size_t bytes);
  ~StreamBytes();
  StreamBytes(const StreamBytes&) = delete;
  StreamBytes& operator=(const StreamBytes&) = delete;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::shared_ptr<const Runtime> runtime_;
  std::byte* data_ = nullptr;
  size_t size_;
};

// Row-major, row i at data + i * ld elements. Rows are 16-byte aligned; what stands between k and padded_k, and the
// rows from n to padded_n, are zeros: products may run over them, so that odd widths cost no more than even ones.
class CudaPackedMatrix final : public PackedMatrix {
 public:
  size_t nbytes() const override;

  const std::byte* data = nullptr;
  int64_t ld = 0;
  int64_t padded_n = 0;
  int64_t padded_k = 0;
  int64_t rows = 0;                     // there are in memory: a multiple of 32, n in a view
  std::unique_ptr<StreamBytes> memory;  // null for a view
  Tensor view;                          // what `data` is part of
  bool constant = false;                // loaded from the host: it and its bias stay what they are

  // cuBLASLt adds a bias of the result's type only. That of a loaded model has been rounded to the compute dtype, so it
  // can be had in bfloat16 without a loss; whether that is so is looked at once for each bias tensor.
  struct Bias {
    uint64_t storage = 0;
    size_t offset = 0;
    int looks = 0;
    std::unique_ptr<StreamBytes> exact;  // [padded_n] bfloat16, null where it would be another number
  };
  mutable Bias bias;
};

// Converts `from`, of any floating type, into the contiguous float32 or bfloat16 [rows, columns] at `to`, at least as
// large; what has no source is zero. `columns` is a multiple of 16 bytes.
void convert(const Runtime& rt, const Matrix& from, std::byte* to, DType dtype, int64_t rows, int64_t columns);

}  // namespace raedit::backend::cuda
