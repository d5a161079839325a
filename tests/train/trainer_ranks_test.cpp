// Whole runs of the trainer on several ranks: data, cache and micro-batches are shared out so that it is the run of one
// rank with the same batch; a stop changes no bit of it; one rank writes.
#include <gtest/gtest.h>

#include <filesystem>

#include "io/hash.h"
#include "train/checkpoints.h"
#include "train/shared_folder.h"
#include "train/trainer_run.h"

namespace raedit::train {
namespace {

using test::ranks;
using test::SharedFolder;

// Twelve pictures a step: 2 and 3 ranks divide them.
Stage2Options options_of(const SharedFolder& shared, const std::string& run, int64_t count) {
  Stage2Options o = small_run(shared, shared / "pictures");
  o.output_dir = shared / run;
  o.train_batch_size = 6 / count;
  o.gradient_accumulation_steps = 2;
  o.max_train_steps = 6;
  o.ema_decay = 0.9;
  o.random_flip = true;
  o.threads = 1;
  return o;
}

std::string weights_of(const std::string& output_dir) {
  return sha256_of_file(output_dir + "/transformer/diffusion_pytorch_model.safetensors");
}

class TrainerOnRanks : public testing::Test {
 protected:
  TrainerOnRanks() {
    if (ranks().is_first()) make_pictures(shared_);
    ranks().barrier();
  }

  Watcher run(const Stage2Options& options, int64_t cancel_at = -1) {
    Watcher watcher;
    watcher.cancel_at = cancel_at;
    const TrainingResult result = train_stage2(options, ranks(), watcher, watcher.cancel);
    EXPECT_EQ(result.interrupted, cancel_at >= 0);
    return watcher;
  }

  SharedFolder shared_;
};

TEST_F(TrainerOnRanks, IsTheRunOfOneRank) {
  const Watcher together = run(options_of(shared_, "together", ranks().size()));
  if (!ranks().is_first()) return;
  Watcher alone;
  train(options_of(shared_, "alone", 1), alone);
  ASSERT_EQ(together.reports.size(), alone.reports.size());
  for (size_t i = 0; i < alone.reports.size(); ++i) {
    EXPECT_NEAR(together.reports[i].loss, alone.reports[i].loss, 1e-5 * alone.reports[i].loss);
    EXPECT_NEAR(together.reports[i].grad_norm, alone.reports[i].grad_norm, 1e-4 * alone.reports[i].grad_norm);
  }
}

TEST_F(TrainerOnRanks, AStopChangesNoBit) {
  for (const bool zero1 : {false, true}) {
    const std::string name = zero1 ? "-zero1" : "-plain";
    Stage2Options whole = options_of(shared_, "whole" + name, ranks().size()),
                  cut = options_of(shared_, "cut" + name, ranks().size());
    whole.zero1 = cut.zero1 = zero1;
    whole.cache_latents = cut.cache_latents = shared_ / "latents";
    run(whole);
    run(cut, 2);  // the first rank alone is told to stop; all do
    cut.resume_from_checkpoint = "latest";
    run(cut);
    ranks().barrier();
    EXPECT_EQ(weights_of(cut.output_dir), weights_of(whole.output_dir)) << name;
    EXPECT_EQ(find_checkpoint(cut.output_dir, "latest")->step, 2);
  }
}

// What one rank cannot read stops all of them: here all read the listing, and see that there is nothing.
TEST_F(TrainerOnRanks, AFailureIsSaidOnEveryRank) {
  Stage2Options o = options_of(shared_, "run", ranks().size());
  o.train_data_dir = shared_ / "nowhere";
  test::expect_error(ErrorCode::not_found, {"nowhere"}, [&] { run(o); });
}

}  // namespace
}  // namespace raedit::train
