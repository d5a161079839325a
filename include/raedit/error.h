// The one exception type of raedit. The library never aborts, exits or prints: every failure is a raedit::Error that
// says what went wrong, where, what was found, what was expected and what to do about it.
#pragma once

#include <stdexcept>
#include <string>

#include "raedit/export.h"

namespace raedit {

enum class ErrorCode {
  invalid_argument,  // an option or argument of the caller
  not_found,         // a file, folder, tensor or name that does not exist
  format,            // a file that exists and cannot be what it claims to be
  io,                // reading or writing failed (permission, disk full, ...)
  unsupported,       // well-formed, but not something this build can do
  out_of_memory,
  cancelled,
  not_finite,  // a result is NaN or infinite
  internal,    // a mistake of ours
};

// "invalid_argument", "not_found", ...
RAEDIT_API const char* to_string(ErrorCode code);

// The parts of a message. Empty parts are left out of what().
struct ErrorInfo {
  ErrorCode code = ErrorCode::internal;
  std::string what = {};      // "tensor is missing"
  std::string where = {};     // a file, an option, an op: "transformer/config.json"
  std::string found = {};     // "[4, 192]"
  std::string expected = {};  // "[4, 256]"
  std::string hint = {};      // what the user can do
};

class RAEDIT_API Error : public std::runtime_error {
 public:
  explicit Error(ErrorInfo info);
  const ErrorInfo& info() const noexcept { return info_; }
  ErrorCode code() const noexcept { return info_.code; }

 private:
  ErrorInfo info_;
};

}  // namespace raedit
