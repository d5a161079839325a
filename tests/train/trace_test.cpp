// Twenty steps of training against PyTorch's (tests/parity/data/training): given latents, noise, times and labels;
// AdamW (lr 2e-3, betas 0.9 and 0.95, weight decay 0.01), gradients clipped to 1, cosine with 3 warm-up steps of 20,
// moving average with decay 0.9. Losses agree to 1e-5, gradient norms and parameters to 1e-4.
#include <gtest/gtest.h>

#include "io/safetensors.h"
#include "models/checkpoint.h"
#include "models/rae_dit_transformer.h"
#include "ops/tape.h"
#include "parity/agreement.h"
#include "train/flow_matching.h"
#include "train/lr_schedule.h"
#include "train/optimizer.h"

namespace raedit {
namespace {

using namespace train;

constexpr int64_t kSteps = 20;
const std::string kFolder = std::string(RAEDIT_TEST_DATA) + "/training";

struct Training {
  models::RaeDitTransformer model;
  std::vector<std::string> names;
  std::vector<Tensor> values;

  explicit Training(const Context& ctx)
      : model(models::parse_rae_dit_config(models::read_config(kFolder + "/initial", "RAEDiT2DModel"), kFolder)) {
    const auto parameters = models::named_parameters(model);
    models::load_parameters(parameters, SafetensorsSet::open(kFolder + "/initial"), DType::float32, ctx.kernels());
    model.complete();
    for (const auto& [name, parameter] : parameters) {
      if (!parameter->trained()) continue;
      nn::make_trainable(*parameter);
      names.push_back(name);
      values.push_back(parameter->value);
    }
  }
};

struct StepResult {
  double loss = 0;
  std::vector<Tensor> gradients;
};

StepResult forward_and_backward(Context& ctx, const Training& training, const SafetensorsFile& trace, int64_t step) {
  const std::string prefix = std::to_string(step) + ".";
  const Tensor latents = trace.tensor(prefix + "latents"), noise = trace.tensor(prefix + "noise");
  const Tensor times = trace.tensor(prefix + "t"), labels = trace.tensor(prefix + "labels").to(DType::int64);
  Tape tape;
  for (const Tensor& value : training.values) tape.watch(value);
  ctx.set_tape(&tape);
  const Tensor prediction =
      training.model.forward(ctx, noisy_latents(latents, noise, times.to_vector<float>()), times, labels, {}, {});
  const std::vector<float> weights(static_cast<size_t>(latents.dim(0)), 1.0f);
  const LossAndGradient loss = velocity_loss(prediction, velocity_target(latents, noise), weights);
  tape.backward(ctx, prediction, loss.gradient);
  ctx.set_tape(nullptr);
  StepResult result{loss.loss, {}};
  for (const Tensor& value : training.values) result.gradients.push_back(tape.grad(ctx, value).clone());
  return result;
}

void expect_parameters(const Training& training, const std::vector<Tensor>& values, const SafetensorsFile& trace,
                       const std::string& prefix) {
  for (size_t i = 0; i < values.size(); ++i) {
    const Tensor expected = trace.tensor(prefix + training.names[i]);
    testing::expect_agrees(prefix + training.names[i], values[i].reshape(expected.shape()), expected, 1e-4);
  }
}

TEST(TrainingTrace, TwentyStepsArePyTorchs) {
  Context ctx;
  const auto trace = SafetensorsFile::open(kFolder + "/trace.safetensors");
  Training training(ctx);
  AdamW adamw(training.values, {0.9, 0.95, 1e-8, 0.01});
  Ema ema(training.values, 0.9);
  const LrSchedule schedule{LrScheduleType::cosine, 2e-3, 3, kSteps};
  const auto losses = trace.tensor("losses").to_vector<double>(),
             norms = trace.tensor("grad_norms").to_vector<double>();
  ASSERT_EQ(losses.size(), static_cast<size_t>(kSteps));
  for (int64_t step = 0; step < kSteps; ++step) {
    const StepResult result = forward_and_backward(ctx, training, trace, step);
    const auto at = static_cast<size_t>(step);
    EXPECT_NEAR(result.loss, losses[at], 1e-5 * losses[at]) << "loss of step " << step;
    const double norm = global_norm(ctx.kernels(), result.gradients);
    EXPECT_NEAR(norm, norms[at], 1e-4 * norms[at]) << "gradient norm of step " << step;
    adamw.step(ctx.kernels(), result.gradients, schedule.lr(step), clip_scale(norm, 1.0));
    ema.update(ctx.kernels());
  }
  expect_parameters(training, training.values, trace, "final.");
  expect_parameters(training, ema.averages(), trace, "ema.");
}

}  // namespace
}  // namespace raedit
