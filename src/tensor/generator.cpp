// Random numbers in torch's order. Re-implemented from the published algorithms: MT19937 (Matsumoto and Nishimura
// 1998), Box-Muller (1958), and the way torch's CPU generator spends the bits
// (aten/src/ATen/core/TransformationHelper.h, native/cpu/DistributionTemplates.h): 24 bits for a float32 uniform, 53 of
// a 64-bit draw for float64, 8 bits for a bfloat16 of its own. Which of the two ways to bfloat16: Bfloat16Draws.
#include "raedit/generator.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "core/check.h"
#include "tensor/cuda_random.h"

namespace raedit {

struct Generator::State {
  std::optional<CudaRandom> cuda = {};  // all numbers come from it, and the rest is for the CPU generator
  std::mt19937 engine;
  // The scalar path makes two numbers at a time and keeps the second, across calls and until the next manual_seed.
  std::optional<double> next_normal;
  Bfloat16Draws bfloat16_draws = Bfloat16Draws::rounded;
};

Generator::Generator(uint64_t seed, Bfloat16Draws bfloat16_draws) : state_(std::make_unique<State>()) {
  state_->bfloat16_draws = bfloat16_draws;
  manual_seed(seed);
}
Generator::Generator(uint64_t seed, const RandomStream& stream) : Generator(seed) {
  if (stream.gpu) state_->cuda.emplace(seed, *stream.gpu);
}
Generator::Generator(const Generator& other)
    : state_(other.state_ == nullptr ? nullptr : std::make_unique<State>(*other.state_)) {}
Generator& Generator::operator=(const Generator& other) {
  return *this = Generator(other);
}
Generator::Generator(Generator&&) noexcept = default;
Generator& Generator::operator=(Generator&&) noexcept = default;
Generator::~Generator() = default;

void Generator::manual_seed(uint64_t seed) {
  state_->engine.seed(static_cast<uint32_t>(seed));  // the engine has 32 bits of seed: torch drops the others too
  state_->next_normal.reset();
  if (state_->cuda) state_->cuda->manual_seed(seed);
}

uint32_t Generator::random() {
  RAEDIT_CHECK(!state_->cuda, {.code = ErrorCode::unsupported,
                               .what = "torch's CUDA generator has no stream of integers",
                               .hint = "rand and randn draw from it"});
  return static_cast<uint32_t>(state_->engine());
}

uint64_t Generator::random64() {
  const uint64_t high = random();
  return (high << 32) | random();
}

namespace {

constexpr int64_t kBlock = 16;  // torch's blocked path, and the size from which it is taken

// Uniform in [0, 1) with as many bits as T has digits.
template <class T>
T uniform(Generator& generator) {
  if constexpr (std::is_same_v<T, double>)
    return static_cast<double>(generator.random64() & ((uint64_t{1} << 53) - 1)) * 0x1p-53;
  else if constexpr (std::is_same_v<T, float>)
    return static_cast<float>(generator.random() & ((1u << 24) - 1u)) * 0x1p-24f;
  else
    return T(static_cast<float>(generator.random() & ((1u << 8) - 1u)) * 0x1p-8f);
}

// 1, where a uniform number was rounded up to the end that is not in [0, 1), becomes 0.
bfloat16 below_one(bfloat16 value) {
  return static_cast<float>(value) == 1.0f ? bfloat16(0.0f) : value;
}

bfloat16 rounded_uniform(Generator& generator) {
  return below_one(bfloat16(uniform<float>(generator)));
}

template <class T>
void fill(T* values, int64_t count, T (*draw)(Generator&), Generator& generator) {
  for (int64_t i = 0; i < count; ++i) values[i] = draw(generator);
}

// Box-Muller over one block of uniform numbers: i and i + 8 become normal numbers i and i + 8.
template <class T>
void normal_block(Generator& generator, T* values) {
  constexpr int64_t kHalf = kBlock / 2;
  fill(values, kBlock, uniform<T>, generator);
  for (int64_t i = 0; i < kHalf; ++i) {
    const T u1 = T{1} - values[i];  // (0, 1]: the logarithm is finite
    const T radius = std::sqrt(T{-2} * std::log(u1));
    const T theta = T{2} * std::numbers::pi_v<T> * values[i + kHalf];
    values[i] = radius * std::cos(theta);
    values[i + kHalf] = radius * std::sin(theta);
  }
}

void rounded_normal_block(Generator& generator, bfloat16* values) {
  std::array<float, kBlock> normals;
  normal_block(generator, normals.data());
  std::transform(normals.begin(), normals.end(), values, [](float normal) { return bfloat16(normal); });
}

// Every result is rounded to bfloat16 before it is used.
void native_normal_block(Generator& generator, bfloat16* values) {
  constexpr int64_t kHalf = kBlock / 2;
  const auto rounded = [](float value) { return static_cast<float>(bfloat16(value)); };
  fill(values, kBlock, uniform<bfloat16>, generator);
  for (int64_t i = 0; i < kHalf; ++i) {
    const float u1 = 1.0f - static_cast<float>(values[i]);
    const auto u2 = static_cast<double>(static_cast<float>(values[i + kHalf]));
    const float radius = rounded(std::sqrt(-2.0f * rounded(std::log(u1))));
    const float theta = rounded(static_cast<float>(2.0 * std::numbers::pi * u2));
    values[i] = bfloat16(radius * rounded(std::cos(theta)));
    values[i + kHalf] = bfloat16(radius * rounded(std::sin(theta)));
  }
}

// When the blocks do not come out even, the last 16 are drawn again. By then one draw was spent on every element
// (`skip` for the others), but for rounded bfloat16, which spends them on whole blocks only.
template <class T>
void fill_normal_blocks(Generator& generator, T* values, int64_t count, void (*block)(Generator&, T*),
                        T (*skip)(Generator&)) {
  for (int64_t i = 0; i + kBlock <= count; i += kBlock) block(generator, values + i);
  const int64_t rest = count % kBlock;
  if (rest == 0) return;
  for (int64_t i = 0; skip != nullptr && i < rest; ++i) (void)skip(generator);
  block(generator, values + count - kBlock);
}

}  // namespace

Tensor Generator::cuda_numbers(const Shape& shape, DType dtype, bool normal) {
  constexpr int64_t kMostBytes = int64_t{1} << 31;
  RAEDIT_CHECK(dtype == DType::float32 || dtype == DType::bfloat16,
               {.code = ErrorCode::unsupported,
                .what = "numbers of this element type from torch's CUDA generator",
                .found = std::string(name_of(dtype)),
                .expected = "float32 or bfloat16"});
  RAEDIT_CHECK(shape.numel() <= kMostBytes / static_cast<int64_t>(size_of(dtype)),
               {.code = ErrorCode::unsupported,
                .what = "torch draws tensors beyond 2^31 bytes in parts on a GPU",
                .found = shape.str(),
                .hint = "draw fewer at a time"});
  const Tensor numbers = Tensor::empty(shape, DType::float32);
  const std::span<float> values(numbers.data<float>(), static_cast<size_t>(numbers.numel()));
  if (normal) {
    state_->cuda->fill_normal(values);
    return numbers.to(dtype);
  }
  state_->cuda->fill_uniform(values);
  if (dtype == DType::float32) return numbers;
  const Tensor rounded = numbers.to(dtype);
  for (bfloat16& value : std::span<bfloat16>(rounded.data<bfloat16>(), values.size())) value = below_one(value);
  return rounded;
}

Tensor Generator::randn(const Shape& shape, DType dtype) {
  if (state_->cuda) return cuda_numbers(shape, dtype, true);
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
  const auto draw = [&]<class T>(T* values, void (*block)(Generator&, T*), T (*skip)(Generator&)) {
    if (count >= kBlock) return fill_normal_blocks(*this, values, count, block, skip);
    for (int64_t i = 0; i < count; ++i) {
      if constexpr (std::is_same_v<T, double>)
        values[i] = scalar_normal();
      else
        values[i] = T(static_cast<float>(scalar_normal()));
    }
  };
  const bool native = state_->bfloat16_draws == Bfloat16Draws::native;
  switch (dtype) {
    case DType::float64: draw(result.data<double>(), normal_block<double>, uniform<double>); return result;
    case DType::float32: draw(result.data<float>(), normal_block<float>, uniform<float>); return result;
    case DType::bfloat16:
      draw(result.data<bfloat16>(), native ? native_normal_block : rounded_normal_block,
           native ? uniform<bfloat16> : nullptr);
      return result;
    default: break;
  }
  raise({.code = ErrorCode::unsupported,
         .what = "randn of this element type",
         .found = std::string(name_of(dtype)),
         .expected = "float64, float32 or bfloat16"});
}

Tensor Generator::rand(const Shape& shape, DType dtype) {
  if (state_->cuda) return cuda_numbers(shape, dtype, false);
  Tensor result = Tensor::empty(shape, dtype);
  const bool native = state_->bfloat16_draws == Bfloat16Draws::native;
  switch (dtype) {
    case DType::float64: fill(result.data<double>(), result.numel(), uniform<double>, *this); return result;
    case DType::float32: fill(result.data<float>(), result.numel(), uniform<float>, *this); return result;
    case DType::bfloat16:
      fill(result.data<bfloat16>(), result.numel(), native ? uniform<bfloat16> : rounded_uniform, *this);
      return result;
    default: break;
  }
  raise({.code = ErrorCode::unsupported,
         .what = "rand of this element type",
         .found = std::string(name_of(dtype)),
         .expected = "float64, float32 or bfloat16"});
}

}  // namespace raedit
