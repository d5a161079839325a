// Models by name: org/name[@revision] in the cache, under every command that takes a model. What is downloaded is
// tested with the hub (tests/hub).
#include <filesystem>

#include "convert_cli.h"

namespace raedit::cli_test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

class ModelNameTest : public CliTest {
 protected:
  ModelNameTest() {
    options_.environment = {{"HF_HUB_OFFLINE", "1"}, {"HF_HUB_CACHE", path("cache")}, {"HF_HOME", path("home")}};
  }
  // As huggingface_hub lays a snapshot out.
  void put_into_cache(const std::string& folder, const std::string& name, const std::string& revision = "main") const {
    const std::string place = path("cache/models--tiny--") + name;
    fs::create_directories(place + "/refs");
    fs::create_directories(place + "/snapshots");
    spit(place + "/refs/" + revision, kCommit);
    fs::copy(folder, place + "/snapshots/" + kCommit, fs::copy_options::recursive);
  }
  Words generate(const std::string& model, const std::string& output, const Words& more = {}) const {
    return Words{"generate", "--model", model, "--class-id", "1", "--steps", "2", "--output", output} + more;
  }

  RunOptions options_;
};

TEST_F(ModelNameTest, EveryCommandTakesAName) {
  const std::string folder = tiny_model("pipe");
  put_into_cache(folder, "pipe");
  expect_success(generate(folder, "folder.safetensors"));
  expect_success(generate("tiny/pipe", "name.safetensors"), options_);
  EXPECT_EQ(slurp(path("name.safetensors")), slurp(path("folder.safetensors"))) << "the model's name is in there too";
  EXPECT_EQ(expect_success({"labels", "--model", "tiny/pipe"}, options_),
            expect_success({"labels", "--model", folder}));
  EXPECT_TRUE(holds(expect_success({"info", "tiny/pipe"}, options_), "RAEDiTPipeline, 4 labels"));
  expect_success(generate("tiny/pipe", "picture.png"), options_);
  expect_success({"reconstruct", "picture.png", "--model", "tiny/pipe"}, options_);
  expect_success({"bench", "--model", "tiny/pipe", "--runs", "1"}, options_);
  RunOptions environment = options_;
  environment.environment["RAEDIT_MODEL_PATH"] = "tiny/pipe";
  EXPECT_TRUE(expect_success({"labels"}, environment).starts_with("0  zero\n"));
}

TEST_F(ModelNameTest, AnAutoencoderAlone) {
  put_into_cache(tiny_model("pipe") + "/vae", "rae");
  expect_success(generate(path("pipe"), "picture.png"));
  const std::string expected = expect_success({"reconstruct", "picture.png", "--model", path("pipe/vae")});
  EXPECT_EQ(expect_success({"reconstruct", "picture.png", "--model", "tiny/rae"}, options_), expected);
}

TEST_F(ModelNameTest, RevisionsAndOptions) {
  put_into_cache(tiny_model("pipe"), "pipe", "v2");
  expect_success({"labels", "--model", "tiny/pipe@v2"}, options_);
  expect_failure({"labels", "--model", "tiny/pipe@v1"}, 1, {"tiny/pipe@v1", "not in the cache"}, options_);
  fs::rename(path("cache"), path("elsewhere"));
  expect_failure({"labels", "--model", "tiny/pipe@v2"}, 1, {"tiny/pipe@v2", "not in the cache"}, options_);
  for (const std::string spelled : {"--cache-dir", "--cache_dir"})
    expect_success({"labels", "--model", "tiny/pipe@v2", spelled, "elsewhere"}, options_);
  RunOptions online = options_;
  online.environment["HF_HUB_OFFLINE"] = "0";
  expect_success({"labels", "--model", "tiny/pipe@v2", "--cache-dir", "elsewhere", "--offline"}, online);
}

TEST_F(ModelNameTest, WhatIsNowhere) {
  for (const Words& words : {generate("tiny/none", "a.png"), Words{"info", "tiny/none"},
                             Words{"labels", "--model", "tiny/none"}, Words{"bench", "--model", "tiny/none"}})
    expect_failure(words, 1, {"tiny/none@main", "not in the cache", "there is no folder of that name here"}, options_);
  put_into_cache(tiny_model("pipe") + "/scheduler", "scheduler");
  expect_failure(generate("tiny/scheduler", "a.png"), 1, {"tiny/scheduler: this is no model", "model_index.json"},
                 options_);
}

TEST_F(ModelNameTest, AMisspeltPathIsNotLookedUp) {
  fs::create_directory(path("models"));
  fs::rename(tiny_model("pipe"), path("models/emoji64"));
  RunOptions online = options_;
  online.environment["HF_HUB_OFFLINE"] = "0";
  online.environment["HF_ENDPOINT"] = "http://127.0.0.1:9";  // nobody: the test would fail with another message
  for (const Words& words : {generate("models/emoji46", "a.png"), Words{"info", "models/emoji46"}})
    expect_failure(
        words, 1,
        {"no such model folder (found models/emoji46", "did you mean 'models/emoji64'?", "write models/emoji46@main"},
        online);
  expect_failure({"labels", "--model", "models/emoji46@main"}, 1, {"models/emoji46@main", "not in the cache"},
                 options_);
  // A folder of the organisation's name does not hide what the cache has.
  put_into_cache(path("models/emoji64"), "pipe");
  fs::create_directory(path("tiny"));
  expect_success({"labels", "--model", "tiny/pipe"}, options_);
}

TEST_F(ModelNameTest, AnUpstreamRepository) {
  fs::copy(convert_data("pipeline"), path("upstream"), fs::copy_options::recursive);
  const std::string yaml = path("upstream/configs/pipeline.yaml"), published = "facebook/dinov2-with-registers-base";
  std::string text = slurp(yaml);
  for (size_t at; (at = text.find(published)) != std::string::npos;)
    text.replace(at, published.size(), convert_data("rae/encoders/dinov2_bin"));
  spit(yaml, text);
  put_into_cache(path("upstream"), "upstream");
  expect_success(generate(path("upstream"), "folder.safetensors"), options_);
  expect_success(generate("tiny/upstream", "name.safetensors"), options_);
  EXPECT_EQ(slurp(path("name.safetensors")), slurp(path("folder.safetensors")));
  EXPECT_TRUE(holds(expect_success({"labels", "--model", "tiny/upstream", "tench"}, options_), "0  tench"));
  expect_success({"convert", "pipeline", "--repo_or_path", "tiny/upstream", "--output_path", "out"}, options_);
  put_into_cache(tiny_model("pipe"), "pipe");
  expect_success({"convert", "export", "--model", "tiny/pipe", "--output_path", "up", "--dry_run"}, options_);
}

}  // namespace
}  // namespace raedit::cli_test
