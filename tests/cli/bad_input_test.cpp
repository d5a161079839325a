// Bad input: what the message says, the exit code, and that nothing is written.
#include <fmt/format.h>

#include <filesystem>
#include <functional>

#include "cli_test.h"
#include "raedit/generator.h"

namespace raedit::cli_test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWeights = "transformer/diffusion_pytorch_model.safetensors";

class BadInputTest : public CliTest {
 protected:
  BadInputTest() : model_(tiny_model()), weights_(model_ + "/" + kWeights) {}

  std::vector<std::string> generate(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments{"generate", "--model", model_, "--steps", "1", "--output", "out.png"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  // The weights are these bytes.
  void expect_bad_weights(const std::string& bytes, const std::vector<std::string>& parts) const {
    spit(weights_, bytes);
    std::vector<std::string> all = parts;
    all.push_back(weights_);
    expect_failure(generate(), 1, all);
  }

  std::string model_;
  std::string weights_;
};

Tensor random(const Shape& shape) {
  return Generator(1).randn(shape);
}

TEST_F(BadInputTest, MissingModelFolder) {
  expect_failure({"generate", "--model", "nowhere", "--output", "out.png"}, 1,
                 {"--model: no such model folder (found nowhere"});
}

TEST_F(BadInputTest, FolderThatIsNoModel) {
  fs::create_directory(path("empty"));
  expect_failure({"generate", "--model", path("empty")}, 1, {path("empty/model_index.json"), "No such file"});
}

TEST_F(BadInputTest, MissingComponent) {
  fs::remove_all(model_ + "/vae");
  expect_failure(generate(), 1, {model_ + "/vae: no such model folder"});
}

TEST_F(BadInputTest, MissingWeights) {
  fs::remove(weights_);
  expect_failure(generate(), 1, {"diffusion_pytorch_model", model_ + "/transformer"});
}

TEST_F(BadInputTest, ModelIndexOfAnotherPipeline) {
  change_key(model_ + "/model_index.json", "_class_name", "FluxPipeline");
  expect_failure(generate(), 1, {"model_index.json: this is not a RAEDiTPipeline", "FluxPipeline"});
}

TEST_F(BadInputTest, MissingTensor) {
  change_tensor(weights_, "blocks.1.attn.to_q.weight", {});
  expect_failure(generate(), 1, {weights_, "tensor 'blocks.1.attn.to_q.weight' is missing", "[32, 32]"});
}

TEST_F(BadInputTest, ExtraTensor) {
  change_tensor(weights_, "blocks.1.attn.to_qq.weight", random({32, 32}));
  expect_failure(generate(), 1,
                 {weights_, "tensor 'blocks.1.attn.to_qq.weight' does not belong to this model",
                  "did you mean 'blocks.1.attn.to_q.weight'"});
}

TEST_F(BadInputTest, MisshapenTensor) {
  change_tensor(weights_, "blocks.1.attn.to_q.weight", random({32, 31}));
  expect_failure(
      generate(), 1,
      {weights_, "tensor 'blocks.1.attn.to_q.weight' has the wrong shape (found [32, 31], expected [32, 32])"});
}

TEST_F(BadInputTest, TensorsOfTheAutoencoderAreCheckedToo) {
  change_tensor(model_ + "/vae/diffusion_pytorch_model.safetensors", "encoder.embeddings.cls_token", {});
  expect_failure(generate(), 1, {"tensor 'encoder.embeddings.cls_token' is missing"});
}

TEST_F(BadInputTest, IntegersAreNoWeights) {
  change_tensor(weights_, "final_layer.linear.bias", Tensor::zeros({128}, DType::int32));
  expect_failure(generate(), 1, {"tensor 'final_layer.linear.bias'", "found int32, expected a floating-point type"});
}

TEST_F(BadInputTest, TruncatedWeights) {
  const std::string whole = slurp(weights_);
  expect_bad_weights(whole.substr(0, whole.size() - 1), {"truncated"});
  expect_bad_weights(whole.substr(0, whole.size() / 2), {"truncated"});
  expect_bad_weights(whole.substr(0, 100), {});
  expect_bad_weights(whole.substr(0, 5), {});
  expect_bad_weights("", {});
}

TEST_F(BadInputTest, BytesBehindTheWeights) {
  expect_bad_weights(slurp(weights_) + "x", {});
}

TEST_F(BadInputTest, HeaderThatIsNotJson) {
  expect_bad_weights(raw_safetensors("{\"a\": nonsense}", 16), {});
  expect_bad_weights(raw_safetensors("[1, 2, 3]", 16), {});
}

TEST_F(BadInputTest, HeaderLongerThanTheFile) {
  expect_bad_weights(std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8) + "{}", {"header"});
}

TEST_F(BadInputTest, OverlappingTensors) {
  expect_bad_weights(raw_safetensors(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
                                     R"("b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}})",
                                     24),
                     {"overlap"});
}

