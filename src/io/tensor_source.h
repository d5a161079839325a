// TensorSource: a tensor that is to be written, produced when its turn comes, so that one is in memory at a time.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "io/tensor_bytes.h"
#include "raedit/tensor.h"

namespace raedit {

struct TensorSource {
  std::string name;
  DType dtype = DType::float32;
  Shape shape;
  std::function<Tensor()> produce;  // must give this dtype and shape; any strides
  // Rows below those of produce(), piece by piece: what is joined of others need not be put together to be written.
  std::vector<std::function<Tensor()>> below = {};

  static TensorSource of(std::string name, const Tensor& tensor);
  size_t nbytes() const { return static_cast<size_t>(shape.numel()) * size_of(dtype); }
};

// Produces the tensor and hands its bytes over in row-major order. Throws Error(internal) when it is not what was
// announced; `path` is for that message.
void stream(const TensorSource& source, const std::string& path, const ByteSink& sink);

}  // namespace raedit
