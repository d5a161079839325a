// RAEDIT_CHECK: one line per check on files, shapes and options. Always on. For our own mistakes use assert().
//
//   RAEDIT_CHECK(steps >= 1, {.code = ErrorCode::invalid_argument, .what = "num_inference_steps is too small",
//                             .found = fmt::to_string(steps), .expected = "1 or more"});
#pragma once

#include "raedit/error.h"

namespace raedit {

[[noreturn]] void raise(ErrorInfo info);

}  // namespace raedit

#define RAEDIT_CHECK(condition, ...)                    \
  do {                                                  \
    if (!(condition)) [[unlikely]]                      \
      ::raedit::raise(::raedit::ErrorInfo __VA_ARGS__); \
  } while (false)
