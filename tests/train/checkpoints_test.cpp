// Which folders count as checkpoints, which is the last, and that pruning leaves the newest.
#include "train/checkpoints.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "io/files.h"
#include "io/io_test_util.h"

namespace raedit::train {
namespace {

namespace fs = std::filesystem;

void make(const std::string& folder, const std::string& name, bool whole = true) {
  fs::create_directories(fs::path(folder) / name / "transformer");
  if (whole) write_file((fs::path(folder) / name / "trainer_state.json").string(), "{}");
}

std::vector<int64_t> steps_in(const std::string& folder) {
  std::vector<int64_t> steps;
  for (const CheckpointFolder& checkpoint : list_checkpoints(folder)) steps.push_back(checkpoint.step);
  return steps;
}

TEST(Checkpoints, AreFoundByNumberNotByText) {
  const test::ScratchFolder scratch;
  const std::string& folder = scratch.path();
  for (const char* name : {"checkpoint-9", "checkpoint-10", "checkpoint-100"}) make(folder, name);
  make(folder, "checkpoint-200", false);
  make(folder, "checkpoint-300.partial-1-0");
  make(folder, "checkpoint-x");
  make(folder, "checkpoint--5");
  write_file(folder + "/checkpoint-400", "a file");
  EXPECT_EQ(steps_in(folder), (std::vector<int64_t>{9, 10, 100}));
  EXPECT_EQ(find_checkpoint(folder, "latest")->step, 100);
  EXPECT_EQ(find_checkpoint(folder, "checkpoint-9")->path, folder + "/checkpoint-9");
  EXPECT_EQ(find_checkpoint(folder, folder + "/checkpoint-10/")->step, 10);
  EXPECT_FALSE(find_checkpoint(folder + "/nowhere", "latest").has_value());
  test::expect_error(ErrorCode::not_found, {"checkpoint-200", "checkpoint-9, checkpoint-10, checkpoint-100"},
                     [&] { (void)find_checkpoint(folder, "checkpoint-200"); });
}

TEST(Checkpoints, PruningLeavesTheNewest) {
  const test::ScratchFolder scratch;
  const std::string& folder = scratch.path();
  for (const int64_t step : {2, 30, 4, 100}) make(folder, "checkpoint-" + std::to_string(step));
  prune_checkpoints(folder, 5);
  EXPECT_EQ(steps_in(folder).size(), 4u);
  prune_checkpoints(folder, 2);
  EXPECT_EQ(steps_in(folder), (std::vector<int64_t>{30, 100}));
  EXPECT_FALSE(fs::exists(folder + "/checkpoint-2.removed"));
}

TEST(Checkpoints, LeftoversOfKilledRunsGoAndNothingElse) {
  const test::ScratchFolder scratch;
  const std::string& folder = scratch.path();
  make(folder, "checkpoint-7");
  make(folder, "checkpoint-8.partial-4711-0");
  make(folder, "checkpoint-6.removed");
  make(folder, "notes.removed");
  make(folder, "x.partial-1-0");
  remove_leftovers(folder);
  EXPECT_EQ(steps_in(folder), (std::vector<int64_t>{7}));
  EXPECT_FALSE(fs::exists(folder + "/checkpoint-8.partial-4711-0"));
  EXPECT_FALSE(fs::exists(folder + "/checkpoint-6.removed"));
  EXPECT_TRUE(fs::exists(folder + "/notes.removed"));
  EXPECT_TRUE(fs::exists(folder + "/x.partial-1-0"));
}

}  // namespace
}  // namespace raedit::train
