// The CUDA device lives in a library of its own, libraedit_cuda.so, which is opened when it is first asked for: one
// program runs on machines with and without a GPU.
#pragma once

#include <memory>

#include "backend/kernels.h"

namespace raedit {

// Looks for the library in RAEDIT_CUDA_LIBRARY (a file), beside this program or library, in ../lib, and where the
// system looks. Throws Error(unsupported) that says why CUDA is not used: not built, not found, no driver, no such GPU.
std::unique_ptr<backend::Kernels> load_cuda_kernels(int index);

}  // namespace raedit
