// Random numbers in torch's order. Re-implemented from the published algorithms: MT19937 (Matsumoto and Nishimura
// 1998), Box-Muller (1958), and the way torch's CPU generator spends the bits
// (aten/src/ATen/core/TransformationHelper.h, native/cpu/DistributionTemplates.h): 24 bits for a float32 uniform, 53 of
// a 64-bit draw for float64. bfloat16 is as in torch 2.15; 2.11 still made it from 8-bit uniforms and never left +-3.4.
#include "raedit/generator.h"

#include <array>
#include <cmath>
#include <numbers>
#include <optional>
#include <random>
#include <string>
#include <type_traits>
#include <utility>

#include "core/check.h"

namespace raedit {

struct Generator::State {
  std::mt19937 engine;
  // The scalar path makes two numbers at a time and keeps the second, across calls and until the next manual_seed.
  std::optional<double> next_normal;
};

Generator::Generator(uint64_t seed) : state_(std::make_unique<State>()) {
  manual_seed(seed);
}
Generator::Generator(const Generator& other) : state_(std::make_unique<State>(*other.state_)) {}
Generator& Generator::operator=(const Generator& other) {
  *state_ = *other.state_;
  return *this;
}
Generator::Generator(Generator&&) noexcept = default;
Generator& Generator::operator=(Generator&&) noexcept = default;
Generator::~Generator() = default;

void Generator::manual_seed(uint64_t seed) {
  state_->engine.seed(static_cast<uint32_t>(seed));  // the engine has 32 bits of seed: torch drops the others too
  state_->next_normal.reset();
}

uint32_t Generator::random() {
  return static_cast<uint32_t>(state_->engine());
}

uint64_t Generator::random64() {
  const uint64_t high = random();
  return (high << 32) | random();
}

namespace {

constexpr int64_t kBlock = 16;  // torch's blocked path, and the size from which it is taken

// bfloat16 is drawn and computed in float32 and rounded last.
template <class T>
using RealOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Uniform in [0, 1) with as many bits as T has digits.
template <class T>
T uniform(Generator& generator) {
  if constexpr (std::is_same_v<T, double>) {
    return static_cast<double>(generator.random64() & ((uint64_t{1} << 53) - 1)) * 0x1p-53;
  } else if constexpr (std::is_same_v<T, float>) {
    return static_cast<float>(generator.random() & ((1u << 24) - 1u)) * 0x1p-24f;
  } else {
    const T value(uniform<float>(generator));
    return static_cast<float>(value) == 1.0f ? T(0.0f) : value;  // rounded up to the end that is not in the interval
  }
}

template <class T>
void fill_uniform(Generator& generator, T* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = uniform<T>(generator);
}

// Box-Muller over one block of uniform numbers: i and i + 8 become normal numbers i and i + 8.
template <class T>
void normal_block(Generator& generator, T* values) {
  using Real = RealOf<T>;
  constexpr int64_t kHalf = kBlock / 2;
  std::array<Real, kBlock> uniforms;
  fill_uniform(generator, uniforms.data(), kBlock);
  for (size_t i = 0; i < kHalf; ++i) {
    const Real u1 = Real{1} - uniforms[i];  // (0, 1]: the logarithm is finite
    const Real radius = std::sqrt(Real{-2} * std::log(u1));
    const Real theta = Real{2} * std::numbers::pi_v<Real> * uniforms[i + kHalf];
    values[i] = T(radius * std::cos(theta));
    values[i + kHalf] = T(radius * std::sin(theta));
  }
}

// When the blocks do not come out even, the last 16 are drawn again. By then float32 and float64 have spent one draw on
// every element, bfloat16 only on those of whole blocks.
template <class T>
void fill_normal_blocks(Generator& generator, T* values, int64_t count) {
  for (int64_t i = 0; i + kBlock <= count; i += kBlock) normal_block(generator, values + i);
  const int64_t rest = count % kBlock;
  if (rest == 0) return;
  if constexpr (std::is_same_v<T, RealOf<T>>)
    for (int64_t i = 0; i < rest; ++i) (void)uniform<T>(generator);
  normal_block(generator, values + count - kBlock);
}

}  // namespace

Tensor Generator::randn(const Shape& shape, DType dtype) {
  Tensor result = Tensor::empty(shape, dtype);
  const int64_t count = result.numel();
  const auto scalar_normal = [this] {
    if (state_->next_normal) return *std::exchange(state_->next_normal, std::nullopt);
    const double u1 = uniform<double>(*this);
    const double u2 = uniform<double>(*this);
    const double radius = std::sqrt(-2.0 * std::log1p(-u2));
    const double theta = 2.0 * std::numbers::pi * u1;
    state_->next_normal = radius * std::sin(theta);
    return radius * std::cos(theta);
  };
  const auto fill = [&]<class T>(T* values) {
    if (count >= kBlock) return fill_normal_blocks(*this, values, count);
    for (int64_t i = 0; i < count; ++i) {
      if constexpr (std::is_same_v<T, double>)
        values[i] = scalar_normal();
      else
        values[i] = T(static_cast<float>(scalar_normal()));
    }
  };
  switch (dtype) {
    case DType::float64: fill(result.data<double>()); return result;
    case DType::float32: fill(result.data<float>()); return result;
    case DType::bfloat16: fill(result.data<bfloat16>()); return result;
    default: break;
  }
  raise({.code = ErrorCode::unsupported,
         .what = "randn of this element type",
         .found = std::string(name_of(dtype)),
         .expected = "float64, float32 or bfloat16"});
}

Tensor Generator::rand(const Shape& shape, DType dtype) {
  Tensor result = Tensor::empty(shape, dtype);
  switch (dtype) {
    case DType::float64: fill_uniform(*this, result.data<double>(), result.numel()); return result;
    case DType::float32: fill_uniform(*this, result.data<float>(), result.numel()); return result;
    case DType::bfloat16: fill_uniform(*this, result.data<bfloat16>(), result.numel()); return result;
    default: break;
  }
  raise({.code = ErrorCode::unsupported,
         .what = "rand of this element type",
         .found = std::string(name_of(dtype)),
         .expected = "float64, float32 or bfloat16"});
}

}  // namespace raedit
