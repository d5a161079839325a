// raedit labels and raedit info.
#include <filesystem>

#include "cli_test.h"

namespace raedit::cli_test {
namespace {

namespace fs = std::filesystem;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

using LabelsTest = CliTest;

TEST_F(LabelsTest, ListsIdsAndNames) {
  const std::string all = expect_success({"labels"});
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 99);
  EXPECT_TRUE(has(all, "13  cat-face\n")) << all;
  EXPECT_TRUE(all.starts_with(" 0  alphanum\n 1  animal-amphibian\n")) << all;
  EXPECT_EQ(expect_success({"labels", "MONKEY"}), "61  monkey-face\n");
  const std::string tiny = tiny_model();
  EXPECT_EQ(expect_success({"labels", "--model", tiny}), "0  zero\n1  one, first\n2  two\n3  tench, Tinca tinca\n");
  const Json json = parse_json(expect_success({"labels", "--model", tiny, "--json", "t"}), "stdout");
  EXPECT_EQ(json, parse_json(R"([{"id": 1, "label": "one, first"}, {"id": 2, "label": "two"},
                                 {"id": 3, "label": "tench, Tinca tinca"}])",
                             "expected"));
}

TEST_F(LabelsTest, SaysWhenThereAreNone) {
  expect_failure({"labels", "cat-fcae"}, 1, {"no label contains 'cat-fcae'", "did you mean 'cat-face'?"});
  const std::string tiny = tiny_model();
  change_key(tiny + "/model_index.json", "id2label", nullptr);
  expect_failure({"labels", "--model", tiny}, 1, {"this model names no classes", "--class-id"});
  change_key(tiny + "/model_index.json", "id2label", Json::array({1}));
  expect_failure({"labels", "--model", tiny}, 1, {"model_index.json", "id2label"});
}

class InfoTest : public CliTest {
 protected:
  InfoTest() : model_(tiny_model()) {}
  std::string model_;
};

TEST_F(InfoTest, Pipeline) {
  const std::string text = expect_success({"info", model_});
  EXPECT_TRUE(text.starts_with(model_ + ": RAEDiTPipeline, 4 labels\n")) << text;
  for (const char* part : {"transformer: RAEDiT2DModel", "vae: AutoencoderRAE", "scheduler: FlowMatchEulerDiscrete",
                           "hidden_size         [32,64]", "[128, 4, 4] numbers", "to generate one picture at a time"})
    EXPECT_TRUE(has(text, part)) << part << "\n" << text;
}

TEST_F(InfoTest, CountsAreThoseOfTheCheckpoint) {
  const Json json = parse_json(expect_success({"info", model_, "--json", "--tensors"}), "stdout");
  EXPECT_EQ(json["kind"], "RAEDiTPipeline");
  for (const Json& component : json["components"]) {
    if (component["name"] == "scheduler") continue;
    int64_t numbers = 0, bytes = 0;
    for (const Json& tensor : component["tensors"]) {
      int64_t n = 1;
      for (const Json& dim : tensor["shape"]) n *= dim.get<int64_t>();
      numbers += n;
      bytes += tensor["bytes"].get<int64_t>();
      EXPECT_EQ(tensor["dtype"], "float32");
      EXPECT_NE(tensor["role"], "") << tensor["name"];
    }
    const int64_t recomputed = component["name"] == "vae" ? 17 * 64 : 0;  // decoder_pos_embed [1,17,64]
    EXPECT_EQ(component["parameters"].get<int64_t>() + component["buffer_numbers"].get<int64_t>(),
              numbers + recomputed);
    EXPECT_EQ(component["dtypes"]["float32"]["numbers"], numbers);
    EXPECT_EQ(component["dtypes"]["float32"]["bytes"], bytes);
    EXPECT_GT(component["files"][0]["bytes"].get<int64_t>(), bytes);
    EXPECT_GE(component["memory"]["float32"]["weights_bytes"], component["memory"]["bfloat16"]["weights_bytes"]);
    EXPECT_GT(component["memory"]["float32"]["activation_bytes"].get<int64_t>(), 0);
  }
}

