// What libraedit_cuda.so shows: one function, that returns the Plugin.
#pragma once

#include "backend/kernels.h"

namespace raedit::backend::cuda {

struct Plugin {
  const char* build;  // must be kBuild: the two sides share C++ classes
  // The caller owns the result. Throws Error(unsupported) where there is no driver or no GPU of this number.
  Kernels* (*make_kernels)(int index);
};

inline constexpr const char* kPluginEntry = "raedit_cuda_plugin";
inline constexpr const char* kBuild = RAEDIT_BUILD;

}  // namespace raedit::backend::cuda