TEST_F(BadInputTest, OverflowingShape) {
  expect_bad_weights(
      raw_safetensors(
          R"({"a":{"dtype":"F32","shape":[4611686018427387904,4611686018427387904],"data_offsets":[0,16]}})", 16),
      {"'a'"});
  expect_bad_weights(
      raw_safetensors(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,18446744073709551631]}})", 16), {"'a'"});
}

TEST_F(BadInputTest, UnsupportedDtypeInAFile) {
  expect_bad_weights(raw_safetensors(R"({"a":{"dtype":"C64","shape":[2],"data_offsets":[0,16]}})", 16), {"'a'", "C64"});
}

struct BadConfig {
  const char* key;
  Json value;
  const char* part;
};

TEST_F(BadInputTest, TransformerConfigOutOfRange) {
  const std::string file = model_ + "/transformer/config.json";
  const std::string whole = slurp(file);
  const std::vector<BadConfig> cases{
      {"num_heads", 0, "num_heads"},
      {"num_heads", 5, "num_heads"},
      {"hidden_size", Json::array({32, -64}), "hidden_size"},
      {"depth", "two", "depth"},
      {"patch_size", 3, "patch_size"},
      {"sample_size", 1e30, "sample_size"},
      {"mlp_ratio", -1.0, "mlp_ratio"},
      {"class_dropout_prob", 2, "class_dropout_prob"},
      {"use_rope", "yes", "use_rope"},
      {"num_clases", 4, "did you mean 'num_classes'"},
      {"num_classes", 1LL << 40, "num_classes"},
  };
  for (const BadConfig& bad : cases) {
    SCOPED_TRACE(bad.key);
    spit(file, whole);
    change_key(file, bad.key, bad.value);
    expect_failure(generate(), 1, {"transformer/config.json", bad.part});
  }
}

TEST_F(BadInputTest, OtherConfigsOutOfRange) {
  change_key(model_ + "/scheduler/scheduler_config.json", "shift", "high");
  expect_failure(generate(), 1, {"scheduler_config.json", "shift"});
  fs::copy_file(data_path("pipeline/scheduler/scheduler_config.json"), model_ + "/scheduler/scheduler_config.json",
                fs::copy_options::overwrite_existing);
  change_key(model_ + "/vae/config.json", "decoder_num_attention_heads", 0);
  expect_failure(generate(), 1, {"vae/config.json", "decoder_num_attention_heads"});
}

// With weights that cannot be loaded: who gets another error did not look at them.
TEST_F(BadInputTest, WhatTheConfigsTellIsCheckedBeforeTheWeightsAreLoaded) {
  spit(model_ + "/transformer/diffusion_pytorch_model.safetensors", "damaged");
  expect_failure(generate(), 1, {"diffusion_pytorch_model.safetensors"});
  expect_failure(generate({"--label", "tnech"}), 2, {"no such label (found 'tnech')"});
  expect_failure(generate({"--class-id", "4"}), 2, {"class id is out of range (found 4, expected 0 to 3)"});
  expect_failure(generate({"--guidance", "2", "--guide", "nowhere"}), 1, {"nowhere", "no such"});
  expect_failure(generate({"--guidance", "2", "--guide", "vae"}), 1, {"vae/config.json", "RAEDiT2DModel"});
}

TEST_F(BadInputTest, UnknownLabel) {
  expect_failure(generate({"--label", "tnech"}), 2, {"no such label (found 'tnech')", "did you mean 'tench'?"});
  expect_failure({"generate", "--label", "cat-fce", "--steps", "1"}, 2, {"did you mean 'cat-face'?"});
  expect_failure(generate({"--label", "xxxxxxxxxxxx"}), 2, {"; 'raedit labels' lists them"});
  expect_failure({"generate", "--label", "cat", "--steps", "1"}, 2, {"; labels with 'cat' in them: 'cat-face'"});
}

TEST_F(BadInputTest, ClassIdOutOfRange) {
  expect_failure(generate({"--class-id", "4"}), 2, {"--class-id: class id is out of range (found 4, expected 0 to 3)"});
}

TEST_F(BadInputTest, GuidanceWithoutANullClass) {
  change_key(model_ + "/transformer/config.json", "class_dropout_prob", 0.0);
  change_tensor(weights_, "y_embedder.embedding_table.weight", random({4, 32}));
  expect_failure(generate({"--guidance", "2"}), 2, {"no null class", "guidance"});
  expect_success(generate({"--guidance", "1"}));
}

