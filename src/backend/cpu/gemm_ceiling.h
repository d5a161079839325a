// How fast the inner products run on operands in the first-level cache.
#pragma once

#include "raedit/tensor.h"

namespace raedit::backend::cpu {

// Operations a second of so many threads, from five runs of so many tiles each. float32, bfloat16 or int8.
double ceiling_of(DType dtype, int tiles_per_run, int threads);

}  // namespace raedit::backend::cpu
