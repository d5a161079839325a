// Known answers, drawn with torch 2.15 (and 2.11) on a CPU; tests/parity/rng_test.cpp compares whole tensors.
#include "raedit/generator.h"

#include <cmath>

#include "expect_error.h"

namespace raedit {
namespace {

constexpr double kTolerance = 2e-6;  // float32 rounding of log, sin and cos

void expect_near(const Tensor& tensor, const std::vector<double>& expected, double tolerance = kTolerance) {
  const std::vector<double> values = tensor.to_vector<double>();
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], expected[i], tolerance) << "at " << i;
}

TEST(Generator, DrawsTheBitsOfMt19937) {
  Generator generator(42);
  EXPECT_EQ(generator.random(), 1608637542u);
  EXPECT_EQ(generator.random(), 3421126067u);
  Generator joined(42);
  EXPECT_EQ(joined.random64(), (uint64_t{1608637542u} << 32) | 3421126067u);
  // The C++ standard's own check value: the 10000th number of the default seed.
  Generator standard(5489);
  for (int i = 1; i < 10000; ++i) standard.random();
  EXPECT_EQ(standard.random(), 4123659995u);
}

TEST(Generator, SeedsWithThirtyTwoBits) {
  expect_near(Generator(5).rand({2}), {0.8302518725395203, 0.12611091136932373}, 0);
  expect_near(Generator((uint64_t{1} << 40) + 5).rand({2}), {0.8302518725395203, 0.12611091136932373}, 0);
}

TEST(Generator, AMovedFromOneIsAssignedTo) {
  Generator source(5), other(6);
  Generator moved = std::move(source);
  const Generator copy = source;
  source = other;
  EXPECT_EQ(source.random(), other.random());
  EXPECT_EQ(moved.random(), Generator(5).random());
  other = copy;
  other = Generator(7);
  EXPECT_EQ(other.random(), Generator(7).random());
}

TEST(Generator, FewNormalsKeepTheSecondOfAPair) {
  Generator generator(0);
  expect_near(generator.randn({3}), {1.5409960746765137, -0.293428897857666, -2.1787893772125244});
  expect_near(generator.randn({2}),
              {0.5684312582015991, -1.0845223665237427});  // the first was kept from the last call
  expect_near(generator.rand({2}), {0.022325754165649414, 0.16885894536972046}, 0);
  expect_near(generator.randn({2}), {-1.3985954523086548, -0.7830641269683838});  // as was this one
}

TEST(Generator, SeedingForgetsTheKeptNumber) {
  Generator generator(42);
  const std::vector<float> first = generator.randn({5}).to_vector<float>();
  generator.manual_seed(42);
  EXPECT_EQ(generator.randn({5}).to_vector<float>(), first);
  EXPECT_NEAR(first[4], -1.1228563785552979, kTolerance);
}

TEST(Generator, ManyNormalsComeInBlocksWithTheTailDrawnAgain) {
  Generator generator(7);
  expect_near(
      generator.randn({4, 5}),
      {-0.8201345205307007,  0.39563116431236267, 0.8989084959030151,  -1.3884038925170898, 0.19844505190849304,
       0.7820726633071899,   1.0391076803207397,  -0.7245107293128967, -0.8489086031913757, -1.2169294357299805,
       -0.08102158457040787, 1.3614851236343384,  -2.0614778995513916, 0.6741006970405579,  -1.3233457803726196,
       -1.3597689867019653,  -0.866701602935791,  -0.5640066862106323, -2.056462526321411,  -0.35672253370285034});
  expect_near(generator.rand({1}), {0.38874197006225586}, 0);
}

TEST(Generator, Bfloat16NormalsSpendNoDrawsOnTheTail) {
  Generator generator(7);
  expect_near(generator.randn({20}, DType::bfloat16),
              {-0.8203125,   0.396484375,  0.8984375, -1.390625,  -1.5859375,  -0.32421875,  1.9296875,
               -0.330078125, 0.1982421875, 0.78125,   1.0390625,  -0.72265625, -0.208984375, -0.2158203125,
               -1.8125,      -0.345703125, -2.0625,   0.67578125, -1.3203125,  -1.359375},
              0);
  expect_near(generator.rand({1}), {0.6266505718231201}, 0);
}

TEST(Generator, RoundedBfloat16NormalsAreTheFloat32OnesOfTheSeed) {
  for (const int64_t count : {7, 16, 3 * 8 * 8}) {
    const Tensor wide = Generator(5).randn({count});
    EXPECT_EQ(Generator(5).randn({count}, DType::bfloat16).to_vector<float>(),
              wide.to(DType::bfloat16).to_vector<float>());
  }
}

