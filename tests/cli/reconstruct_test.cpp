// raedit reconstruct: the reference's own reconstruction, the PSNR it prints, and where files go.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <thread>

#include "cli_test.h"
#include "raedit/image.h"

namespace raedit::cli_test {
namespace {

namespace fs = std::filesystem;

class ReconstructTest : public CliTest {
 protected:
  ReconstructTest() : pixels_(read_tensor(data_path("emoji64/reference.safetensors"), "pixels")) {
    for (int64_t i = 0; i < 2; ++i) save_png(to_image(pixels_.select(0, i)), path(i == 0 ? "one.png" : "two.png"));
  }

  Tensor pixels_;  // four pictures like those of the training set
};

double psnr(const Image& a, const Image& b) {
  double sum = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i) sum += std::pow((a.rgb[i] - b.rgb[i]) / 255.0, 2);
  return -10 * std::log10(sum / static_cast<double>(a.rgb.size()));
}

// An upright gray ramp of any size.
Image ramp(int width, int height) {
  Image image{width, height, std::vector<uint8_t>(static_cast<size_t>(width) * static_cast<size_t>(height) * 3)};
  for (size_t i = 0; i < image.rgb.size(); ++i)
    image.rgb[i] = static_cast<uint8_t>(static_cast<int>(i / 3) % width * 255 / width);
  return image;
}

TEST_F(ReconstructTest, AgreesWithTheReference) {
  const std::string out = expect_success({"reconstruct", "one.png", "two.png"});
  const Tensor reference = read_tensor(data_path("emoji64/reference.safetensors"), "reconstructed");
  const std::vector<std::string> names{"one", "two"};
  for (int64_t i = 0; i < 2; ++i) {
    const std::string& name = names[static_cast<size_t>(i)];
    const Image result = load_png(path(name + "_reconstructed.png"));
    // The PNG held the pixels rounded to 8 bits, and so does the result.
    EXPECT_GT(psnr(result, to_image(reference.select(0, i))), 45) << name;
    const double decibels = psnr(result, load_png(path(name + ".png")));
    EXPECT_GT(decibels, 15);
    char line[200];
    std::snprintf(line, sizeof(line), "%s.png  PSNR %.2f dB  -> %s_reconstructed.png\n", name.c_str(), decibels,
                  name.c_str());
    EXPECT_NE(out.find(line), std::string::npos) << line << "not in\n" << out;
  }
  EXPECT_NE(out.find("mean PSNR "), std::string::npos) << out;
}

TEST_F(ReconstructTest, OutputGoesWhereItIsTold) {
  expect_success({"reconstruct", "one.png", "two.png", "--output", "new/folder/"});
  EXPECT_EQ(names("new/folder"), (std::vector<std::string>{"one_reconstructed.png", "two_reconstructed.png"}));
  expect_success({"reconstruct", "one.png", "--output", "result.png"});
  EXPECT_EQ(load_png(path("result.png")), load_png(path("new/folder/one_reconstructed.png")));
  bool named = false;
  for (const auto& [key, value] : load_png_text(path("result.png")))
    named = named || (key == "Model" && value == "emoji64");
  EXPECT_TRUE(named);
}

TEST_F(ReconstructTest, AnySizeInTheModelsSizeOut) {
  save_png(ramp(100, 37), path("ramp.png"));
  const std::string model = tiny_model();
  const std::string all = expect_success({"reconstruct", "ramp.png", "--model", model, "--output", "a.png", "--json"});
  const std::string vae =
      expect_success({"reconstruct", "ramp.png", "--model", model + "/vae", "--output", "a.png", "--json"});
  EXPECT_EQ(all, vae);
  EXPECT_EQ(load_png(path("a.png")).width, 32);
  EXPECT_EQ(load_png(path("a.png")).height, 32);
  const Json json = parse_json(all, "stdout");
  EXPECT_EQ(json[0]["input"], "ramp.png");
  EXPECT_TRUE(json[0]["psnr_db"].is_number());
}

TEST_F(ReconstructTest, ThreadsDoNotChangeThePicture) {
  expect_success({"reconstruct", "one.png", "--threads", "1", "--output", "a.png"});
  expect_success({"reconstruct", "one.png", "--threads", "2", "--output", "b.png"});
  EXPECT_EQ(slurp(path("a.png")), slurp(path("b.png")));
}

// A pipe can be read once. Who comes a second time finds nothing in it.
TEST_F(ReconstructTest, APictureIsReadOnce) {
  const std::string pipe = path("pipe.png"), content = slurp(path("one.png"));
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::atomic<bool> done = false;
  std::thread writer([&] {
    std::ofstream(pipe, std::ios::binary) << content;
    while (!done) {
      const int fd = ::open(pipe.c_str(), O_WRONLY | O_NONBLOCK);  // only while somebody waits to read
      if (fd >= 0) ::close(fd);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  const Result result = run({"reconstruct", "pipe.png", "--output", "a.png"});
  done = true;
  writer.join();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  expect_success({"reconstruct", "one.png", "--output", "b.png"});
  EXPECT_EQ(load_png(path("a.png")), load_png(path("b.png")));
}

TEST_F(ReconstructTest, BadInput) {
  spit(path("text.png"), "no picture");
  const std::string whole = slurp(path("one.png"));
  spit(path("half.png"), whole.substr(0, whole.size() / 2));
  fs::create_directory(path("other"));
  fs::copy_file(path("one.png"), path("other/one.png"));
  expect_failure({"reconstruct", "nowhere.png"}, 1, {"nowhere.png", "No such file"});
  expect_failure({"reconstruct", "text.png"}, 1, {"text.png"});
  expect_failure({"reconstruct", "one.png", "half.png"}, 1, {"half.png"});
  expect_failure({"reconstruct", "one.png", "two.png", "--output", "a.png"}, 2,
                 {"several images cannot go into one file"});
  expect_failure({"reconstruct", "one.png", "--output", "a.npy"}, 2, {"reconstructions are PNG files"});
  expect_failure({"reconstruct", "one.png", "other/one.png", "--output", "other"}, 2,
                 {"two images would be written to one file"});
  expect_failure({"reconstruct", "one.png", "--output", "nowhere/a.png"}, 1,
                 {"the folder to write into does not exist"});
  fs::create_symlink("/dev/full", path("full.png"));
  expect_failure({"reconstruct", "one.png", "--output", "full.png"}, 1, {"full.png: cannot write"});
  expect_failure({"reconstruct", "one.png", "--model", "nowhere"}, 1, {"--model: no such model folder"});
}

}  // namespace
}  // namespace raedit::cli_test
