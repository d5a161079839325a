// Element types, their sizes and names, and the bfloat16 and float16 value types.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "raedit/export.h"

namespace raedit {

// Everything a safetensors file can hold. Computation happens in float32 and bfloat16 (float64 in test oracles);
// the rest can be read, converted and shown.
enum class DType : uint8_t {
  float64,
  float32,
  float16,
  bfloat16,
  float8_e4m3fn,
  float8_e5m2,
  int64,
  int32,
  int16,
  int8,
  uint64,
  uint32,
  uint16,
  uint8,
  bool8,
};

// Bytes of one element.
RAEDIT_API size_t size_of(DType dtype);
// torch's name: "float32", "bfloat16", "bool", ...
RAEDIT_API std::string_view name_of(DType dtype);
// Inverse of name_of; throws Error(invalid_argument) naming the known ones.
RAEDIT_API DType dtype_from_name(std::string_view name);
RAEDIT_API bool is_floating(DType dtype);

// The upper 16 bits of a float32. Conversion from float rounds to nearest even; NaN stays NaN.
struct bfloat16 {
  uint16_t bits = 0;

  bfloat16() = default;
  explicit bfloat16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? static_cast<uint16_t>((u >> 16) | 0x40)
                                           : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

// IEEE half precision, for reading and writing files only.
struct RAEDIT_API float16 {
  uint16_t bits = 0;

  float16() = default;
  explicit float16(float value);
  explicit operator float() const;
};

// clang-format off
template <class T> struct DTypeOf;
template <> struct DTypeOf<double> { static constexpr DType value = DType::float64; };
template <> struct DTypeOf<float> { static constexpr DType value = DType::float32; };
template <> struct DTypeOf<float16> { static constexpr DType value = DType::float16; };
template <> struct DTypeOf<bfloat16> { static constexpr DType value = DType::bfloat16; };
template <> struct DTypeOf<int64_t> { static constexpr DType value = DType::int64; };
template <> struct DTypeOf<int32_t> { static constexpr DType value = DType::int32; };
template <> struct DTypeOf<int16_t> { static constexpr DType value = DType::int16; };
template <> struct DTypeOf<int8_t> { static constexpr DType value = DType::int8; };
template <> struct DTypeOf<uint64_t> { static constexpr DType value = DType::uint64; };
template <> struct DTypeOf<uint32_t> { static constexpr DType value = DType::uint32; };
template <> struct DTypeOf<uint16_t> { static constexpr DType value = DType::uint16; };
template <> struct DTypeOf<uint8_t> { static constexpr DType value = DType::uint8; };
template <> struct DTypeOf<bool> { static constexpr DType value = DType::bool8; };
// clang-format on

}  // namespace raedit