// torch 2.11: randn(40, dtype=bfloat16) of seed 42, its first and last four.
TEST(Generator, NativeBfloat16IsRoundedThroughout) {
  Generator generator(42, Bfloat16Draws::native);
  const std::vector<float> values = generator.randn({40}, DType::bfloat16).to_vector<float>();
  expect_near(Tensor::from(std::vector<float>(values.begin(), values.begin() + 4), {4}),
              {-0.80859375, -1.53125, 0.40625, 0.171875}, 0);
  expect_near(Tensor::from(std::vector<float>(values.end() - 4, values.end()), {4}),
              {1.8515625, 0.80078125, 1.765625, -0.103515625}, 0);
  // 40 draws and 16 more for the tail: the next is the 57th.
  Generator counted(42);
  for (int i = 0; i < 56; ++i) counted.random();
  EXPECT_EQ(generator.random(), counted.random());

  float largest = 0;
  for (const float value : generator.randn({100'000}, DType::bfloat16).to_vector<float>())
    largest = std::max(largest, std::abs(value));
  EXPECT_EQ(largest, 3.328125f);  // sqrt(-2 log(1/256)): all that 8 bits can reach
}

TEST(Generator, NativeBfloat16UniformsHaveEightBits) {
  Generator generator(7, Bfloat16Draws::native), bits(7);
  for (const float value : generator.rand({1000}, DType::bfloat16).to_vector<float>())
    ASSERT_EQ(value, static_cast<float>(bits.random() % 256) / 256.0f);
}

TEST(Generator, TheWayToBfloat16TouchesNothingElse) {
  Generator native(3, Bfloat16Draws::native), rounded(3);
  for (const DType dtype : {DType::float32, DType::float64}) {
    EXPECT_EQ(native.randn({37}, dtype).to_vector<double>(), rounded.randn({37}, dtype).to_vector<double>());
    EXPECT_EQ(native.rand({5}, dtype).to_vector<double>(), rounded.rand({5}, dtype).to_vector<double>());
  }
  native.manual_seed(3);  // keeps its way, as does a copy
  const Generator copy = native;
  EXPECT_EQ(Generator(copy).randn({40}, DType::bfloat16).to_vector<float>(),
            Generator(3, Bfloat16Draws::native).randn({40}, DType::bfloat16).to_vector<float>());
}

TEST(Generator, Float64NormalsUseTwoDrawsEach) {
  Generator generator(7);
  const std::vector<double> values = generator.randn({20}, DType::float64).to_vector<double>();
  EXPECT_NEAR(values[0], 0.06626753966449943, 1e-14);
  EXPECT_NEAR(values[7], 0.7277603478716976, 1e-14);
  EXPECT_NEAR(values[8], -1.3131496578292892, 1e-14);
  EXPECT_NEAR(values[15], 0.45257550210102954, 1e-14);
  EXPECT_NEAR(values[16], -1.6677291342328766, 1e-14);
  EXPECT_NEAR(values[19], 0.6596523264462502, 1e-14);
  expect_near(generator.rand({1}), {0.7737615704536438}, 0);
}

TEST(Generator, UniformsOfOtherTypes) {
  Generator generator(7);
  expect_near(generator.rand({4}, DType::bfloat16), {0.53515625, 0.19921875, 0.66015625, 0.65625}, 0);
  expect_near(generator.rand({2}, DType::float64), {0.8620929614176255, 0.6566884305882014}, 0);
}

TEST(Generator, UniformsStayBelowOne) {
  Generator generator(1);
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const float value : generator.rand({20000}, dtype).to_vector<float>()) {
      ASSERT_GE(value, 0.0f);
      ASSERT_LT(value, 1.0f);  // one bfloat16 in 512 would round up to 1
    }
  }
}

TEST(Generator, NormalsAreFiniteAndStandard) {
  double sum = 0, squares = 0;
  const std::vector<float> values = Generator(3).randn({200'000}).to_vector<float>();
  for (const float value : values) {
    ASSERT_TRUE(std::isfinite(value));
    sum += value;
    squares += double{value} * value;
  }
  const auto count = static_cast<double>(values.size());
  EXPECT_NEAR(sum / count, 0.0, 0.01);  // 4.5 standard errors
  EXPECT_NEAR(squares / count, 1.0, 0.015);
}

TEST(Generator, CopiesContinueOnTheirOwn) {
  Generator original(11);
  original.randn({3});  // leaves a kept number behind
  Generator copy = original;
  const std::vector<float> expected = original.randn({20}).to_vector<float>();
  original.randn({5});
  EXPECT_EQ(copy.randn({20}).to_vector<float>(), expected);
  Generator moved = std::move(copy);
  copy = Generator(11);
  copy.randn({3});
  EXPECT_EQ(copy.randn({20}).to_vector<float>(), expected);
  EXPECT_EQ(moved.randn({5}).numel(), 5);
}

TEST(Generator, DrawsNothingForEmptyShapesAndRefusesIntegers) {
  Generator generator(42);
  EXPECT_EQ(generator.randn({0, 3}).numel(), 0);
  EXPECT_EQ(generator.random(), 1608637542u);
  EXPECT_RAEDIT_ERROR(generator.randn({2}, DType::int32), ErrorCode::unsupported, "int32", "bfloat16");
  EXPECT_RAEDIT_ERROR(generator.rand({2}, DType::bool8), ErrorCode::unsupported, "bool");
}

}  // namespace
}  // namespace raedit
