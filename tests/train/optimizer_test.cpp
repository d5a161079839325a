// AdamW, clipping and the moving average against float64 written out, for any number of threads the same bits.
#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "backend/device/device.h"
#include "raedit/generator.h"
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
  const auto kernels = make_kernels({}, threads);
  AdamW adamw({random(1)}, {0.9, 0.95, 1e-8, 0.01});
  Ema ema(adamw.parameters(), 0.9);
  for (uint64_t step = 0; step < 5; ++step) {
    const std::vector<Tensor> gradients{random(10 + step, 0.1)};
    const double norm = global_norm(*kernels, gradients);
    adamw.step(*kernels, gradients, 1e-3, clip_scale(norm, 1.0));
    ema.update(*kernels);
  }
  std::vector<float> result = adamw.parameters()[0].to_vector<float>();
  for (const float x : ema.averages()[0].to_vector<float>()) result.push_back(x);
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

TEST(AdamW, RefusesOptionsOutOfRange) {
  EXPECT_RAEDIT_ERROR(AdamW({}, {1.0, 0.9}), ErrorCode::invalid_argument, "beta1", "found 1");
  EXPECT_RAEDIT_ERROR(AdamW({}, {0.9, -0.1}), ErrorCode::invalid_argument, "beta2");
  EXPECT_RAEDIT_ERROR(AdamW({}, {0.9, 0.9, NAN}), ErrorCode::invalid_argument, "eps");
  EXPECT_RAEDIT_ERROR(AdamW({}, {0.9, 0.9, 1e-8, -1}), ErrorCode::invalid_argument, "weight_decay");
  EXPECT_RAEDIT_ERROR(Ema({}, 1.5), ErrorCode::invalid_argument, "1.5");
}

TEST(Clipping, ScalesOnlyWhatIsLonger) {
  const auto kernels = make_kernels({}, 2);
  const std::vector<Tensor> gradients{Tensor::full({4}, 3.0f), Tensor::full({16}, 2.0f)};
  EXPECT_DOUBLE_EQ(global_norm(*kernels, gradients), 10.0);
  EXPECT_FLOAT_EQ(clip_scale(10.0, 1.0), 0.1f);
  EXPECT_EQ(clip_scale(0.5, 1.0), 1.0f);
  EXPECT_EQ(clip_scale(10.0, 0.0), 1.0f);
  EXPECT_EQ(clip_scale(10.0, -1.0), 1.0f);
}

TEST(VelocityLoss, ItsGradientIsTheDifferenceQuotient) {
  const Tensor prediction = Generator(3).randn({3, 2, 5}), target = Generator(4).randn({3, 2, 5});
  const std::vector<float> weights{0.5f, 2.0f, 1.0f};
  const LossAndGradient at = velocity_loss(prediction, target, weights);
  for (int64_t i = 0; i < prediction.numel(); ++i) {
    const auto loss = [&](float by) {
      const Tensor moved = prediction.clone();
      moved.data<float>()[i] += by;
      return velocity_loss(moved, target, weights).loss;
    };
    EXPECT_NEAR(at.gradient.data<float>()[i], (loss(1e-2f) - loss(-1e-2f)) / 2e-2, 1e-4) << i;
  }
  EXPECT_RAEDIT_ERROR(velocity_loss(prediction, target, std::vector<float>{1.0f}), ErrorCode::invalid_argument,
                      "do not fit");
}

}  // namespace
}  // namespace raedit
