// raedit train stage2, run: what is printed, where it stops, how it goes on. The tiny reference autoencoder and twelve
// pictures of random colours.
#include <filesystem>

#include "train_cli.h"

namespace raedit::cli_test {
namespace {

class TrainRun : public CliTest {
 protected:
  TrainRun() { make_pictures(path("pictures"), 6, 11); }

  Words words(const Words& more) const {
    return small_training("pictures") + Words{"--train-batch-size", "3", "--lr-warmup-steps", "2"} +
           Words{"--output-dir", "run"} + more;
  }
};

TEST_F(TrainRun, ADryRunPrintsThePlanAndWritesNothing) {
  const auto before = snapshot();
  const std::string plan = expect_success(words({"--dry-run", "--global-batch-size", "6"}));
  for (const char* part : {"12 in 2 classes", "batch          6", "activations", "sum"})
    EXPECT_TRUE(holds(plan, part)) << part << " not in " << plan;
  EXPECT_EQ(snapshot(), before);
}

TEST_F(TrainRun, LinesOfAFileAndTheResult) {
  const Result result = run(words({"--max-train-steps", "6", "--logging-steps", "2", "--json"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const char* line : {"\nstep 2/6  epoch 0.50  loss ", "\nstep 4/6  epoch 1.00  loss ", "\nstep 6/6  ", "done\n",
                           "trained 6 steps in "})
    EXPECT_TRUE(holds(result.err, line)) << line << " not in " << result.err;
  EXPECT_FALSE(holds(result.err, "\r"));
  const Json json = parse_json(result.out, "stdout");
  EXPECT_EQ(json["steps"], 6);
  EXPECT_EQ(json["interrupted"], false);
  EXPECT_EQ(json["options"]["encoder_hidden_size"], 32);
  EXPECT_TRUE(std::filesystem::exists(path("run/model_index.json")));

  const Result quiet = run(words({"--max-train-steps", "8", "--resume", "latest", "--quiet"}));
  EXPECT_EQ(quiet.exit_code, 0) << quiet.err;
  EXPECT_EQ(quiet.err + quiet.out, "");
}

TEST_F(TrainRun, OneLineOfATerminal) {
  RunOptions terminal;
  terminal.terminal = true;
  const Result result = run(words({"--max-train-steps", "4", "--logging-steps", "2"}), terminal);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(holds(result.err, "\r[")) << result.err;
  EXPECT_TRUE(holds(result.err, "> ")) << result.err;
  EXPECT_TRUE(holds(result.err, "] 2/4 loss ")) << result.err;
  EXPECT_TRUE(holds(result.err, "] 4/4 loss ")) << result.err;
}

TEST_F(TrainRun, CtrlCSavesAndSaysHowToGoOn) {
  RunOptions interrupted;
  interrupted.interrupt_after_ms = 300;
  const Result result = run(words({"--max-train-steps", "1000000", "--logging-steps", "100000"}), interrupted);
  EXPECT_EQ(result.exit_code, 130) << result.err;
  const size_t at = result.err.find("raedit: interrupted; saved checkpoint-");
  ASSERT_NE(at, std::string::npos) << result.err;
  EXPECT_TRUE(holds(result.err, "; continue with --resume latest\n"));
  const int64_t steps = std::stoll(result.err.substr(result.err.find("checkpoint-", at) + 11));
  ASSERT_GT(steps, 0);
  EXPECT_TRUE(std::filesystem::exists(path("run/checkpoint-" + std::to_string(steps))));

  const Words go_on{"--max-train-steps", std::to_string(steps + 2), "--logging-steps", "1", "--resume", "latest"};
  const Result resumed = run(words(go_on));
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_TRUE(holds(resumed.err, "step " + std::to_string(steps + 1) + "/")) << resumed.err;
  EXPECT_FALSE(holds(resumed.err, "step " + std::to_string(steps) + "/")) << resumed.err;
}

TEST_F(TrainRun, WhatIsNotThere) {
  expect_failure(words({"--train-data-dir", "nowhere"}), 2, {"--train-data-dir"});
  std::filesystem::rename(path("pictures"), path("moved"));
  const Result result = run(words({}));
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_TRUE(holds(result.err, "raedit: error: ") && holds(result.err, "pictures")) << result.err;
}

}  // namespace
}  // namespace raedit::cli_test
