// --quantize, --calibration and raedit calibrate: pictures near float32's, guides, and what does not go together.
#include <cmath>
#include <filesystem>

#include "cli_test.h"
#include "io/safetensors.h"
#include "raedit/generator.h"
#include "raedit/image.h"

namespace raedit::cli_test {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

class QuantizeTest : public CliTest {
 protected:
  // The tiny model, with blocks of another model as its transformer.
  std::string other_model(const std::string& name) const {
    const std::string model = tiny_model(name), file = model + "/transformer/diffusion_pytorch_model.safetensors";
    Generator generator(7);
    const std::vector<std::string> names = SafetensorsSet::open(model + "/transformer").names();
    for (const std::string& tensor : names) {
      const Tensor old = read_tensor(file, tensor);
      if (!tensor.starts_with("blocks.") || old.rank() != 2) continue;
      const Tensor fresh = generator.randn(old.shape());
      for (int64_t i = 0; i < fresh.numel(); ++i) fresh.data<float>()[i] *= 0.1f;
      change_tensor(file, tensor, fresh);
    }
    return model;
  }
  void calibrate(const std::string& model, const std::string& output, const Words& more = {}) const {
    Words line{"calibrate", "--model", model, "--output", output, "--pictures", "2", "--steps", "2"};
    line.insert(line.end(), more.begin(), more.end());
    expect_success(line);
  }
};

TEST_F(QuantizeTest, CalibratesGeneratesAndReconstructs) {
  const std::string model = tiny_model();
  const Json made = parse_json(expect_success({"calibrate", "--model", model, "--output", "c.safetensors", "--pictures",
                                               "3", "--steps", "4", "--json"}),
                               "calibrate");
  EXPECT_GT(made["matrices"].get<int>(), 10);
  EXPECT_EQ(made["output"], "c.safetensors");
  const auto draw = [&](const std::string& name, std::vector<std::string> more) {
    std::vector<std::string> line{"generate", "--model", model,    "--class-id", "1",
                                  "--steps",  "4",       "--json", "--output"};
    line.push_back(name);
    line.insert(line.end(), more.begin(), more.end());
    return parse_json(expect_success(line), "generate");
  };
  EXPECT_EQ(draw("plain.png", {})["quantize"], "none");
  EXPECT_EQ(draw("small.png", {"--quantize", "int8"})["quantize"], "int8");
  const Json calibrated = draw("calibrated.png", {"--quantize", "int8", "--calibration", "c.safetensors"});
  EXPECT_EQ(calibrated["calibration"], "c.safetensors");
  const auto plain = load_png(path("plain.png")).rgb;
  for (const char* name : {"small.png", "calibrated.png"}) {
    const auto found = load_png(path(name)).rgb;
    double sum = 0;
    for (size_t i = 0; i < plain.size(); ++i) sum += std::abs(plain[i] - found[i]);
    EXPECT_GT(sum, 0) << name;
    EXPECT_LT(sum / static_cast<double>(plain.size()), 8) << name;
  }
  expect_success(
      {"reconstruct", "plain.png", "--model", model, "--quantize", "int8", "--calibration", "c.safetensors"});
  const Json timed =
      parse_json(expect_success({"bench", "--model", model, "--quantize", "int8", "--runs", "1", "--json"}), "bench");
  EXPECT_EQ(timed["quantize"], "int8");
  EXPECT_GT(timed["ceiling_tflops"].get<double>(), 0);
}

TEST_F(QuantizeTest, RefusesWhatDoesNotGoTogether) {
  const std::string model = tiny_model();
  const std::vector<std::string> generate{"generate", "--model", model, "--class-id", "1"};
  const auto with = [](std::vector<std::string> line, const std::vector<std::string>& more) {
    line.insert(line.end(), more.begin(), more.end());
    return line;
  };
  expect_failure(with(generate, {"--quantize", "int4"}), 2, {"--quantize", "int8", "int4"});
  expect_failure(with(generate, {"--calibration", "c.safetensors"}), 2, {"--calibration", "--quantize int8"});
  expect_failure(with(generate, {"--quantize", "int8", "--device", "cuda"}), 2, {"--quantize int8", "cuda", "cpu"});
  expect_failure(with(generate, {"--quantize", "int8", "--calibration", "none.safetensors"}), 1, {"none.safetensors"});
  expect_failure({"bench", "--size", "s", "--quantize", "int8", "--calibration", "c.safetensors"}, 2,
                 {"random weights", "--calibration"});
  expect_failure({"calibrate", "--model", model}, 2, {"--output"});
  expect_failure({"calibrate", "--model", model, "--output", "no/such/folder/c.safetensors"}, 1, {"no/such/folder"});
  spit(path("picture.png"), "");
  expect_failure({"reconstruct", "picture.png", "--model", model, "--calibration", "c.safetensors"}, 2,
                 {"--calibration", "--quantize int8"});
}

TEST_F(QuantizeTest, RefusesTheCalibrationOfAnotherModel) {
  expect_success(
      {"calibrate", "--model", tiny_model(), "--output", "tiny.safetensors", "--pictures", "1", "--steps", "1"});
  expect_failure({"generate", "--class-id", "1", "--quantize", "int8", "--calibration", "tiny.safetensors"}, 1,
                 {"calibration is of another model", "tiny.safetensors", "raedit calibrate"});
}

// A guide may lie in a pipeline of its own, or be a transformer alone.
TEST_F(QuantizeTest, AGuideHasACalibrationOfItsOwn) {
  const std::string model = tiny_model(), weak = other_model("weak");
  fs::copy(weak + "/transformer", model + "/guide_transformer", fs::copy_options::recursive);
  calibrate(model, "model.safetensors");
  calibrate(weak, "weak.safetensors");
  calibrate(model, "guide.safetensors", {"--guide", "guide_transformer"});
  EXPECT_EQ(slurp(path("guide.safetensors")), slurp(path("weak.safetensors")));
  EXPECT_NE(slurp(path("guide.safetensors")), slurp(path("model.safetensors")));
  const auto draw = [&](const std::string& guide, const Words& more) {
    Words line{"generate", "--model", model, "--class-id", "1",    "--steps", "2",        "--guidance",
               "2",        "--guide", guide, "--quantize", "int8", "--json",  "--output", "a.safetensors"};
    line.insert(line.end(), {"--calibration", "model.safetensors"});
    line.insert(line.end(), more.begin(), more.end());
    const Json json = parse_json(expect_success(line), "generate");
    EXPECT_EQ(json.value("guide_calibration", ""), more.empty() ? "" : more[1]);
    return read_tensor(path("a.safetensors"), "latents");
  };
  const Tensor plain = draw("guide_transformer", {}),
               calibrated = draw("guide_transformer", {"--guide-calibration", "guide.safetensors"});
  EXPECT_FALSE(same_bytes(plain, calibrated));
  EXPECT_TRUE(same_bytes(draw(weak + "/transformer", {"--guide-calibration", "weak.safetensors"}), calibrated));
}

// It stands where the model's own transformer would, which is nobody's business then.
TEST_F(QuantizeTest, AGuideIsCalibratedWithoutTheOtherTransformer) {
  const std::string model = tiny_model(), guide = other_model("weak") + "/transformer";
  calibrate(model, "before.safetensors", {"--guide", guide});
  spit(model + "/transformer/diffusion_pytorch_model.safetensors", "damaged");
  expect_failure({"calibrate", "--model", model, "--output", "c.safetensors"}, 1, {"model/transformer"});
  calibrate(model, "after.safetensors", {"--guide", guide});
  EXPECT_EQ(slurp(path("after.safetensors")), slurp(path("before.safetensors")));
}

TEST_F(QuantizeTest, RefusesAGuideCalibrationThatFitsNothing) {
  const std::string model = tiny_model(), guide = other_model("weak") + "/transformer";
  calibrate(model, "model.safetensors");
  const auto refuse = [&](const Words& more, int exit_code, const Words& parts) {
    Words line{"generate", "--model", model, "--class-id", "1", "--guide-calibration", "model.safetensors"};
    line.insert(line.end(), more.begin(), more.end());
    expect_failure(line, exit_code, parts);
  };
  refuse({"--guide", guide}, 2, {"--guide-calibration", "--quantize int8", "model.safetensors"});
  refuse({"--quantize", "int8"}, 2, {"--guide-calibration", "there is none", "--guide", "model.safetensors"});
  refuse({"--quantize", "int8", "--guide", guide}, 1,
         {"calibration is of another model", "model.safetensors", guide, "raedit calibrate", "--guide DIR"});
  refuse({"--quantize", "int8", "--guide", "nowhere"}, 1, {"nowhere"});
  expect_failure({"generate", "--model", model, "--guide", guide, "--quantize", "int8", "--guide-calibration", "no.st"},
                 1, {"no.st"});
  expect_failure({"calibrate", "--model", model, "--guide", "nowhere", "--output", "c.safetensors"}, 1, {"nowhere"});
}

}  // namespace
}  // namespace raedit::cli_test
