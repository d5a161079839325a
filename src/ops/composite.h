// What the composites share. A composite is an op written the plain way, in float64 and without a thought for speed,
// beside the op itself: it says what the op means, and the tests compare every backend with it.
#pragma once

#include <vector>

#include "raedit/tensor.h"

namespace raedit::composite {

inline std::vector<double> doubles(const Tensor& t) {
  return t.defined() ? t.to_vector<double>() : std::vector<double>();
}

inline Tensor tensor(const std::vector<double>& values, const Shape& shape) {
  return Tensor::from(values, shape);
}

}  // namespace raedit::composite
