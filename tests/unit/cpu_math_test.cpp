// The CPU's vector math against double over dense sweeps of float32, and the cap RAEDIT_FORCE_ISA. This file is itself
// compiled once per Highway target, so it can call the vector functions and see which target the dispatch picks.
#include <gtest/gtest.h>

#include "backend/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "unit/cpu_math_test.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

int64_t dispatched_target() {
  return HWY_TARGET;
}

void exp_row(const float* x, float* out, size_t n) {
  map(
      n, out, [](FloatVec v) { return exp(v); }, x);
}

// erf(x / sqrt 2), with x's sign, from the lower half of the normal distribution: 1 - 2 Phi(-|x|)
void erf_row(const float* x, float* out, size_t n) {
  const auto erf = [](FloatVec v) {
    FloatVec density = v;
    const auto tail = normal_cdf(hn::Neg(hn::Abs(v)), density);
    return hn::CopySign(hn::Sub(hn::Set(FloatTag(), 1.0f), hn::Add(tail, tail)), v);
  };
  map(n, out, erf, x);
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/isa.h"
#include "raedit/error.h"
#include "unit/expect_error.h"

namespace raedit::backend::cpu {

HWY_EXPORT(dispatched_target);
HWY_EXPORT(exp_row);
HWY_EXPORT(erf_row);

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Every `step`-th float32 in [-limit, limit], both zeros included.
std::vector<float> sweep(float limit, uint32_t step) {
  std::vector<float> values;
  for (uint32_t bits = 0; bits <= std::bit_cast<uint32_t>(limit); bits += step) {
    values.push_back(std::bit_cast<float>(bits));
    values.push_back(-values.back());
  }
  return values;
}

// The error in units of the last place of `expected`; results below the smallest normal float32 count as that one.
double ulps(float value, double expected) {
  const double magnitude = std::max(std::abs(expected), static_cast<double>(FLT_MIN));
  return std::abs(static_cast<double>(value) - expected) / std::ldexp(1.0, std::ilogb(magnitude) - 23);
}

std::vector<float> activate(Activation kind, const std::vector<float>& x) {
  const auto kernels = make_cpu_kernels(1);
  const Shape shape{static_cast<int64_t>(x.size())};
  const Tensor out = Tensor::empty(shape, DType::float32);
  kernels->activation(kind, Tensor::from(x, shape), out);
  return out.to_vector<float>();
}

std::vector<float> gradient(Activation kind, const std::vector<float>& x) {
  const auto kernels = make_cpu_kernels(1);
  const Shape shape{static_cast<int64_t>(x.size())};
  const Tensor dx = Tensor::zeros(shape, DType::float32);
  kernels->activation_backward(kind, Tensor::full(shape, 1.0f), Tensor::from(x, shape), dx);
  return dx.to_vector<float>();
}

double silu(double x) {
  return x / (1 + std::exp(-x));
}
double normal_cdf(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0));
}
double gelu(double x) {
  return x * normal_cdf(x);
}
double tanh_argument(double x) {
  return std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
}
// (1 + tanh u) / 2 without its cancellation
double gelu_tanh(double x) {
  return x / (1 + std::exp(-2 * tanh_argument(x)));
}