TEST_F(BadInputTest, LatentsThatDoNotFit) {
  const std::string good = data_path("pipeline/io.safetensors");
  const std::string file = path("noise.safetensors");
  const auto with = [&](const Tensor& latents) {
    spit(file, raw_safetensors("{}", 0));
    change_tensor(file, "latents", latents);
    return generate({"--latents", file, "--class-id", "1"});
  };
  expect_success(with(random({1, 128, 4, 4})));
  fs::remove(path("out.png"));
  const auto fails = [&](const Shape& shape, const std::vector<std::string>& parts) {
    SCOPED_TRACE(shape.str());
    const auto arguments = with(random(shape));
    expect_failure(arguments, 2, parts);
  };
  fails({2, 128, 4, 4}, {"latents have the wrong shape (found [2, 128, 4, 4], expected [1, 128, 4, 4] for 1 picture"});
  fails({1, 127, 4, 4}, {"found [1, 127, 4, 4]"});
  fails({1, 128, 5, 4}, {"found [1, 128, 5, 4]"});
  fails({128, 4, 4}, {"tensor 'latents' cannot be latents (found float32 [128, 4, 4]"});
  const auto integers = with(Tensor::zeros({1, 128, 4, 4}, DType::int64));
  expect_failure(integers, 2, {"found int64 [1, 128, 4, 4]"});
  expect_failure(generate({"--latents", good + ":noise"}), 1, {"no tensor 'noise' in the file", "steps25.image"});
  expect_failure(generate({"--latents", "nowhere.safetensors"}), 1, {"nowhere.safetensors", "No such file"});
}

TEST_F(BadInputTest, OutputThatCannotBeWritten) {
  const auto fails = [&](const std::string& output, const std::vector<std::string>& parts) {
    SCOPED_TRACE(output);
    // More steps than anybody would wait for: the output is looked at first.
    expect_failure({"generate", "--model", model_, "--steps", "1000000", "--output", output}, 1, parts);
  };
  spit(path("file"), "content");
  fs::create_directory(path("folder.npy"));
  fails("nowhere/out.png", {"nowhere/out.png: the folder to write into does not exist"});
  fails("file/out.png", {"file/out.png"});
  fails("file", {"there is a file where a folder should be"});
  fails("file/pictures/", {"there is a file where a folder should be"});
  fails("/proc/out.png", {"/proc/out.png: cannot create"});
  fails("/proc/out.npz", {"/proc/out.npz: cannot create"});
  fails("/proc/pictures/", {"/proc"});
}

TEST_F(BadInputTest, FullDisk) {
  for (const std::string name : {"out.png", "out.npy", "out.npz", "out.safetensors"}) {
    SCOPED_TRACE(name);
    fs::create_symlink("/dev/full", path(name));
    expect_failure({"generate", "--model", model_, "--steps", "1", "--quiet", "--output", name}, 1,
                   {name + ": cannot write", "No space left on device"});
  }
}

// The probe before sampling is an empty file, so only the pictures themselves are too much.
TEST_F(BadInputTest, DiskThatFillsUp) {
  RunOptions full;
  full.file_size_limit = 512;
  for (const std::string name : {"out.png", "out.npy", "out.npz", "out.safetensors", "new/folder/", "model/"}) {
    SCOPED_TRACE(name);
    expect_failure(
        {"generate", "--model", model_, "--class-id", "1", "--class-id", "2", "--steps", "1", "--output", name}, 1,
        {"cannot write"}, full);
  }
}

#ifndef __SANITIZE_ADDRESS__  // which maps terabytes

// OpenMP's library would end the process.
TEST_F(BadInputTest, MoreThreadsThanCanBeStarted) {
  RunOptions small;
  small.address_space_limit = long{1} << 30;
  const auto before = snapshot();
  for (const std::vector<std::string>& words :
       {generate({"--class-id", "1", "--threads", "2000"}),
        std::vector<std::string>{"bench", "--model", model_, "--cold", "--runs", "1", "--threads", "2000"}})
    expect_failure(words, 1, {"threads to compute with cannot be started", "of 2000", "ulimit"}, small);
  EXPECT_EQ(snapshot(), before);
  expect_success({"generate", "--model", model_, "--class-id", "1", "--steps", "1", "--threads", "2"}, small);
}

#endif

TEST_F(BadInputTest, MorePicturesThanOneRequestTakes) {
  expect_failure(generate({"--class-id", "1", "--class-id", "2", "--count", "500001"}), 2,
                 {"too many pictures for one request (found 500001 of each of 2 classes, expected at most 1000000)"});
}

TEST_F(BadInputTest, GridTooLargeForAPng) {
  expect_failure(generate({"--class-id", "1", "--count", "1100", "--grid", "1100"}), 2,
                 {"the grid is too large for one PNG", "--output pictures/"});
}

}  // namespace
}  // namespace raedit::cli_test