TEST_F(InfoTest, SaysWhichTablesAreComputed) {
  std::string text = expect_success({"info", model_ + "/transformer"});
  EXPECT_TRUE(has(text, "table       pos_embed: loaded from the checkpoint\n")) << text;
  change_tensor(model_ + "/transformer/diffusion_pytorch_model.safetensors", "pos_embed", {});
  text = expect_success({"info", model_ + "/transformer"});
  EXPECT_TRUE(has(text, "table       pos_embed: not in the checkpoint, computed\n")) << text;
  EXPECT_TRUE(has(expect_success({"info", model_ + "/vae"}), "decoder.decoder_pos_embed: not in the checkpoint"));
}

TEST_F(InfoTest, SaysWhatEveryTensorReallyIs) {
  const std::string file = model_ + "/transformer/diffusion_pytorch_model.safetensors";
  change_tensor(file, "s_projector.bias", read_tensor(file, "s_projector.bias").to(DType::bfloat16));
  const std::string text = expect_success({"info", model_ + "/transformer", "--tensors"});
  EXPECT_TRUE(has(text, "  bfloat16    1 tensor, 64 numbers, 128 B\n")) << text;
  const size_t line = text.find("    s_projector.bias ");
  ASSERT_NE(line, std::string::npos);
  const std::string row = text.substr(line, text.find('\n', line) - line);
  for (const char* part : {"bfloat16", "[64]", "128 B", "vector"}) EXPECT_TRUE(has(row, part)) << row;
}

TEST_F(InfoTest, AnySafetensorsFile) {
  const std::string text = expect_success({"info", data_path("pipeline/io.safetensors"), "--tensors"});
  for (const char* part : {"safetensors file", "uint8       1 tensor, 9,216 numbers", "[3, 32, 32, 3]", "class_labels"})
    EXPECT_TRUE(has(text, part)) << part << "\n" << text;
  EXPECT_TRUE(has(expect_success({"info", model_ + "/transformer/diffusion_pytorch_model.safetensors"}),
                  "weights of a RAEDiT2DModel"));
  EXPECT_TRUE(has(expect_success({"info", model_ + "/vae/diffusion_pytorch_model.safetensors"}),
                  "weights of an AutoencoderRAE"));
  expect_success({"generate", "--model", model_, "--class-id", "1", "--steps", "1", "--output", "a.safetensors"});
  const std::string pictures = expect_success({"info", "a.safetensors"});
  EXPECT_TRUE(has(pictures, "\npictures\n") && has(pictures, "seed: 0\n")) << pictures;
}

TEST_F(InfoTest, Scheduler) {
  const std::string text = expect_success({"info", model_ + "/scheduler"});
  EXPECT_TRUE(has(text, "FlowMatchEulerDiscreteScheduler") && has(text, "shift ")) << text;
}

TEST_F(InfoTest, ABrokenModelIsShownAndNamed) {
  change_tensor(model_ + "/transformer/diffusion_pytorch_model.safetensors", "final_layer.linear.bias", {});
  const Result result = run({"info", model_});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_TRUE(has(result.out, "CANNOT BE LOADED")) << result.out;
  EXPECT_TRUE(has(result.out, "tensor 'final_layer.linear.bias' is missing")) << result.out;
  EXPECT_TRUE(has(result.out, "vae: AutoencoderRAE")) << result.out;
}

TEST_F(InfoTest, WhatIsNoModel) {
  fs::create_directory(path("empty"));
  spit(path("text.safetensors"), "this is not a safetensors file at all");
  expect_failure({"info", "nowhere"}, 1, {"nowhere: no such file or folder"});
  expect_failure({"info", "empty"}, 1, {"empty: not a model folder", "model_index.json"});
  expect_failure({"info", "text.safetensors"}, 1, {"text.safetensors"});
}

}  // namespace
}  // namespace raedit::cli_test
