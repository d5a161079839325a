// What libraedit_cuda.so shows: one function, that returns the Plugin.
#pragma once

#include <string>

#include "backend/kernels.h"
#include "core/check.h"

namespace raedit::backend::cuda {

struct Plugin {
  const char* build;  // must be kBuild: the two sides share C++ classes
  // The caller owns the result. Throws Error(unsupported) where there is no driver or no GPU of this number.
  Kernels* (*make_kernels)(int index);
};

// Why CUDA is not used, as both sides say it.
[[noreturn]] inline void refuse(const std::string& why, const std::string& hint) {
  raise({.code = ErrorCode::unsupported,
         .what = "CUDA cannot be used: " + why,
         .where = "device",
         .expected = "cpu",
         .hint = hint});
}

inline constexpr const char* kPluginEntry = "raedit_cuda_plugin";
inline constexpr const char* kBuild = RAEDIT_BUILD;

}  // namespace raedit::backend::cuda
