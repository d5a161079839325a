// Conversion of one element to another type, and of strided rows of them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/float8.h"
#include "raedit/dtype.h"

namespace raedit {

template <class T>
inline constexpr bool kIsSmallFloat = std::is_same_v<T, float16> || std::is_same_v<T, bfloat16> ||
                                      std::is_same_v<T, float8_e4m3fn> || std::is_same_v<T, float8_e5m2>;

// As torch's Tensor.to: the small floats by way of float32, anything but 0 is true. Floats that no integer can hold are
// undefined there; here they saturate, and NaN is 0.
template <class To, class From>
inline To convert_element(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (kIsSmallFloat<From>) {
    return convert_element<To>(static_cast<float>(value));
  } else if constexpr (kIsSmallFloat<To>) {
    return To(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bool>) {
    return value != From{0};
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    using Limits = std::numeric_limits<To>;
    if (std::isnan(value)) return To{0};
    if (value <= static_cast<From>(Limits::min())) return Limits::min();
    if (value >= static_cast<From>(Limits::max())) return Limits::max();
    return static_cast<To>(value);
  } else {
    return static_cast<To>(value);
  }
}

// `count` elements of dtype `from` at `source`, `source_stride` elements apart, to dtype `to` at `target`. Same types
// may overlap exactly, not otherwise.
void convert_row(DType from, const std::byte* source, int64_t source_stride, DType to, std::byte* target,
                 int64_t target_stride, int64_t count);

}  // namespace raedit
