// --device: pictures on a device with its own memory (a stand-in for a GPU, tests/device/fake_cuda.cpp), and what is
// said where there is none.
#include "cli_test.h"
#include "raedit/image.h"

namespace raedit::cli_test {
namespace {

class DeviceTest : public CliTest {
 protected:
  static constexpr const char* kFile = "out.safetensors";

  std::vector<std::string> drawing(const std::string& device, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments{"generate", "--model", model_,     "--class-id", "1", "--count",
                                       "3",        "--steps", "4",        "--seed",     "5", "--quiet",
                                       "--device", device,    "--output", kFile};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  // The pictures that this draws.
  Tensor drawn(const std::string& device, const std::vector<std::string>& more = {}) const {
    expect_success(drawing(device, more), fake_);
    return read_tensor(path(kFile), "images");
  }

  std::string model_ = tiny_model();
  RunOptions fake_{.environment = {{"RAEDIT_CUDA_LIBRARY", RAEDIT_FAKE_CUDA}}};
};

TEST_F(DeviceTest, DrawsTheSamePictures) {
  for (const std::vector<std::string>& more : {std::vector<std::string>{},
                                               {"--guidance", "2.5"},
                                               {"--guidance", "2", "--guidance-start", "0.4"},
                                               {"--batch-size", "2"},
                                               {"--output-type", "image", "--dtype", "bfloat16"}}) {
    const Tensor expected = drawn("cpu", more), found = drawn("cuda", more);
    const bool rounded = !more.empty() && more.back() == "bfloat16";  // fewer roundings in fused kernels
    EXPECT_LE(max_difference(found, expected), rounded ? 0.05 : 1e-5) << (more.empty() ? "" : more.front());
    EXPECT_GT(max_difference(expected, Tensor::zeros(expected.shape(), DType::float32)), 0.1);
  }
}

// The bundled autoencoder, encoder and all.
TEST_F(DeviceTest, ReconstructsTheSame) {
  const Tensor pixels = read_tensor(data_path("emoji64/reference.safetensors"), "pixels");
  save_png(to_image(pixels.select(0, 0)), path("one.png"));
  expect_success({"reconstruct", "one.png", "--output", "here.png"});
  expect_success({"reconstruct", "one.png", "--output", "there.png", "--device", "cuda"}, fake_);
  const Image here = load_png(path("here.png")), there = load_png(path("there.png"));
  ASSERT_EQ(here.rgb.size(), there.rgb.size());
  for (size_t i = 0; i < here.rgb.size(); ++i) ASSERT_NEAR(here.rgb[i], there.rgb[i], 1) << i;
}

TEST_F(DeviceTest, SaysWhichDeviceItWas) {
  const std::string json = expect_success(drawing("cuda:0", {"--json"}), fake_);
  EXPECT_NE(json.find("\"device\": \"cuda:0, a fake\""), std::string::npos) << json;
}

TEST_F(DeviceTest, SaysWhyThereIsNoCuda) {
  const auto refused = [&](const std::string& library, const std::vector<std::string>& parts) {
    expect_failure(drawing("cuda"), 1, parts, {.environment = {{"RAEDIT_CUDA_LIBRARY", library}}});
  };
  refused("/nowhere/libraedit_cuda.so", {"device: CUDA cannot be used", "/nowhere/libraedit_cuda.so", "No such file"});
  refused(model_ + "/model_index.json", {"CUDA cannot be used", "model_index.json"});
  refused(RAEDIT_OTHER_BUILD, {"CUDA cannot be used", "belongs to another build"});
  expect_failure(drawing("cuda:1"), 1, {"CUDA cannot be used", "there is only one"}, fake_);
}

TEST_F(DeviceTest, OwnLibraryWithoutAGpuSaysSo) {
  // The library that was built, or none; and in either case no GPU that it may see.
  const RunOptions hidden{.environment = {{"CUDA_VISIBLE_DEVICES", ""}}};
  expect_failure(drawing("cuda"), 1, {"device: CUDA cannot be used"}, hidden);
#if RAEDIT_CUDA_BUILT
  const Result result = run(drawing("cuda"), hidden);
  EXPECT_EQ(result.err.find("cannot open shared object"), std::string::npos) << result.err;
#endif
}

}  // namespace
}  // namespace raedit::cli_test
