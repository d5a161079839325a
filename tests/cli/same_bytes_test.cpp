// The same seed gives the same bytes: for any number of threads, any batch, alone or among others.
#include "cli_test.h"
#include "raedit/image.h"

namespace raedit::cli_test {
namespace {

class SameBytes : public CliTest, public ::testing::WithParamInterface<const char*> {
 protected:
  // Nine pictures of three classes with the bundled model.
  std::string draw(const std::string& name, const std::vector<std::string>& more) const {
    std::vector<std::string> arguments{"generate", "--label", "cat-face", "--label", "drink",    "--label",
                                       "flag",     "--count", "3",        "--seed",  "11",       "--steps",
                                       "3",        "--dtype", GetParam(), "--quiet", "--output", name + ".safetensors"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    expect_success(arguments);
    return path(name + ".safetensors");
  }
};

TEST_P(SameBytes, ForAnyNumberOfThreads) {
  EXPECT_EQ(slurp(draw("one", {"--threads", "1"})), slurp(draw("two", {"--threads", "2"})));
}

TEST_P(SameBytes, ForAnyBatchSize) {
  const std::string eight = slurp(draw("eight", {"--batch-size", "8"}));
  EXPECT_EQ(slurp(draw("single", {"--batch-size", "1"})), eight);
  EXPECT_EQ(slurp(draw("nine", {"--batch-size", "9"})), eight);
}

TEST_P(SameBytes, ForAnyBatchSizeUnderGuidance) {
  const std::vector<std::string> guided{"--guidance", "2.5", "--guidance-start", "0.3", "--batch-size"};
  std::vector<std::string> one = guided, all = guided;
  one.push_back("1");
  all.push_back("9");
  EXPECT_EQ(slurp(draw("one", one)), slurp(draw("all", all)));
}

TEST_P(SameBytes, AloneOrAmongOthers) {
  const std::string all = draw("all", {});
  expect_success({"generate", "--label", "drink", "--seed", "15", "--steps", "3", "--dtype", GetParam(), "--quiet",
                  "--output", "alone.safetensors"});
  for (const char* name : {"images", "latents"})
    EXPECT_TRUE(same_bytes(read_tensor(path("alone.safetensors"), name), read_tensor(all, name).slice(0, 4, 5)))
        << name;
}

TEST_P(SameBytes, InAGridOrAFolder) {
  const std::vector<std::string> what{"generate", "--label", "drink",    "--count", "4",       "--steps",
                                      "2",        "--dtype", GetParam(), "--quiet", "--output"};
  std::vector<std::string> grid = what, folder = what, again = what;
  grid.push_back("grid.png");
  again.push_back("again.png");
  folder.push_back("folder/");
  expect_success(grid);
  expect_success(again);
  expect_success(folder);
  EXPECT_EQ(slurp(path("grid.png")), slurp(path("again.png")));
  const Image all = load_png(path("grid.png"));
  std::vector<Image> single;
  for (const std::string& name : names("folder")) single.push_back(load_png(path("folder/" + name)));
  EXPECT_EQ(make_grid(single, 2), all);
}

TEST_P(SameBytes, OtherSeedsGiveOtherPictures) {
  const Tensor images = read_tensor(draw("all", {}), "images");
  EXPECT_FALSE(same_bytes(images.slice(0, 0, 1), images.slice(0, 1, 2)));
}

INSTANTIATE_TEST_SUITE_P(DTypes, SameBytes, ::testing::Values("float32", "bfloat16"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace raedit::cli_test
