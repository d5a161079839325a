#include "raedit/shape.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"

namespace raedit {

Shape::Shape(std::span<const int64_t> dims) {
  RAEDIT_CHECK(dims.size() <= kMaxRank, {.code = ErrorCode::unsupported,
                                         .what = "too many dimensions",
                                         .found = fmt::to_string(dims.size()),
                                         .expected = fmt::format("at most {}", kMaxRank)});
  for (const int64_t dim : dims)
    RAEDIT_CHECK(dim >= -1, {.code = ErrorCode::invalid_argument,
                             .what = "negative dimension",
                             .found = fmt::format("[{}]", fmt::join(dims.begin(), dims.end(), ", "))});
  std::copy(dims.begin(), dims.end(), dims_.begin());
  rank_ = static_cast<int>(dims.size());
}

namespace {

size_t checked_index(int i, const Shape& shape) {
  const int index = i < 0 ? i + shape.rank() : i;
  RAEDIT_CHECK(
      index >= 0 && index < shape.rank(),
      {.code = ErrorCode::internal, .what = fmt::format("no dimension {}", i), .found = "shape " + shape.str()});
  return static_cast<size_t>(index);
}

}  // namespace

int64_t Shape::operator[](int i) const {
  return dims_[checked_index(i, *this)];
}

void Shape::set(int i, int64_t value) {
  const size_t index = checked_index(i, *this);
  RAEDIT_CHECK(value >= -1,
               {.code = ErrorCode::invalid_argument, .what = "negative dimension", .found = fmt::to_string(value)});
  dims_[index] = value;
}

int64_t Shape::numel() const {
  RAEDIT_CHECK(std::find(begin(), end(), -1) == end(),
               {.code = ErrorCode::invalid_argument, .what = "a dimension of -1 is only for reshape", .found = str()});
  if (std::find(begin(), end(), 0) != end()) return 0;  // before an overflow of the others
  int64_t count = 1;
  for (const int64_t dim : *this)
    RAEDIT_CHECK(!__builtin_mul_overflow(count, dim, &count),
                 {.code = ErrorCode::invalid_argument, .what = "more elements than 64 bits can count", .found = str()});
  return count;
}

std::string Shape::str() const {
  return fmt::format("[{}]", fmt::join(begin(), end(), ", "));
}

}  // namespace raedit
