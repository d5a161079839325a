// Several processes that train the model of tests/parity/data/training together. Losses agree with those of one process
// and the whole batch; what the state of the optimizer is shared out to, and where a run is cut, changes no bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <vector>

#include "dist/started_ranks.h"
#include "raedit/generator.h"
#include "train/shared_folder.h"
#include "train/trace_model.h"

namespace raedit {
namespace {

using namespace train;
using test::ranks;
using test::SharedFolder;
namespace fs = std::filesystem;
const auto* const kStarted = ::testing::AddGlobalTestEnvironment(new test::StartedRanks);

constexpr int64_t kSteps = 6;

// Twelve pictures a step, which 2, 3 and 4 divide: three of the trace's batches.
Stage2Batch pictures(const SafetensorsFile& trace, int64_t step, int64_t first, int64_t end) {
  std::vector<Stage2Batch> parts;
  for (int64_t i = first; i < end; ++i) parts.push_back(test::batch_of(trace, 3 * step + i / 4, i % 4, i % 4 + 1));
  const auto joined = [&](Tensor Stage2Batch::*member) {
    const Tensor& like = parts[0].*member;
    Shape shape = like.shape();
    shape.set(0, end - first);
    Tensor all = Tensor::empty(shape, like.dtype());
    for (size_t i = 0; i < parts.size(); ++i)
      all.slice(0, static_cast<int64_t>(i), static_cast<int64_t>(i) + 1).copy_from(parts[i].*member);
    return all;
  };
  return {joined(&Stage2Batch::latents), joined(&Stage2Batch::noise), joined(&Stage2Batch::sigmas),
          joined(&Stage2Batch::class_labels), joined(&Stage2Batch::weights)};
}

struct TrainingRun {
  explicit TrainingRun(DType dtype, dist::Communicator* with, bool zero1 = false, bool checkpointing = false)
      : ctx({.threads = 1}), trace(test::open_trace()), model(test::initial_model(ctx, dtype)), communicator(with) {
    Stage2StepOptions options = test::trace_options();
    options.zero1 = zero1;
    options.checkpointing = checkpointing;
    options.ema_warmup = options.decay_matrices_only = true;
    training.emplace(ctx.kernels(), *model, options, with);
  }

  // In two micro-batches. Every rank has its own pictures of a batch.
  void steps(int64_t first, int64_t end) {
    const int64_t size = communicator != nullptr ? communicator->size() : 1,
                  rank = communicator != nullptr ? communicator->rank() : 0, each = 12 / (2 * size);
    for (int64_t step = first; step < end; ++step) {
      for (int64_t part = 2 * rank; part < 2 * rank + 2; ++part)
        training->accumulate(ctx, pictures(trace, step, part * each, (part + 1) * each), 2 * size);
      const Stage2StepResult result = training->step(ctx, 1e-3);
      EXPECT_EQ(result.not_finite, "");
      losses.push_back(result.loss);
      norms.push_back(result.grad_norm);
    }
  }

  std::vector<float> numbers() const {
    std::vector<float> numbers = test::numbers_of(training->parameters());
    for (const float x : test::numbers_of(training->all_averages())) numbers.push_back(x);
    return numbers;
  }

