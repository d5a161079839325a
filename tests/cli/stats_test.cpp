// raedit stats: what it prints and writes, and what it refuses.
#include <cmath>
#include <filesystem>
#include <random>

#include "cli_test.h"
#include "io/safetensors.h"
#include "io/torch_archive.h"
#include "raedit/image.h"

namespace raedit::cli_test {
namespace {

class StatsTest : public CliTest {
 protected:
  StatsTest() : vae_(tiny_model() + "/vae") {
    for (int i = 0; i < 5; ++i) {
      const std::string folder = i < 3 ? "data/a" : "data/b";
      std::filesystem::create_directories(path(folder));
      save_png(noise(40 + i, 50 - 2 * i, static_cast<unsigned>(i)), path(folder + "/" + std::to_string(i) + ".png"));
    }
  }

  static Image noise(int width, int height, unsigned seed) {
    std::mt19937 engine(seed);
    Image image{width, height, std::vector<uint8_t>(static_cast<size_t>(width) * static_cast<size_t>(height) * 3)};
    for (uint8_t& value : image.rgb) value = static_cast<uint8_t>(engine() & 0xff);
    return image;
  }

  std::vector<std::string> arguments(const std::vector<std::string>& more) const {
    std::vector<std::string> all{"stats", "--data", "data", "--vae", vae_};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  std::string vae_;
};

TEST_F(StatsTest, WritesMeanAndVarianceInEveryFormat) {
  const std::string out = expect_success(arguments({"--flip", "--output", "stat.safetensors"}));
  EXPECT_NE(out.find("5 pictures and their mirror images, statistics [128, 4, 4], 10 latents each\n"), out.npos) << out;
  EXPECT_NE(out.find("\nstd   min "), out.npos) << out;
  EXPECT_NE(out.find("-> stat.safetensors\n"), out.npos) << out;
  const Tensor mean = read_tensor(path("stat.safetensors"), "mean"), var = read_tensor(path("stat.safetensors"), "var");
  EXPECT_EQ(mean.dtype(), DType::float64);
  EXPECT_EQ(var.shape(), (Shape{128, 4, 4}));
  EXPECT_EQ(SafetensorsFile::open(path("stat.safetensors")).metadata().at("count"), "10");

  expect_success(arguments({"--flip", "--batch-size", "2", "--workers", "0", "--output", "stat.json"}));
  const Json json = parse_json(slurp(path("stat.json")), "stat.json");
  EXPECT_EQ(json["count"], 10);
  EXPECT_EQ(json["mean"][7][3][1].get<double>(), mean.select(0, 7).select(0, 3).select(0, 1).item());
  EXPECT_EQ(json["var"][127][0][2].get<double>(), var.select(0, 127).select(0, 0).select(0, 2).item());

  expect_success(arguments({"--flip", "--output", "stat.pt"}));
  const TorchArchive archive = TorchArchive::open(path("stat.pt"));
  const auto value = archive.root().find("var");
  ASSERT_TRUE(value.has_value());
  EXPECT_TRUE(same_bytes(archive.tensor(*value), var.to(DType::float32)));

  expect_success(arguments({"--flip", "--output", "stat.npz"}));
  EXPECT_GT(std::filesystem::file_size(path("stat.npz")), 2 * mean.nbytes());
}

TEST_F(StatsTest, PrintsOneObject) {
  const std::string out = expect_success(arguments({"--json", "--per", "channel", "--crop", "center"}));
  const Json json = parse_json(out, "stdout");
  EXPECT_EQ(json["pictures"], 5);
  EXPECT_EQ(json["count"], 5 * 16);
  EXPECT_EQ(json["shape"], Json({128, 1, 1}));
  EXPECT_LT(json["mean"]["min"].get<double>(), json["mean"]["mean"].get<double>());
  EXPECT_GT(json["std"]["max"].get<double>(), json["std"]["mean"].get<double>());
  EXPECT_GT(json["std"]["min"].get<double>(), 0.0);
}

// Latents of the same pictures through the new autoencoder have mean 0 and deviation 1.
TEST_F(StatsTest, WritesAnAutoencoderThatNormalises) {
  expect_success(arguments({"--write-vae", "new", "--latents-std", "upstream", "--output", "stat.safetensors"}));
  EXPECT_EQ(names("new"), (std::vector<std::string>{"config.json", "diffusion_pytorch_model.safetensors"}));
  const Tensor var = read_tensor(path("stat.safetensors"), "var");
  const Tensor std = read_tensor(path("new/diffusion_pytorch_model.safetensors"), "_latents_std");
  for (int64_t i = 0; i < std.numel(); ++i)
    EXPECT_FLOAT_EQ(std.data<float>()[i], static_cast<float>(std::sqrt(var.data<double>()[i] + 1e-5) - 1e-5));
  // What is measured is the encoder's own output, so the new statistics change nothing.
  expect_success({"stats", "--data", "data", "--vae", "new", "--output", "again.safetensors"});
  EXPECT_TRUE(same_bytes(read_tensor(path("again.safetensors"), "var"), var));
  expect_failure(arguments({"--write-vae", "new"}), 2, {"new: the folder", "new or an empty one"});
}

TEST_F(StatsTest, WhatIsWrongIsSaidBeforeAnyWork) {
  expect_failure({"stats", "--data", "data"}, 2, {"--vae is required"});
  expect_failure(arguments({"--crop", "random"}), 2, {"--crop", "random", "center"});
  expect_failure(arguments({"--output", "stat.txt"}), 2, {"--output", "stat.txt", ".safetensors"});
  expect_failure(arguments({"--output", "missing/stat.pt"}), 1, {"missing/stat.pt"});
  expect_failure({"stats", "--data", "elsewhere", "--vae", vae_}, 1, {"elsewhere"});
  expect_failure({"stats", "--data", "data", "--vae", "nowhere/"}, 1, {"nowhere"});
}

TEST_F(StatsTest, ABrokenPictureIsAnErrorUnlessSkipped) {
  spit(path("data/a/1.png"), "no picture");
  expect_failure(arguments({}), 1, {"1.png"});
  const Json json = parse_json(expect_success(arguments({"--skip-broken", "--json"})), "stdout");
  EXPECT_EQ(json["count"], 5);
  ASSERT_EQ(json["skipped"].size(), 1u);
  EXPECT_NE(json["skipped"][0].get<std::string>().find("1.png"), std::string::npos);
}

}  // namespace
}  // namespace raedit::cli_test
