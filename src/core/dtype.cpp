// Names and sizes of element types; float16 and float8 conversions.
#include "raedit/dtype.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/float8.h"
#include "core/text.h"

namespace raedit {

namespace {

struct Entry {
  DType dtype;
  std::string_view name;
  size_t size;
  bool floating;
};

// In the order of the enum.
constexpr std::array<Entry, 15> kEntries{{
    {DType::float64, "float64", 8, true},
    {DType::float32, "float32", 4, true},
    {DType::float16, "float16", 2, true},
    {DType::bfloat16, "bfloat16", 2, true},
    {DType::float8_e4m3fn, "float8_e4m3fn", 1, true},
    {DType::float8_e5m2, "float8_e5m2", 1, true},
    {DType::int64, "int64", 8, false},
    {DType::int32, "int32", 4, false},
    {DType::int16, "int16", 2, false},
    {DType::int8, "int8", 1, false},
    {DType::uint64, "uint64", 8, false},
    {DType::uint32, "uint32", 4, false},
    {DType::uint16, "uint16", 2, false},
    {DType::uint8, "uint8", 1, false},
    {DType::bool8, "bool", 1, false},
}};

const Entry& entry_of(DType dtype) {
  const auto index = static_cast<size_t>(dtype);
  RAEDIT_CHECK(index < kEntries.size(),
               {.code = ErrorCode::internal, .what = "not an element type", .found = std::to_string(index)});
  return kEntries[index];
}

float with_sign(float magnitude, bool negative) {
  return negative ? -magnitude : magnitude;
}

bool is_nan_bits(float value) {
  return (std::bit_cast<uint32_t>(value) & 0x7fffffffu) > 0x7f800000u;
}

uint32_t sign_bit(float value) {
  return std::bit_cast<uint32_t>(value) >> 31;
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

}  // namespace

size_t size_of(DType dtype) {
  return entry_of(dtype).size;
}

std::string_view name_of(DType dtype) {
  return entry_of(dtype).name;
}

bool is_floating(DType dtype) {
  return entry_of(dtype).floating;
}

DType dtype_from_name(std::string_view name) {
  for (const Entry& entry : kEntries)
    if (entry.name == name) return entry.dtype;
  std::vector<std::string> known;
  for (const Entry& entry : kEntries) known.emplace_back(entry.name);
  raise({.code = ErrorCode::invalid_argument,
         .what = "unknown element type",
         .found = fmt::format("'{}'", name),
         .expected = fmt::format("one of {}", join(known)),
         .hint = did_you_mean(name, known)});
}

float16::float16(float value) {
  const uint32_t code = is_nan_bits(value) ? 0x7e00u : std::min(round_magnitude<10, 15>(value), 0x7c00u);
  bits = static_cast<uint16_t>(code | (sign_bit(value) << 15));
}

float16::operator float() const {
  const uint32_t code = bits & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  if (code >= 0x7c00u)  // infinity, or NaN with its payload
    return std::bit_cast<float>(sign | 0x7f800000u | ((code & 0x3ffu) << 13));
  if (code >= 0x0400u) return std::bit_cast<float>(sign | ((code << 13) + (112u << 23)));
  return with_sign(magnitude_value<10, 15>(code), sign != 0);
}

float8_e4m3fn::float8_e4m3fn(float value) {
  const uint32_t code = is_nan_bits(value) ? 0x7fu : std::min(round_magnitude<3, 7>(value), 0x7eu);
  bits = static_cast<uint8_t>(code | (sign_bit(value) << 7));
}

float8_e4m3fn::operator float() const {
  const uint32_t code = bits & 0x7fu;
  return code == 0x7fu ? kNan : with_sign(magnitude_value<3, 7>(code), (bits & 0x80u) != 0);
}

float8_e5m2::float8_e5m2(float value) {
  const uint32_t code = is_nan_bits(value) ? 0x7fu : std::min(round_magnitude<2, 15>(value), 0x7cu);
  bits = static_cast<uint8_t>(code | (sign_bit(value) << 7));
}

float8_e5m2::operator float() const {
  const uint32_t code = bits & 0x7fu;
  if (code > 0x7cu) return kNan;
  return with_sign(code == 0x7cu ? kInfinity : magnitude_value<2, 15>(code), (bits & 0x80u) != 0);
}

}  // namespace raedit
