// A cache of packed weights that has gone bad is told by the commands that use it, and made anew.
#include <filesystem>

#include "cli_test.h"

namespace raedit::cli_test {
namespace {

namespace fs = std::filesystem;

class PackedCacheNoteTest : public CliTest {
 protected:
  PackedCacheNoteTest() : model_(tiny_model("pipe")) { options_.environment["RAEDIT_PACKED_CACHE"] = path("cache"); }

  // The last byte is one of the weights'.
  int damage_all() const {
    int files = 0;
    for (const auto& entry : fs::directory_iterator(path("cache"))) {
      std::string bytes = slurp(entry.path().string());
      bytes.back() = static_cast<char>(bytes.back() ^ 1);
      spit(entry.path().string(), bytes);
      ++files;
    }
    return files;
  }

  std::string model_;
  RunOptions options_;
};

TEST_F(PackedCacheNoteTest, EveryCommandTells) {
  const std::vector<std::vector<std::string>> commands{
      {"generate", "--model", model_, "--class-id", "1", "--steps", "1", "--output", "a.png"},
      {"bench", "--model", model_, "--runs", "1"},
      {"calibrate", "--model", model_, "--steps", "1", "--pictures", "1", "--output", "c.safetensors"},
      {"reuse", "--model", model_, "--steps", "3", "--passes", "2", "--pictures", "1", "--json"},
      {"reconstruct", "a.png", "--model", model_}};
  for (const std::vector<std::string>& command : commands) {
    SCOPED_TRACE(command[0]);
    const Result first = run(command, options_);
    ASSERT_EQ(first.exit_code, 0) << first.err;
    ASSERT_GT(damage_all(), 0);
    const Result told = run(command, options_);
    EXPECT_EQ(told.exit_code, 0) << told.err;
    EXPECT_NE(told.err.find("note: "), std::string::npos) << told.err;
    EXPECT_NE(told.err.find(path("cache")), std::string::npos) << told.err;
    const Result mended = run(command, options_);
    EXPECT_EQ(mended.err.find("note: "), std::string::npos) << mended.err;
  }
}

}  // namespace
}  // namespace raedit::cli_test
