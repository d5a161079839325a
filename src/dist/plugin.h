// What libraedit_mpi.so shows: one function, that returns the Plugin.
#pragma once

#include <string>

#include "core/check.h"
#include "dist/communicator.h"

namespace raedit::dist {

struct Plugin {
  const char* build;  // must be kBuild: the two sides share C++ classes
  // All ranks that were started; the caller owns the result. Once in a process.
  Communicator* (*open)();
};

inline constexpr const char* kPluginEntry = "raedit_mpi_plugin";
inline constexpr const char* kBuild = RAEDIT_MPI_BUILD;

// Why the ranks cannot work together, as both sides say it.
[[noreturn]] inline void refuse(const std::string& why, const std::string& hint) {
  raise({.code = ErrorCode::unsupported,
         .what = "these ranks cannot work together: " + why,
         .where = "ranks",
         .hint = hint});
}

}  // namespace raedit::dist