double silu_gradient(double x) {
  const double s = 1 / (1 + std::exp(-x));
  return s * (1 + x * (1 - s));
}
double gelu_gradient(double x) {
  return normal_cdf(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
}
double gelu_tanh_gradient(double x) {
  const double t = std::tanh(tanh_argument(x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

void expect_ulps(const std::vector<float>& x, const std::vector<float>& y, double (*expected)(double), double bound) {
  double worst = 0;
  float where = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = ulps(y[i], expected(x[i]));
    if (!(error <= worst)) {  // NaN too
      worst = error;
      where = x[i];
    }
  }
  ::testing::Test::RecordProperty("worst_ulps", std::to_string(worst));
  EXPECT_LE(worst, bound) << "at " << where << ", " << isa_name();
}

void expect_absolute(const std::vector<float>& x, const std::vector<float>& y, double (*expected)(double),
                     double bound) {
  for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(y[i], expected(x[i]), bound) << "at " << x[i];
}

TEST(CpuMath, ExpIsExactToTheLastPlace) {
  ensure_isa();
  const std::vector<float> x = sweep(88.7f, 997);
  std::vector<float> y(x.size());
  HWY_DYNAMIC_DISPATCH(exp_row)(x.data(), y.data(), x.size());
  expect_ulps(
      x, y, [](double v) { return std::exp(v); }, 1.5);
}

TEST(CpuMath, ExpHasTheRightLimits) {
  ensure_isa();
  const std::vector<float> x = {-kInfinity, -FLT_MAX, -105, 88.8f, FLT_MAX, kInfinity, 0, kNaN};
  std::vector<float> y(x.size());
  HWY_DYNAMIC_DISPATCH(exp_row)(x.data(), y.data(), x.size());
  const std::vector<float> expected = {0, 0, 0, kInfinity, kInfinity, kInfinity, 1};
  EXPECT_EQ(std::vector<float>(y.begin(), y.end() - 1), expected);
  EXPECT_TRUE(std::isnan(y.back()));
}

TEST(CpuMath, ErfIsAccurate) {
  ensure_isa();
  const std::vector<float> x = sweep(20, 997);
  std::vector<float> y(x.size());
  HWY_DYNAMIC_DISPATCH(erf_row)(x.data(), y.data(), x.size());
  expect_absolute(
      x, y, [](double v) { return std::erf(v / std::sqrt(2.0)); }, 2e-7);
}

TEST(CpuMath, SiluIsAccurate) {
  std::vector<float> x = sweep(87, 997);
  expect_ulps(x, activate(Activation::silu, x), silu, 3.5);
  x = sweep(200, 997);  // e^x becomes subnormal
  expect_absolute(x, activate(Activation::silu, x), silu, 200 * 1.2e-7);
  for (float& value : x) value = -std::abs(value) - 87;
  expect_absolute(x, activate(Activation::silu, x), silu, 1e-42);
}

TEST(CpuMath, GeluIsAccurate) {
  // Without fused multiply-add the rounding of x^2 is not made good: half a unit of 156, in the exponent.
  const double bound = isa_name() == "sse2" ? 64 : 4.5;
  std::vector<float> x = sweep(12.5f, 997);
  expect_ulps(x, activate(Activation::gelu, x), gelu, bound);
  x = sweep(200, 997);
  expect_absolute(x, activate(Activation::gelu, x), gelu, 200 * 1.2e-7);
  for (float& value : x) value = -std::abs(value) - 12.5f;
  expect_absolute(x, activate(Activation::gelu, x), gelu, 1e-39);
}

TEST(CpuMath, GeluTanhIsAccurate) {
  // Its argument is rounded before the exponential, which multiplies the error by up to 2 u.
  const std::vector<float> x = sweep(200, 997);
  const std::vector<float> y = activate(Activation::gelu_tanh, x);
  expect_absolute(x, y, gelu_tanh, 200 * 1.2e-7);
  expect_ulps(x, y, gelu_tanh, 200);
  std::vector<float> near, near_y;
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::abs(x[i]) > 1) continue;
    near.push_back(x[i]);
    near_y.push_back(y[i]);
  }
  expect_ulps(near, near_y, gelu_tanh, 6);
}

TEST(CpuMath, GradientsOfActivationsAreAccurate) {
  const std::vector<float> x = sweep(200, 9973);
  expect_absolute(x, gradient(Activation::silu, x), silu_gradient, 8e-7);
  expect_absolute(x, gradient(Activation::gelu, x), gelu_gradient, 8e-7);
  expect_absolute(x, gradient(Activation::gelu_tanh, x), gelu_tanh_gradient, 8e-7);
}

TEST(CpuMath, ActivationsOfHugeValuesAreTheirLimits) {
  const std::vector<float> x = {-FLT_MAX, -1e30f, -1000, FLT_MAX, 1e30f, 1000};
  for (const Activation kind : {Activation::silu, Activation::gelu, Activation::gelu_tanh}) {
    EXPECT_EQ(activate(kind, x), (std::vector<float>{0, 0, 0, FLT_MAX, 1e30f, 1000}));  // -0 is 0
    EXPECT_EQ(gradient(kind, x), (std::vector<float>{0, 0, 0, 1, 1, 1}));
    EXPECT_TRUE(std::isnan(activate(kind, {kNaN})[0]));
    EXPECT_TRUE(std::isnan(gradient(kind, {kNaN})[0]));
  }
}

TEST(CpuMath, AValueDoesNotDependOnItsPlace) {
  const std::vector<float> pool = sweep(30, 50000017);
  for (const Activation kind : {Activation::silu, Activation::gelu, Activation::gelu_tanh}) {
    for (const float value : pool) {
      const uint32_t alone = std::bit_cast<uint32_t>(activate(kind, {value})[0]);
      for (const size_t size : {2u, 7u, 16u, 33u, 67u}) {
        for (const float y : activate(kind, std::vector<float>(size, value)))
          ASSERT_EQ(std::bit_cast<uint32_t>(y), alone) << value << " in a row of " << size;
      }
    }
  }
}

TEST(CpuMath, Bfloat16RoundsToNearestEven) {
  std::vector<float> x = sweep(FLT_MAX, 99991);
  for (uint32_t upper = 0x3f80; upper < 0x3fa0; ++upper) {  // exact ties
    for (const uint32_t lower : {0x7fffu, 0x8000u, 0x8001u}) x.push_back(std::bit_cast<float>(upper << 16 | lower));
  }
  x.insert(x.end(),
           {kInfinity, -kInfinity, kNaN, std::bit_cast<float>(0x7f800001u), std::bit_cast<float>(0xffffffffu)});
  const Shape shape{static_cast<int64_t>(x.size())};
  const Tensor out = Tensor::empty(shape, DType::bfloat16);
  make_cpu_kernels(1)->activation(Activation::none, Tensor::from(x, shape), out);
  const auto* y = out.data<bfloat16>();
  for (size_t i = 0; i < x.size(); ++i)
    ASSERT_EQ(y[i].bits, bfloat16(x[i]).bits) << std::hex << std::bit_cast<uint32_t>(x[i]);
}

// ---- the instruction set. tests/unit/CMakeLists.txt runs this one once per value of RAEDIT_FORCE_ISA.

std::string best_of_this_machine() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return "avx512";
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? "avx2" : "sse2";
}

