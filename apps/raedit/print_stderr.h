// Words on stderr that may be lost: a program whose stderr is full or closed still does its work, and still says by its
// exit code how it went. fmt::print(stderr, ...) would throw instead, even from a destructor or a catch handler.
#pragma once

#include <cstdio>
#include <string_view>

namespace raedit::cli {

inline void print_stderr(std::string_view text) noexcept {
  (void)std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace raedit::cli
