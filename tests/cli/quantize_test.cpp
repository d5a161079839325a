// --quantize, --calibration and raedit calibrate: pictures near float32's, and what does not go together.
#include <cmath>

#include "cli_test.h"
#include "raedit/image.h"

namespace raedit::cli_test {
namespace {

class QuantizeTest : public CliTest {};

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

}  // namespace
}  // namespace raedit::cli_test
