// The two 8-bit floats of the OCP specification, for reading and writing files only, and the rounding all small formats
// share. Source: OCP 8-bit Floating Point Specification (OFP8), revision 1.0; conversions agree with torch.
#pragma once

#include <bit>
#include <cstdint>

#include "raedit/dtype.h"

namespace raedit {

// |value| as a float with `kMantissa` stored bits and exponent bias `kBias`, rounded to nearest even: the code without
// its sign, above the format's largest code when it overflows. NaN must be handled before.
template <int kMantissa, int kBias>
inline uint32_t round_magnitude(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value) & 0x7fffffffu;
  if (u < 0x00800000u) return 0;  // float32 subnormals are far below half of any smallest code
  int exponent = static_cast<int>(u >> 23) - 127;
  const uint32_t significand = (u & 0x007fffffu) | 0x00800000u;
  int shift = 23 - kMantissa;
  if (exponent < 1 - kBias) {  // the target's subnormals keep one exponent and lose bits instead
    shift += 1 - kBias - exponent;
    exponent = 1 - kBias;
  }
  if (shift > 24) return 0;
  const uint32_t odd = (significand >> shift) & 1u;
  const uint32_t rounded = (significand + (1u << (shift - 1)) - 1u + odd) >> shift;
  // A carry out of the significand lands in the exponent field, as it should.
  return (static_cast<uint32_t>(exponent + kBias - 1) << kMantissa) + rounded;
}

// The finite value of a magnitude code.
template <int kMantissa, int kBias>
inline float magnitude_value(uint32_t code) {
  const uint32_t exponent = code >> kMantissa;
  const uint32_t mantissa = code & ((1u << kMantissa) - 1u);
  const uint32_t significand = exponent == 0 ? mantissa : mantissa | (1u << kMantissa);
  const int power = static_cast<int>(exponent == 0 ? 1 : exponent) - kBias - kMantissa;
  return static_cast<float>(significand) * std::bit_cast<float>(static_cast<uint32_t>(power + 127) << 23);
}

// 4 exponent bits, 3 mantissa bits, no infinity: what is too large, infinity too, becomes the largest value, 448.
struct float8_e4m3fn {
  uint8_t bits = 0;

  float8_e4m3fn() = default;
  explicit float8_e4m3fn(float value);
  explicit operator float() const;
};

// 5 exponent bits, 2 mantissa bits: a shorter float16, with infinities. Largest finite value 57344.
struct float8_e5m2 {
  uint8_t bits = 0;

  float8_e5m2() = default;
  explicit float8_e5m2(float value);
  explicit operator float() const;
};

template <>
struct DTypeOf<float8_e4m3fn> {
  static constexpr DType value = DType::float8_e4m3fn;
};
template <>
struct DTypeOf<float8_e5m2> {
  static constexpr DType value = DType::float8_e5m2;
};

}  // namespace raedit
