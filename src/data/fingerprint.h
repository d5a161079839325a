// PictureSet::fingerprint(): one SHA-256 over all pictures in their order.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "io/hash.h"

namespace raedit::data {

class Fingerprint {
 public:
  // `name` below the root. Its length goes first: names may hold any character.
  void add(std::string_view name, int64_t class_id, uint64_t bytes) {
    digest_.update(fmt::format("{}:{} {} {}\n", name.size(), name, class_id, bytes));
  }
  std::string hex() const { return digest_.hex(); }

 private:
  Sha256 digest_;
};

}  // namespace raedit::data