  Context ctx;
  SafetensorsFile trace;
  std::unique_ptr<models::RaeDitTransformer> model;
  dist::Communicator* communicator;
  std::optional<Stage2Step> training;
  std::vector<double> losses, norms;
};

void expect_same_everywhere(std::vector<float> numbers) {
  std::vector<float> firsts = numbers;
  ranks().broadcast(firsts.data(), firsts.size() * sizeof(float), 0);
  EXPECT_TRUE(firsts == numbers);
}

std::vector<std::string> files_of(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(fs::relative(entry.path(), folder).string());
  std::sort(files.begin(), files.end());
  return files;
}

class TrainingRanks : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(All, TrainingRanks, ::testing::Values(DType::float32, DType::bfloat16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST_P(TrainingRanks, TrainAsOneDoesOnTheWholeBatch) {
  TrainingRun alone(GetParam(), nullptr), together(GetParam(), &ranks());
  alone.steps(0, kSteps);
  together.steps(0, kSteps);
  // In bfloat16 the parts of a batch round otherwise than the whole.
  const double bound = GetParam() == DType::float32 ? 1e-5 : 2e-3;
  for (size_t i = 0; i < alone.losses.size(); ++i) {
    EXPECT_NEAR(together.losses[i], alone.losses[i], bound * alone.losses[i]) << i;
    EXPECT_NEAR(together.norms[i], alone.norms[i], 5 * bound * alone.norms[i]) << i;
  }
  EXPECT_LT(together.losses.back(), together.losses.front());
  expect_same_everywhere(together.numbers());
  TrainingRun again(GetParam(), &ranks());
  again.steps(0, kSteps);
  EXPECT_TRUE(again.numbers() == together.numbers());
}

TEST_P(TrainingRanks, SharedOutStatesAndCheckpointingChangeNoBit) {
  TrainingRun whole(GetParam(), &ranks()), shared(GetParam(), &ranks(), true), less(GetParam(), &ranks(), true, true);
  for (TrainingRun* run : {&whole, &shared, &less}) run->steps(0, kSteps);
  EXPECT_EQ(shared.losses, whole.losses);
  EXPECT_TRUE(shared.numbers() == whole.numbers());
  EXPECT_TRUE(less.numbers() == whole.numbers());
  // And it is a part that each of them has.
  std::vector<float> here(shared.training->averages().size());
  for (size_t i = 0; i < here.size(); ++i) here[i] = shared.training->averages()[i].defined() ? 1 : 0;
  EXPECT_LT(std::count(here.begin(), here.end(), 1.0f), static_cast<int64_t>(here.size()));
  ranks().all_reduce(std::span<float>(here));
  EXPECT_EQ(here, std::vector<float>(here.size(), 1.0f));
}

TEST_P(TrainingRanks, ACheckpointIsTheSameHoweverItIsWrittenAndResumed) {
  const SharedFolder folder;
  TrainingRun whole(GetParam(), &ranks()), shared(GetParam(), &ranks(), true);
  for (TrainingRun* run : {&whole, &shared}) run->steps(0, 2);
  const Json state{{"seed", 3}};
  whole.training->save(folder / "whole", state);
  shared.training->save(folder / "shared", state);
  ranks().barrier();
  const std::vector<std::string> files = files_of(folder / "whole");
  EXPECT_GE(files.size(), 5u);
  EXPECT_EQ(files_of(folder / "shared"), files);
  for (const std::string& file : files)
    EXPECT_TRUE(test::slurp(folder / ("whole/" + file)) == test::slurp(folder / ("shared/" + file))) << file;

  whole.steps(2, kSteps);
  for (const bool zero1 : {false, true}) {
    TrainingRun resumed(GetParam(), &ranks(), zero1);
    resumed.steps(0, 1);  // a restore may also come later
    EXPECT_EQ(resumed.training->restore(folder / (zero1 ? "whole" : "shared")), Json({{"step", 2}, {"seed", 3}}));
    EXPECT_EQ(resumed.training->steps(), 2);
    resumed.steps(2, kSteps);
    EXPECT_TRUE(resumed.numbers() == whole.numbers());
  }

  // One process goes on with it, and so could any other number.
  TrainingRun alone(GetParam(), nullptr);
  alone.training->restore(folder / "shared");
  EXPECT_EQ(alone.training->steps(), 2);
  alone.steps(2, kSteps);
  const double bound = GetParam() == DType::float32 ? 1e-5 : 2e-3;
  for (size_t i = 0; i < alone.losses.size(); ++i)
    EXPECT_NEAR(alone.losses[i], whole.losses[i + 2], bound * alone.losses[i]) << i;
}

// Before that they may differ: random weights of one are the weights of all.
TEST(TrainingRanksStart, AsTheFirstDoes) {
  Context ctx({.threads = 1});
  const auto model = test::initial_model(ctx);
  for (const auto& [name, parameter] : models::named_parameters(*model))
    if (parameter->trained())
      parameter->source = Generator(static_cast<uint64_t>(ranks().rank())).randn(parameter->shape);
  const Stage2Step training(ctx.kernels(), *model, test::trace_options(), &ranks());
  expect_same_everywhere(test::numbers_of(training.parameters()));
  EXPECT_EQ(training.parameters()[0].to_vector<float>(),
            Generator(0).randn(training.parameters()[0].shape()).to_vector<float>());
  EXPECT_TRUE(test::numbers_of(training.averages()) == test::numbers_of(training.parameters()));
}

TEST(TrainingRanksFail, Together) {
  const SharedFolder folder;
  TrainingRun run(DType::float32, &ranks(), true);
  run.steps(0, 1);
  const std::vector<float> before = run.numbers();
  EXPECT_THROW(run.training->restore(folder / "nothing"), Error);
  EXPECT_THROW(run.training->save(folder / "full", {}, [](const StagedFolder&) { throw std::runtime_error("full"); }),
               std::exception);
  EXPECT_FALSE(fs::exists(folder / "full"));

  // One rank's picture is infinite: no rank takes the step.
  const int64_t each = 12 / ranks().size();
  Stage2Batch batch = pictures(run.trace, 1, ranks().rank() * each, (ranks().rank() + 1) * each);
  if (ranks().rank() == 1) batch.latents.data<float>()[5] = NAN;
  const Stage2StepResult result = run.training->replay(run.ctx, batch, 1e-3);
  EXPECT_NE(result.not_finite, "");
  EXPECT_EQ(run.training->steps(), 1);
  EXPECT_TRUE(run.numbers() == before);
  run.steps(1, 2);
  EXPECT_EQ(run.training->steps(), 2);
}

}  // namespace
}  // namespace raedit
