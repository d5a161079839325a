// Twenty steps of training against PyTorch's (tests/parity/data/training): given latents, noise, times and labels;
// AdamW (lr 2e-3, betas 0.9 and 0.95, weight decay 0.01), gradients clipped to 1, cosine with 3 warm-up steps of 20,
// moving average with decay 0.9. Losses agree to 1e-5, gradient norms and parameters to 1e-4.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <memory>

#include "io/io_test_util.h"
#include "io/safetensors.h"
#include "models/checkpoint.h"
#include "models/rae_dit_transformer.h"
#include "parity/agreement.h"
#include "tensor/arena.h"
#include "test_device.h"
#include "train/lr_schedule.h"
#include "train/stage2_step.h"
#include "train/trace_model.h"

namespace raedit {
namespace {

using namespace train;
using test::batch_of;
using test::initial_model;

constexpr int64_t kSteps = 20;
const std::string kFolder = test::trace_folder();

void expect_parameters(const Stage2Step& training, const std::vector<Tensor>& values, const SafetensorsFile& trace,
                       const std::string& prefix) {
  ASSERT_FALSE(values.empty());
  for (size_t i = 0; i < values.size(); ++i) {
    const Tensor expected = trace.tensor(prefix + training.names()[i]);
    testing::expect_agrees(prefix + training.names()[i], values[i].reshape(expected.shape()), expected, 1e-4);
  }
}

// Each batch of 4 in `parts` micro-batches.
void expect_pytorchs(int64_t parts) {
  Context ctx = test::test_context();
  const auto trace = SafetensorsFile::open(kFolder + "/trace.safetensors");
  const auto model = initial_model(ctx);
  Stage2Step training(ctx.kernels(), *model, test::trace_options());
  const LrSchedule schedule{LrScheduleType::cosine, 2e-3, 3, kSteps};
  const auto losses = trace.tensor("losses").to_vector<double>(),
             norms = trace.tensor("grad_norms").to_vector<double>();
  ASSERT_EQ(losses.size(), static_cast<size_t>(kSteps));
  for (int64_t step = 0; step < kSteps; ++step) {
    for (int64_t part = 0; part < parts; ++part)
      training.accumulate(ctx, batch_of(trace, step, part * 4 / parts, (part + 1) * 4 / parts), parts);
    const Stage2StepResult result = training.step(ctx, schedule.lr(step));
    const auto at = static_cast<size_t>(step);
    EXPECT_NEAR(result.loss, losses[at], 1e-5 * losses[at]) << "loss of step " << step;
    EXPECT_NEAR(result.grad_norm, norms[at], 1e-4 * norms[at]) << "gradient norm of step " << step;
    EXPECT_EQ(result.not_finite, "");
  }
  EXPECT_EQ(training.steps(), kSteps);
  expect_parameters(training, training.parameters(), trace, "final.");
  expect_parameters(training, training.averages(), trace, "ema.");
}

TEST(TrainingTrace, TwentyStepsArePyTorchs) {
  expect_pytorchs(1);
}

// Gradient accumulation is a larger batch, and nothing else.
TEST(TrainingTrace, SoTheyAreInMicroBatches) {
  expect_pytorchs(2);
  expect_pytorchs(4);
}

// Bounds: four times what was found. What flows through the model has 8 bits then. Parameters, gradients and moments
// have 24: rounded to 8, a parameter would not move at all by a step of 2e-3 * 2^-9 of itself.
TEST(TrainingTrace, InBfloat16ItStaysCloseToFloat32) {
  Context ctx = test::test_context();
  const auto trace = SafetensorsFile::open(kFolder + "/trace.safetensors");
  const auto model = initial_model(ctx, DType::bfloat16);
  Stage2Step training(ctx.kernels(), *model, test::trace_options());
  for (size_t i = 0; i < training.names().size(); ++i) EXPECT_EQ(training.parameters()[i].dtype(), DType::float32);
  const LrSchedule schedule{LrScheduleType::cosine, 2e-3, 3, kSteps};
  const auto losses = trace.tensor("losses").to_vector<double>(),
             norms = trace.tensor("grad_norms").to_vector<double>();
  double loss_apart = 0, norm_apart = 0;
  for (int64_t step = 0; step < kSteps; ++step) {
    training.accumulate(ctx, batch_of(trace, step, 0, 4));
    const Stage2StepResult result = training.step(ctx, schedule.lr(step));
    const auto at = static_cast<size_t>(step);
    loss_apart = std::max(loss_apart, std::abs(result.loss / losses[at] - 1));
    norm_apart = std::max(norm_apart, std::abs(result.grad_norm / norms[at] - 1));
  }
  RecordProperty("loss_apart", std::to_string(loss_apart));
  RecordProperty("norm_apart", std::to_string(norm_apart));
  EXPECT_LT(loss_apart, 2e-3);
  EXPECT_LT(norm_apart, 1e-2);
  EXPECT_GT(loss_apart, 1e-6) << "this was float32";
  // How far parameters went, compared with how far they are from PyTorch's.
  const auto start = SafetensorsSet::open(kFolder + "/initial");
  double went = 0, apart = 0;
  for (size_t i = 0; i < training.names().size(); ++i) {
    const std::string& name = training.names()[i];
    const auto found = training.parameters()[i].to_vector<double>(), from = start.tensor(name).to_vector<double>(),
               to = trace.tensor("final." + name).to_vector<double>();
    for (size_t k = 0; k < found.size(); ++k) {
      went += (to[k] - from[k]) * (to[k] - from[k]);
      apart += (to[k] - found[k]) * (to[k] - found[k]);
    }
  }
  RecordProperty("parameters_apart", std::to_string(std::sqrt(apart / went)));
  EXPECT_LT(std::sqrt(apart / went), 0.06);
}

class TrainingTraceOf : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(All, TrainingTraceOf, ::testing::Values(DType::float32, DType::bfloat16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST_P(TrainingTraceOf, DoesNotDependOnTheNumberOfThreads) {
  RAEDIT_CPU_ONLY("no other device has a number of threads");
  const auto trace = SafetensorsFile::open(kFolder + "/trace.safetensors");
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    Context ctx = test::test_context(threads);
    const auto model = initial_model(ctx, GetParam());
    Stage2Step training(ctx.kernels(), *model, test::trace_options());
    for (int64_t step = 0; step < 3; ++step) {
      training.accumulate(ctx, batch_of(trace, step, 0, 4));
      training.step(ctx, 1e-3);
    }
    results.emplace_back();
    for (const Tensor& value : training.parameters())
      for (const float x : value.to_vector<float>()) results.back().push_back(x);
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST_P(TrainingTraceOf, AReplayedStepIsAStep) {
  const auto trace = SafetensorsFile::open(kFolder + "/trace.safetensors");
  std::vector<std::vector<float>> results;
  for (const bool replayed : {false, true}) {
    Context ctx = test::test_context();
    const auto model = initial_model(ctx, GetParam());
    models::settle(*model, ctx.kernels());
    Stage2Step training(ctx.kernels(), *model, test::trace_options());
    for (int64_t step = 0; step < 4; ++step) {
      const Stage2Batch batch = batch_of(trace, step, 0, 4);
      if (!replayed) training.accumulate(ctx, batch);
      const double lr = 1e-3 * static_cast<double>(step + 1);
      const Stage2StepResult result = replayed ? training.replay(ctx, batch, lr) : training.step(ctx, lr);
      EXPECT_EQ(result.not_finite, "");
    }
    EXPECT_EQ(training.steps(), 4);
    results.emplace_back();
    for (const Tensor& value : training.parameters())
      for (const float x : value.to_vector<float>()) results.back().push_back(x);
    Stage2Batch wrong = batch_of(trace, 0, 0, 4);
    wrong.class_labels = Tensor::from(std::vector<int64_t>{0, 1, 2, 1 << 20}, {4});
    if (!replayed) continue;
    EXPECT_THROW(training.replay(ctx, wrong, 1e-3), Error);
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST_P(TrainingTraceOf, CheckpointingChangesNoNumber) {
  const auto trace = SafetensorsFile::open(kFolder + "/trace.safetensors");
  std::vector<std::vector<float>> results;
  std::vector<size_t> peaks;
  for (const bool checkpointing : {false, true}) {
    Context ctx = test::test_context();
    const auto model = initial_model(ctx, GetParam());
    Stage2StepOptions with = test::trace_options();
    with.checkpointing = checkpointing;
    Stage2Step training(ctx.kernels(), *model, with);
    for (int64_t step = 0; step < 2; ++step) {
      training.accumulate(ctx, batch_of(trace, step, 0, 4));
      training.step(ctx, 1e-3);
    }
    results.emplace_back();
    for (const Tensor& value : training.parameters())
      for (const float x : value.to_vector<float>()) results.back().push_back(x);
    peaks.push_back(ctx.arena().peak_bytes());
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_LT(peaks[1], peaks[0]);
}

TEST(TrainingTrace, AStepThatIsNotFiniteIsSkipped) {
  Context ctx = test::test_context();
  const auto trace = SafetensorsFile::open(kFolder + "/trace.safetensors");
  const auto model = initial_model(ctx);
  Stage2Step training(ctx.kernels(), *model, test::trace_options());
  std::vector<Tensor> before;
  for (const Tensor& value : training.parameters()) before.push_back(value.clone());
  Stage2Batch batch = batch_of(trace, 0, 0, 4);
  batch.latents.data<float>()[3] = INFINITY;
  training.accumulate(ctx, batch);
  const Stage2StepResult result = training.step(ctx, 1e-3);
  EXPECT_EQ(result.not_finite, "loss");
  EXPECT_EQ(training.steps(), 0);
  for (size_t i = 0; i < before.size(); ++i)
    EXPECT_EQ(training.parameters()[i].to_vector<float>(), before[i].to_vector<float>());
  // And nothing of it is left.
  training.accumulate(ctx, batch_of(trace, 0, 0, 4));
  const auto norms = trace.tensor("grad_norms").to_vector<double>();
  EXPECT_NEAR(training.step(ctx, 0.0).grad_norm, norms[0], 1e-4 * norms[0]);
}

std::vector<float> all_numbers(const Stage2Step& training) {
  std::vector<float> numbers;
  for (const auto& tensors : {training.parameters(), training.averages()})
    for (const Tensor& tensor : tensors)
      for (const float x : tensor.to_vector<float>()) numbers.push_back(x);
  return numbers;
}

void train(Context& ctx, Stage2Step& training, const SafetensorsFile& trace, int64_t first, int64_t end) {
  for (int64_t step = first; step < end; ++step) {
    training.accumulate(ctx, batch_of(trace, step, 0, 2), 2);
    training.accumulate(ctx, batch_of(trace, step, 2, 4), 2);
    training.step(ctx, 1e-3);
  }
}

TEST_P(TrainingTraceOf, StepsBeforeAndAfterAResumeAreStepsWithoutOne) {
  Context ctx = test::test_context();
  const test::ScratchFolder scratch;
  const auto trace = SafetensorsFile::open(kFolder + "/trace.safetensors");
  const auto model = initial_model(ctx, GetParam());
  Stage2Step training(ctx.kernels(), *model, test::trace_options());
  train(ctx, training, trace, 0, 4);
  training.save(scratch / "checkpoint-4");
  EXPECT_EQ(scratch.names(), std::vector<std::string>{"checkpoint-4"});
  train(ctx, training, trace, 4, 9);

  const auto other = initial_model(ctx, GetParam());
  Stage2Step resumed(ctx.kernels(), *other, test::trace_options());
  resumed.restore(scratch / "checkpoint-4");
  EXPECT_EQ(resumed.steps(), 4);
  train(ctx, resumed, trace, 4, 9);
  EXPECT_TRUE(all_numbers(training) == all_numbers(resumed));

  // So are those after going back.
  EXPECT_EQ(training.restore(scratch / "checkpoint-4"), Json({{"step", 4}}));
  EXPECT_EQ(training.steps(), 4);
  training.accumulate(ctx, batch_of(trace, 0, 0, 4));  // forgotten, and its loss too
  training.restore(scratch / "checkpoint-4");
  training.accumulate(ctx, batch_of(trace, 4, 0, 2), 2);
  training.accumulate(ctx, batch_of(trace, 4, 2, 4), 2);
  EXPECT_LT(training.step(ctx, 1e-3).loss, 1.5 * trace.tensor("losses").to_vector<double>()[4]);
  train(ctx, training, trace, 5, 9);
  EXPECT_TRUE(all_numbers(training) == all_numbers(resumed));

  // What was saved is a model like any other.
  const auto saved = RAEDiT2DModel::from_pretrained(scratch / "checkpoint-4/ema");
  EXPECT_EQ(saved.config().in_channels, 8);
}

// An average whose decay changes from step to step must not be captured with it.
TEST(TrainingTrace, AReplayedStepWarmsItsAverageUp) {
  const auto trace = SafetensorsFile::open(kFolder + "/trace.safetensors");
  std::vector<std::vector<float>> results;
  for (const bool replayed : {false, true}) {
    Context ctx = test::test_context();
    const auto model = initial_model(ctx);
    models::settle(*model, ctx.kernels());
    Stage2StepOptions with = test::trace_options();
    with.ema_warmup = with.decay_matrices_only = true;
    Stage2Step training(ctx.kernels(), *model, with);
    for (int64_t step = 0; step < 4; ++step) {
      const Stage2Batch batch = batch_of(trace, step, 0, 4);
      if (!replayed) training.accumulate(ctx, batch);
      replayed ? training.replay(ctx, batch, 1e-3) : training.step(ctx, 1e-3);
    }
    results.push_back(all_numbers(training));
  }
  EXPECT_TRUE(results[0] == results[1]);
}

TEST(TrainingTrace, MatricesAloneDecay) {
  const auto trace = SafetensorsFile::open(kFolder + "/trace.safetensors");
  std::vector<std::vector<Tensor>> results;
  std::vector<std::string> names;
  for (const bool alone : {false, true}) {
    Context ctx = test::test_context();
    const auto model = initial_model(ctx);
    Stage2StepOptions with = test::trace_options();
    with.adamw.weight_decay = 0.5;
    with.decay_matrices_only = alone;
    Stage2Step training(ctx.kernels(), *model, with);
    training.accumulate(ctx, batch_of(trace, 0, 0, 4));
    training.step(ctx, 1e-2);
    results.emplace_back();
    for (const Tensor& value : training.parameters()) results.back().push_back(value.cpu().clone());
    names = training.names();
  }
  for (size_t i = 0; i < names.size(); ++i) {
    const bool same = results[0][i].to_vector<float>() == results[1][i].to_vector<float>();
    if (names[i] == "blocks.0.attn.to_q.weight" || names[i] == "final_layer.linear.weight") {
      EXPECT_TRUE(same) << names[i];
    }
    if (names[i] == "y_embedder.embedding_table.weight" || names[i] == "blocks.0.norm1.weight" ||
        names[i] == "blocks.0.attn.to_q.bias") {
      EXPECT_FALSE(same) << names[i];
    }
  }
}

TEST(TrainingCheckpoint, HoldsWhatItsTrainerAdds) {
  Context ctx = test::test_context();
  const test::ScratchFolder scratch;
  const auto model = initial_model(ctx);
  Stage2Step training(ctx.kernels(), *model, test::trace_options());
  const Json state{{"seed", 7}, {"data", {{"epoch", 2}, {"picture", 31}}}};
  training.save(scratch / "checkpoint", state,
                [](const StagedFolder& folder) { test::spit(folder.at("scheduler.json"), "{}"); });
  EXPECT_EQ(test::slurp(scratch / "checkpoint/scheduler.json"), "{}");
  EXPECT_EQ(training.restore(scratch / "checkpoint"),
            Json({{"step", 0}, {"seed", 7}, {"data", {{"epoch", 2}, {"picture", 31}}}}));
  // What it fails to add takes all of it along.
  EXPECT_THROW(training.save(scratch / "other", state, [](const StagedFolder&) { throw std::runtime_error("full"); }),
               std::runtime_error);
  EXPECT_EQ(scratch.names(), std::vector<std::string>{"checkpoint"});
}

TEST(TrainingCheckpoint, ADamagedOneChangesNothing) {
  Context ctx = test::test_context();
  const test::ScratchFolder scratch;
  const auto trace = SafetensorsFile::open(kFolder + "/trace.safetensors");
  const auto model = initial_model(ctx);
  Stage2Step training(ctx.kernels(), *model, test::trace_options());
  train(ctx, training, trace, 0, 2);
  const std::string folder = scratch / "checkpoint-2";
  training.save(folder);
  train(ctx, training, trace, 2, 3);
  const std::vector<float> before = all_numbers(training);
  const auto refused = [&](ErrorCode code, const std::string& part) {
    test::expect_error(code, {part}, [&] { training.restore(folder); });
    EXPECT_TRUE(all_numbers(training) == before);
    EXPECT_EQ(training.steps(), 3);
  };
  const std::string optimizer = test::slurp(folder + "/optimizer.safetensors");
  test::spit(folder + "/optimizer.safetensors", optimizer.substr(0, optimizer.size() / 2));
  refused(ErrorCode::format, "optimizer.safetensors");
  test::spit(folder + "/optimizer.safetensors", optimizer);
  write_safetensors(folder + "/optimizer.safetensors",
                    NamedTensors{{"exp_avg.pos_embed", Tensor::zeros({1}, DType::float32)}});
  refused(ErrorCode::not_found, "exp_avg");
  test::spit(folder + "/optimizer.safetensors", optimizer);
  test::spit(folder + "/trainer_state.json", "{\"step\": -1}");
  refused(ErrorCode::format, "step");
  test::spit(folder + "/trainer_state.json", "{\"step\": 2}");
  std::filesystem::remove_all(folder + "/ema");
  refused(ErrorCode::invalid_argument, "no moving averages");
}

}  // namespace
}  // namespace raedit
