// Enumerators by the names that options and configs give them.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/text.h"

namespace raedit {

// The value of `name` in a table of names. Throws Error(invalid_argument) naming the known ones; `what` begins the
// message: "unknown weighting scheme".
template <class T, size_t kCount>
T named_value(std::string_view name, const std::pair<std::string_view, T> (&table)[kCount], const char* what) {
  std::vector<std::string> known;
  for (const auto& [known_name, value] : table) {
    if (name == known_name) return value;
    known.emplace_back(known_name);
  }
  raise({.code = ErrorCode::invalid_argument,
         .what = what,
         .found = std::string(name),
         .expected = join(known),
         .hint = did_you_mean(name, known)});
}

}  // namespace raedit
