// The folder of packed weights: what is found in it gives the bits that packing gives, and only what belongs to the
// checkpoint, whole and undamaged, is used.
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "io/crc32.h"
#include "raedit/rae_dit_pipeline.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

namespace fs = std::filesystem;
using test::ModelFolder;
using test::ScratchFolder;
using test::slurp;
using test::spit;

class PackedCacheTest : public testing::TestWithParam<DType> {
 protected:
  std::string weights() const { return model_.path() + "/diffusion_pytorch_model.safetensors"; }

  // What the model computes; `folder` empty: without a cache.
  std::vector<float> run(const std::string& folder) {
    LoadOptions options;
    options.dtype = GetParam();
    options.packed_cache = folder;
    options.note = [this](const std::string& text) { notes_.push_back(text); };
    const auto model = RAEDiT2DModel::from_pretrained(model_.path(), options);
    Context ctx;
    const auto& c = model.config();
    return model
        .forward(ctx, test::normal_tensor({2, c.in_channels, c.sample_size, c.sample_size}, 1),
                 Tensor::from(std::vector<float>{0.3f, 0.9f}, {2}), Tensor::from(std::vector<int64_t>{1, 0}, {2}))
        .to_vector<float>();
  }
  std::vector<float> run() { return run(cache_.path()); }

  std::vector<std::string> files() const {
    std::vector<std::string> paths;
    for (const auto& entry : fs::directory_iterator(cache_.path())) paths.push_back(entry.path().string());
    return paths;
  }

  // Puts `content` in the place of the only file, then loads: it is said once, the result is right, the file is whole
  // again.
  void expect_made_anew(const std::string& content, const std::string& why) {
    SCOPED_TRACE(why);
    const std::string path = files().at(0), good = slurp(path);
    spit(path, content);
    notes_.clear();
    EXPECT_EQ(run(), run(""));
    ASSERT_EQ(notes_.size(), 1u);
    EXPECT_NE(notes_[0].find(why), std::string::npos) << notes_[0];
    EXPECT_EQ(notes_[0].find('\n'), std::string::npos);
    EXPECT_EQ(slurp(path), good);
  }

  ModelFolder model_{"transformer/base"};
  ScratchFolder cache_;
  std::vector<std::string> notes_;
};

TEST_P(PackedCacheTest, GivesTheSameBitsAndIsWrittenOnce) {
  const auto expected = run("");
  EXPECT_EQ(run(), expected);
  ASSERT_EQ(files().size(), 1u);
  const auto written = fs::last_write_time(files()[0]);
  EXPECT_EQ(run(), expected);
  EXPECT_EQ(files().size(), 1u);
  EXPECT_EQ(fs::last_write_time(files()[0]), written);
  EXPECT_TRUE(notes_.empty()) << notes_[0];
}

// Other weights with right sums in the place of the file: they can only come from there.
TEST_P(PackedCacheTest, IsWhatProductsRead) {
  const auto expected = run();
  std::string content = slurp(files().at(0));
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, content.data() + 8, 8);
  Json header = Json::parse(content.substr(24, header_bytes));
  std::string data = content.substr((24 + header_bytes + 4095) / 4096 * 4096);
  ASSERT_EQ(data.size(), header["bytes"].get<size_t>());
  std::fill(data.begin(), data.end(), '\0');
  ASSERT_EQ(header["crc32"].size(), 1u);
  header["crc32"] = {crc32(0, data.data(), data.size())};
  const std::string text = header.dump();
  const uint64_t bytes = text.size();
  const uint32_t crc = crc32(0, text.data(), text.size());
  std::memcpy(content.data() + 8, &bytes, 8);
  std::memcpy(content.data() + 16, &crc, 4);
  content = content.substr(0, 24) + text;
  content.resize((content.size() + 4095) / 4096 * 4096);
  spit(files()[0], content + data);
  EXPECT_NE(run(), expected);
  EXPECT_TRUE(notes_.empty());
}

TEST_P(PackedCacheTest, SeesAChangedCheckpoint) {
  const auto before = run();
  const auto time = fs::last_write_time(weights());
  std::string content = slurp(weights());
  content[content.size() - 200] ^= 0x10;  // of as many bytes, as old
  spit(weights(), content);
  fs::last_write_time(weights(), time);
  EXPECT_EQ(run(), run(""));
  EXPECT_EQ(files().size(), 2u);
  content[content.size() - 200] ^= 0x10;
  spit(weights(), content);
  EXPECT_EQ(run(), before);
  EXPECT_EQ(files().size(), 2u);
  EXPECT_TRUE(notes_.empty());
}

TEST_P(PackedCacheTest, NeverUsesAnotherOrBrokenFile) {
  run();
  const std::string good = slurp(files().at(0));
  expect_made_anew(good.substr(0, good.size() / 2), "truncated");
  expect_made_anew(good.substr(0, good.size() - 1), "truncated");
  expect_made_anew(good.substr(0, 20), "truncated");
  expect_made_anew("", "truncated");
  expect_made_anew(std::string(good.size(), 'x'), "not a file of packed weights");
  for (const size_t at : {good.size() - 1, good.size() / 2}) {
    std::string damaged = good;
    damaged[at] ^= 1;
    expect_made_anew(damaged, "it is damaged");
  }
  std::string damaged = good;
  damaged[40] ^= 1;
  expect_made_anew(damaged, "its header is damaged");
}

TEST_P(PackedCacheTest, RefusesAFileOfOtherWeightsUnderItsName) {
  run();
  const std::string path = files().at(0);
  std::string content = slurp(weights());
  content[content.size() - 200] ^= 0x10;
  spit(weights(), content);
  run();
  ASSERT_EQ(files().size(), 2u);
  const std::string other = files()[0] == path ? files()[1] : files()[0];
  const std::string good = slurp(other);
  fs::copy_file(path, other, fs::copy_options::overwrite_existing);
  EXPECT_EQ(run(), run(""));
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("other weights"), std::string::npos) << notes_[0];
  EXPECT_EQ(slurp(other), good);
}

TEST_P(PackedCacheTest, AFolderThatCannotBeWrittenIsSaid) {
  spit(cache_.path() + "/file", "");
  EXPECT_EQ(run(cache_.path() + "/file/below"), run(""));
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("packed weights are not kept"), std::string::npos) << notes_[0];
}

TEST_P(PackedCacheTest, ManyMayLoadAtOnce) {
  const auto expected = run("");
  std::vector<std::vector<float>> results(4);
  {
    std::vector<std::jthread> threads;
    for (auto& result : results) threads.emplace_back([&] { result = run(); });
  }
  for (const auto& result : results) EXPECT_EQ(result, expected);
  EXPECT_EQ(files().size(), 1u);
  EXPECT_EQ(run(), expected);
  EXPECT_TRUE(notes_.empty());
}

INSTANTIATE_TEST_SUITE_P(All, PackedCacheTest, testing::Values(DType::float32, DType::bfloat16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace raedit
