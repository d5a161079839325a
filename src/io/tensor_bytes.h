// The bytes of a tensor in row-major order, whatever its strides, a bounded piece at a time.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "raedit/tensor.h"

namespace raedit {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

using ByteSink = std::function<void(const void* data, size_t bytes)>;

// Contiguous tensors are handed over as they lie; others in copies of a few MiB.
void for_each_chunk(const Tensor& tensor, const ByteSink& sink);

}  // namespace raedit
