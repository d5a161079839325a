// What a YAML file may grow to in memory: aliases, merge keys and interpolations multiply it.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <string>

#include "core/check.h"
#include "core/json.h"

namespace raedit::io {

inline constexpr int kMaxYamlDepth = 64;
inline constexpr size_t kMaxYamlNodes = 100'000;
inline constexpr size_t kMaxYamlBytes = size_t{16} << 20;
// YAML's own bound for keys without '?'. Every interpolation handles the keys on its way.
inline constexpr size_t kMaxYamlKeyBytes = 1024;

class YamlBudget {
 public:
  // Throws Error(format) as soon as it is spent.
  void spend(size_t nodes, size_t bytes, const std::string& where) {
    nodes_ += nodes;
    bytes_ += bytes;
    RAEDIT_CHECK(
        nodes_ <= kMaxYamlNodes && bytes_ <= kMaxYamlBytes,
        {.code = ErrorCode::format,
         .what = "YAML has too many values",
         .where = where,
         .expected = fmt::format("at most {} values and {} bytes of text, aliases and interpolations written out",
                                 kMaxYamlNodes, kMaxYamlBytes)});
  }

 private:
  size_t nodes_ = 0, bytes_ = 0;
};

inline void check_yaml_depth(size_t depth, const std::string& where) {
  RAEDIT_CHECK(depth <= static_cast<size_t>(kMaxYamlDepth),
               {.code = ErrorCode::format,
                .what = "YAML is nested too deeply",
                .where = where,
                .expected = fmt::format("at most {} levels", kMaxYamlDepth)});
}

}  // namespace raedit::io