std::string name_of_target(int64_t target) {
  return target == HWY_AVX3 ? "avx512" : target == HWY_AVX2 ? "avx2" : "sse2";
}

TEST(CpuIsa, TheCapReachesEveryDispatchTable) {
  const char* variable = std::getenv("RAEDIT_FORCE_ISA");
  const std::string cap = variable == nullptr ? "" : variable;
  // Uses this file's table before the cap is read, as a program with Highway code of its own would.
  HWY_DYNAMIC_DISPATCH(dispatched_target)();
  if (cap == "bogus") {
    EXPECT_RAEDIT_ERROR(make_cpu_kernels(1), ErrorCode::invalid_argument, "RAEDIT_FORCE_ISA", "bogus");
    return;
  }
  const std::string best = best_of_this_machine();
  if (cap == "avx512" && best != "avx512") GTEST_SKIP() << "this processor has no AVX-512";
  if (cap == "avx2" && best == "sse2") GTEST_SKIP() << "this processor has no AVX2";
  const std::string expected = cap.empty() || cap == "amx" ? best : cap;
  const auto kernels = make_cpu_kernels(1);
  EXPECT_EQ(isa_name(), expected);
  EXPECT_EQ(name_of_target(HWY_DYNAMIC_DISPATCH(dispatched_target)()), expected);
  EXPECT_NE(kernels->description().find(expected), std::string::npos);
  EXPECT_TRUE(expected == "avx512" || !has_avx512_bf16());
  // Asking must not change what was picked.
  EXPECT_EQ(name_of_target(HWY_DYNAMIC_DISPATCH(dispatched_target)()), expected);
}

}  // namespace
}  // namespace raedit::backend::cpu

#endif  // HWY_ONCE
