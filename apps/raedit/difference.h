// How far two tensors are apart, element by element.
#pragma once

#include <cstdint>

#include "raedit/tensor.h"

namespace raedit::cli {

struct Tolerance {
  double atol = 0;
  double rtol = 0;
};

// |a-b| absolute, |a-b| / |b| relative (where b is not 0). A NaN in both is equal, in one alone it is beyond every
// tolerance; so are infinities that are not the same. Those are counted, and left out of maxima and means.
struct Difference {
  int64_t count = 0;
  int64_t beyond = 0;           // |a-b| > atol + rtol * |b|, not finite on one side only included
  int64_t unequal_special = 0;  // NaN or infinity against something else
  int64_t both_nan = 0;
  double max_abs = 0;
  double mean_abs = 0;
  double max_rel = 0;
  double mean_rel = 0;
  double largest = 0;  // max |b|
};

// float64 arithmetic; 64-bit integers exactly. Shapes must be equal, dtypes need not be.
Difference compare_tensors(const Tensor& a, const Tensor& b, const Tolerance& tolerance);

}  // namespace raedit::cli
