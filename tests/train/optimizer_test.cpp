// AdamW, clipping and the moving average against float64 written out, for any number of threads the same bits.
#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "raedit/generator.h"
#include "tensor/memory.h"
#include "test_device.h"
#include "train/flow_matching.h"
#include "unit/expect_error.h"

namespace raedit {
namespace {

using namespace train;

constexpr int64_t kCount = 20011;  // more than one piece of work, and not a multiple of one

Tensor random(uint64_t seed, double scale = 1.0) {
  Tensor t = Generator(seed).randn({kCount});
  for (int64_t i = 0; i < kCount; ++i) t.data<float>()[i] *= static_cast<float>(scale);
  return t;
}

std::vector<float> trained(int threads) {
  const Context ctx = test::test_context(threads);
  const auto memory = ctx.kernels().memory();
  Optimizer optimizer(ctx.kernels(), {copy_to(random(1), memory)}, {{0.9, 0.95, 1e-8, 0.01}, 1.0, 0.9, true});
  for (uint64_t step = 0; step < 5; ++step) {
    optimizer.gradients()[0].copy_from(random(10 + step, 0.1));
    EXPECT_TRUE(optimizer.step(ctx.kernels(), 1e-3).finite);
  }
  std::vector<float> result = optimizer.parameters()[0].to_vector<float>();
  EXPECT_EQ(optimizer.rounded()[0].to_vector<float>(),
            optimizer.parameters()[0].to(DType::bfloat16).to_vector<float>());
  for (const float x : optimizer.averages()[0].to_vector<float>()) result.push_back(x);
  return result;
}

TEST(AdamW, IsTheFormulaInFloat64) {
  std::vector<double> p = random(1).to_vector<double>(), m(kCount), v(kCount), average = p;
  for (uint64_t step = 0; step < 5; ++step) {
    std::vector<double> g = random(10 + step, 0.1).to_vector<double>();
    double norm = 0;
    for (const double x : g) norm += x * x;
    const double scale = std::min(1.0, 1.0 / (std::sqrt(norm) + 1e-6));
    const double t = static_cast<double>(step) + 1;
    for (size_t i = 0; i < p.size(); ++i) {
      const double gi = g[i] * scale;
      m[i] = 0.9 * m[i] + 0.1 * gi;
      v[i] = 0.95 * v[i] + 0.05 * gi * gi;
      const double denominator = std::sqrt(v[i] / (1 - std::pow(0.95, t))) + 1e-8;
      p[i] = p[i] * (1 - 1e-3 * 0.01) - 1e-3 * (m[i] / (1 - std::pow(0.9, t))) / denominator;
      average[i] = 0.9 * average[i] + 0.1 * p[i];
    }
  }
  const std::vector<float> found = trained(2);
  for (size_t i = 0; i < p.size(); ++i) {
    // Five steps of 1e-3; a quotient of nearly equal numbers keeps float32's precision relative to the step.
    ASSERT_NEAR(found[i], p[i], 1e-6 * std::max(1.0, std::abs(p[i]))) << i;
    ASSERT_NEAR(found[p.size() + i], average[i], 1e-6 * std::max(1.0, std::abs(average[i]))) << i;
  }
}

TEST(AdamW, DoesNotDependOnTheNumberOfThreads) {
  const std::vector<float> one = trained(1);
  for (const int threads : {2, 3}) {
    const std::vector<float> more = trained(threads);
    EXPECT_EQ(std::memcmp(one.data(), more.data(), one.size() * sizeof(float)), 0) << threads;
  }
}

TEST(AdamW, ShrinksOnlyWhatDecays) {
  const Context ctx = test::test_context();
  const auto memory = ctx.kernels().memory();
  const auto two_steps = [&](double decay, std::vector<bool> decays) {
    std::vector<Tensor> parameters;
    for (uint64_t i = 0; i < 3; ++i) parameters.push_back(copy_to(random(1 + i), memory));
    Optimizer optimizer(ctx.kernels(), parameters, {.adamw = {0.9, 0.95, 1e-8, decay}, .decays = std::move(decays)});
    std::vector<std::vector<float>> values;
    for (uint64_t step = 0; step < 2; ++step) {
      for (uint64_t i = 0; i < 3; ++i) optimizer.gradients()[i].copy_from(random(10 * step + i, 0.1));
      EXPECT_TRUE(optimizer.step(ctx.kernels(), 1e-2).finite);
    }
    for (const Tensor& parameter : parameters) values.push_back(parameter.to_vector<float>());
    return values;
  };
  // The norm is of all gradients in any case.
  const auto all = two_steps(0.5, {}), none = two_steps(0, {}), second = two_steps(0.5, {false, true, false});
  EXPECT_EQ(two_steps(0.5, {true, true, true}), all);
  EXPECT_EQ(two_steps(0.5, {false, false, false}), none);
  EXPECT_NE(all[1], none[1]);
  EXPECT_EQ(second[0], none[0]);
  EXPECT_EQ(second[1], all[1]);
  EXPECT_EQ(second[2], none[2]);
}

TEST(MovingAverage, WarmsUp) {
  const Context ctx = test::test_context();
  const auto memory = ctx.kernels().memory();
  Optimizer optimizer(ctx.kernels(), {copy_to(random(1), memory)}, {.ema_decay = 0.35, .ema_warmup = true});
  std::vector<double> average = optimizer.parameters()[0].to_vector<double>();
  for (uint64_t step = 1; step <= 6; ++step) {
    optimizer.gradients()[0].copy_from(random(10 + step, 0.1));
    optimizer.step(ctx.kernels(), 0.1);
    const auto t = static_cast<double>(step);
    const double decay = std::min(0.35, (1 + t) / (10 + t));  // 2/11, 3/12, 4/13, then 0.35
    const auto value = optimizer.parameters()[0].to_vector<double>(),
               found = optimizer.averages()[0].to_vector<double>();
    for (size_t i = 0; i < average.size(); ++i) {
      average[i] = decay * average[i] + (1 - decay) * value[i];
      ASSERT_NEAR(found[i], average[i], 1e-6 * std::max(1.0, std::abs(average[i]))) << step;
    }
  }
}

TEST(AdamW, RefusesOptionsOutOfRange) {
  const Context ctx = test::test_context();
  const auto make = [&](const OptimizerOptions& options) { return Optimizer(ctx.kernels(), {}, options); };
  EXPECT_RAEDIT_ERROR(make({.adamw = {1.0, 0.9}}), ErrorCode::invalid_argument, "beta1", "found 1");
  EXPECT_RAEDIT_ERROR(make({.adamw = {0.9, -0.1}}), ErrorCode::invalid_argument, "beta2");
  EXPECT_RAEDIT_ERROR(make({.adamw = {0.9, 0.9, NAN}}), ErrorCode::invalid_argument, "eps");
  EXPECT_RAEDIT_ERROR(make({.adamw = {0.9, 0.9, 1e-8, -1}}), ErrorCode::invalid_argument, "weight_decay");
  EXPECT_RAEDIT_ERROR(make({.ema_decay = 1.5}), ErrorCode::invalid_argument, "1.5");
}

// Gradients of length 10 over parameters of one, without moments of the past: the first step goes by lr * g / (|g| +
// eps), which tells what eps, and so what g, was.
TEST(Clipping, ScalesOnlyWhatIsLonger) {
  const Context ctx = test::test_context(2);
  const auto moved = [&](double max_norm, double expected_scale) {
    const auto memory = ctx.kernels().memory();
    Optimizer optimizer(ctx.kernels(), {zeros_on(memory, {4}), zeros_on(memory, {16})},
                        {{0.9, 0.95, 1.0, 0.0}, max_norm});
    optimizer.gradients()[0].copy_from(Tensor::full({4}, 3.0f));
    optimizer.gradients()[1].copy_from(Tensor::full({16}, 2.0f));
    const Optimizer::Result result = optimizer.step(ctx.kernels(), 0.1);
    EXPECT_DOUBLE_EQ(result.grad_norm, 10.0);
    EXPECT_EQ(optimizer.steps(), 1);
    for (const size_t i : {0u, 1u}) {
      const double g = (i == 0 ? 3.0 : 2.0) * expected_scale;
      for (const double x : optimizer.parameters()[i].to_vector<double>()) EXPECT_NEAR(x, -0.1 * g / (g + 1), 1e-7);
    }
  };
  moved(1.0, 1.0 / (10.0 + 1e-6));
  moved(20.0, 1.0);
  moved(0.0, 1.0);
  moved(-1.0, 1.0);
}

TEST(VelocityLoss, ItsGradientIsTheDifferenceQuotient) {
  Context ctx = test::test_context();
  const Tensor prediction = Generator(3).randn({3, 2, 5}), target = Generator(4).randn({3, 2, 5});
  const Tensor weights = Tensor::from(std::vector<float>{0.5f, 2.0f, 1.0f}, {3});
  const auto loss_of = [&](const Tensor& p, int64_t parts, Tensor* gradient = nullptr) {
    const Tensor sum = copy_to(Tensor::zeros({1}, DType::float64), ctx.kernels().memory());
    const Tensor found = velocity_loss(ctx, p, target, weights, parts, sum);
    if (gradient != nullptr) *gradient = found.cpu();
    return sum.cpu().item();
  };
  Tensor gradient, quarter;
  const double loss = loss_of(prediction, 1, &gradient);
  EXPECT_DOUBLE_EQ(loss_of(prediction, 4, &quarter), loss / 4);
  for (int64_t i = 0; i < prediction.numel(); ++i) {
    const auto moved = [&](float by) {
      const Tensor p = prediction.clone();
      p.data<float>()[i] += by;
      return loss_of(p, 1);
    };
    EXPECT_NEAR(gradient.data<float>()[i], (moved(1e-2f) - moved(-1e-2f)) / 2e-2, 1e-4) << i;
    EXPECT_FLOAT_EQ(quarter.data<float>()[i], gradient.data<float>()[i] / 4);
  }
  EXPECT_RAEDIT_ERROR(velocity_loss(ctx, prediction, target, Tensor::full({1}, 1.0f), 1, Tensor()),
                      ErrorCode::invalid_argument, "do not fit");
}

TEST(FlowMatching, IsTheFormula) {
  Context ctx = test::test_context();
  const Tensor z = Generator(3).randn({3, 2, 5}), n = Generator(4).randn({3, 2, 5});
  const std::vector<float> sigmas{0.25f, 0.0f, 0.7f};
  const FlowMatchingPair pair = flow_matching(ctx, z, n, Tensor::from(sigmas, {3}));
  const auto noisy = pair.noisy.to_vector<float>(), target = pair.target.to_vector<float>();
  for (size_t i = 0; i < noisy.size(); ++i) {
    const float sigma = sigmas[i / 10], zi = z.data<float>()[i], ni = n.data<float>()[i];
    const float a = sigma * ni, b = (1.0f - sigma) * zi;
    EXPECT_EQ(noisy[i], a + b);
    EXPECT_EQ(target[i], ni - zi);
  }
}

}  // namespace
}  // namespace raedit
