// What linear() of the CUDA device reads: a weight with padded rows, in memory of its own or a view of the tensor it
// came from.
#pragma once

#include <memory>

#include "backend/cuda/runtime.h"
#include "backend/kernels.h"

namespace raedit::backend::cuda {

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

}  // namespace raedit::backend::cuda
