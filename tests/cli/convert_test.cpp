// raedit convert at work: what it writes, what it says, and that a failure leaves nothing behind.
#include <unistd.h>

#include <filesystem>

#include "convert_cli.h"
#include "io/safetensors.h"
#include "io/zip_writer.h"

namespace raedit::cli_test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWeights = "transformer/diffusion_pytorch_model.safetensors";

class ConvertTest : public CliTest {
 protected:
  // A copy of an upstream folder, to be damaged.
  std::string copy(const std::string& name, const std::string& to) const {
    fs::copy(convert_data(name), path(to), fs::copy_options::recursive);
    return path(to);
  }
  Json json_of(const Words& words) const { return parse_json(expect_success(words), "stdout"); }
};

TEST_F(ConvertTest, Stage2BecomesTransformerAndScheduler) {
  const Result result = run(stage2_words({"--verify"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "");
  for (const char* part : {"bare.pt", "scheduler shift 1.41421356", "wrote out/transformer\n", "wrote out/scheduler\n",
                           " of float32 in ", ", verified\n"})
    EXPECT_TRUE(holds(result.err, part)) << part << " not in\n" << result.err;
  EXPECT_EQ(names("out"), (Words{"conversion_metadata.json", "scheduler", "transformer"}));
  EXPECT_EQ(parse_json(slurp(path("out/transformer/config.json")), "config")["hidden_size"], Json::array({4, 8}));
  expect_success({"info", path("out/transformer")});
}

// The same weights from torch's zip and from safetensors, which no unpickler has seen.
TEST_F(ConvertTest, TorchAndSafetensorsGiveTheSameBytes) {
  expect_success(stage2_words({"--output_path", "torch"}));
  expect_success(stage2_words({"--output_path", "safe", "--checkpoint_path", "checkpoints/bare.safetensors"}));
  EXPECT_EQ(slurp(path("torch/") + kWeights), slurp(path("safe/") + kWeights));
}

TEST_F(ConvertTest, DryRunPrintsTheMetadataAndWritesNothing) {
  for (const Words& words : {stage2_words({"--dry_run"}), rae_words({"--dry_run"}), pipeline_words({"--dry_run"})}) {
    const auto before = snapshot();
    const Result result = run(words);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(snapshot(), before);
    EXPECT_TRUE(holds(result.err, "would write out")) << result.err;
    EXPECT_TRUE(holds(result.err, "nothing written")) << result.err;
    const Json metadata = parse_json(result.out, "stdout");
    EXPECT_FALSE(metadata["source"]["files"].empty());
  }
  EXPECT_NEAR(json_of(stage2_words({"--dry_run"}))["scheduler"]["shift"].get<double>(), 1.4142135623730951, 1e-15);
}

TEST_F(ConvertTest, DashesMeanTheSame) {
  for (const Words& words : {stage2_words({"--dry_run", "--transformer_subfolder", "t", "--checkpoint_path",
                                           "checkpoints/training.pt", "--checkpoint_key", "model", "--disable_ema"}),
                             rae_words({"--dry_run", "--scaling_factor", "0.5", "--stats_checkpoint",
                                        "stats/latents.pt", "--num_channels", "3", "--latents_std", "upstream"}),
                             pipeline_words({"--dry_run", "--config_path", "configs/pipeline.yaml"})}) {
    Words dashed = words;
    for (std::string& word : dashed)
      if (word.starts_with("--")) std::replace(word.begin(), word.end(), '_', '-');
    EXPECT_EQ(json_of(dashed), json_of(words));
  }
}

TEST_F(ConvertTest, JsonIsTheReport) {
  const Json json = json_of(stage2_words({"--json", "--quiet", "--verify-load", "--dtype", "bfloat16"}));
  EXPECT_EQ(json["command"], "convert stage2");
  EXPECT_EQ(json["dtype"], "bfloat16");
  EXPECT_EQ(json["verified"], true);
  EXPECT_EQ(json["written"], (Json{"out/transformer", "out/scheduler"}));
  EXPECT_EQ(json["metadata"], parse_json(slurp(path("out/conversion_metadata.json")), "metadata"));
  const SafetensorsFile file = SafetensorsFile::open(path("out/") + kWeights);
  EXPECT_EQ(json["tensors"], file.names().size());
  size_t bytes = 0;
  for (const std::string& name : file.names()) {
    EXPECT_EQ(file.info(name).dtype, DType::bfloat16) << name;
    bytes += file.info(name).nbytes;
  }
  EXPECT_EQ(json["bytes"], bytes);
  EXPECT_EQ(json["metadata"]["source"]["files"][0]["sha256"].get<std::string>().size(), 64);
}

TEST_F(ConvertTest, QuietSaysNothing) {
  const Result result = run(stage2_words({"--quiet"}));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out + result.err, "");
}

TEST_F(ConvertTest, ShardsAreNoLargerThanAsked) {
  expect_success(stage2_words({"--max_shard_bytes", "8KB", "--verify"}));
  size_t shards = 0;
  for (const std::string& name : names("out/transformer"))
    if (name.ends_with(".safetensors")) {
      ++shards;
      EXPECT_LE(fs::file_size(path("out/transformer/") + name), 8000 + 4096) << "8 KB of numbers, and the header";
    }
  EXPECT_GT(shards, 1);
  expect_success({"info", path("out/transformer")});
}

TEST_F(ConvertTest, OverAPreviousConversion) {
  expect_success(stage2_words({"--max-shard-bytes", "8KB"}));
  spit(path("out/mine.txt"), "kept");
  expect_success(stage2_words({"--dtype", "float16"}));
  EXPECT_EQ(slurp(path("out/mine.txt")), "kept");
  EXPECT_EQ(SafetensorsFile::open(path("out/") + kWeights).info("s_embedder.proj.weight").dtype, DType::float16);
  EXPECT_EQ(names("out/transformer"), (Words{"config.json", "diffusion_pytorch_model.safetensors"}))
      << "the shards would be read instead";
}

TEST_F(ConvertTest, WhereNothingCanBeWritten) {
  spit(path("out"), "in the way");
  expect_failure(stage2_words(), 1, {"there is a file where a folder should be", "out"});
  expect_failure(stage2_words({"--output_path", "out/deeper"}), 1, {"there is a file where a folder should be"});
  expect_failure(stage2_words({"--output_path", "/proc/raedit/out"}), 1, {"/proc"});
  expect_success(stage2_words({"--output_path", "/proc/raedit/out", "--dry_run"}));
}

TEST_F(ConvertTest, AFullDiskLeavesNothing) {
  RunOptions full;
  full.file_size_limit = 9000;
  expect_failure(stage2_words(), 1, {"File too large"}, full);
}

TEST_F(ConvertTest, WhatIsNotThere) {
  expect_failure({"convert", "stage2", "--repo_or_path", "nowhere", "--config_path", "c.yaml", "--output_path", "out"},
                 1, {"nowhere"});
  expect_failure(stage2_words({}, "configs/bass.yaml"), 1, {"configs/bass.yaml", "configs/base.yaml"});
  expect_failure(stage2_words({"--checkpoint_path", "checkpoints/bear.pt"}), 1,
                 {"checkpoints/bear.pt", "did you mean 'checkpoints/bare.pt'"});
  expect_failure(stage2_words({"--checkpoint_path", "checkpoints/training.pt", "--checkpoint_key", "emma"}), 1,
                 {"training.pt", "emma", "ema"});
  expect_failure(rae_words({"--variant", "huge"}), 1, {"huge"});
  expect_failure({"convert", "export", "--model", "nowhere", "--output_path", "out"}, 1, {"nowhere"});
}

TEST_F(ConvertTest, WrongConfigsAreNamed) {
  spit(path("broken.yaml"), "stage_2:\n  target: [\n");
  expect_failure(stage2_words({}, path("broken.yaml")), 1, {"broken.yaml"});
  spit(path("list.yaml"), "- 1\n- 2\n");
  expect_failure(stage2_words({}, path("list.yaml")), 1, {"list.yaml"});
  expect_failure(stage2_words({}, "configs/wrong_no_latent_size.yaml"), 1, {"latent_size"});
  expect_failure(stage2_words({}, "configs/wrong_not_linear.yaml"), 1, {"path_type"});
  expect_failure(stage2_words({}, "configs/wrong_wrong_classes.yaml"), 1,
                 {"y_embedder.embedding_table.weight", "[11, 4]", "[13, 4]"});
  expect_failure(stage2_words({}, "configs/wrong_missing_block.yaml"), 1, {"blocks.2."});
}

TEST_F(ConvertTest, ATruncatedCheckpointNamesItsOffset) {
  const std::string folder = copy("stage2", "upstream");
  const std::string file = folder + "/checkpoints/bare.pt";
  for (const size_t length : {0u, 3u, 100u, 20000u, 33000u}) {
    spit(file, slurp(convert_data("stage2/checkpoints/bare.pt")).substr(0, length));
    expect_failure(stage2_words({"--repo_or_path", folder}), 1, {"bare.pt", "byte"});
  }
}

// Neither the pickle alone nor one in a zip runs: the global is named, and the command is not.
TEST_F(ConvertTest, HostileCheckpointsAreRefused) {
  const std::string pickle =
      "\x80\x02"
      "cposix\nsystem\n(S'touch raedit_was_here'\ntR.";
  spit(path("plain.pt"), pickle);
  ZipWriter zip(path("zipped.pt"));
  zip.add_aligned("archive/data.pkl", pickle, 64);
  zip.add_aligned("archive/version", "3\n", 64);
  zip.commit();
  for (const char* name : {"plain.pt", "zipped.pt"}) {
    expect_failure(stage2_words({"--checkpoint_path", path(name)}), 1, {name, "posix.system"});
    expect_failure({"info", name}, 1, {name, "posix.system"});
    EXPECT_FALSE(fs::exists(path("raedit_was_here")));
  }
}

TEST_F(ConvertTest, RaeBecomesAnAutoencoder) {
  const Json json = json_of(rae_words({"--json", "--verify"}));
  EXPECT_EQ(names("out"), (Words{"config.json", "conversion_metadata.json", "diffusion_pytorch_model.safetensors"}));
  EXPECT_GT(json["tensors"], 40);
  EXPECT_TRUE(holds(expect_success({"info", path("out")}), "AutoencoderRAE"));
}

TEST_F(ConvertTest, ThereAndBackAgain) {
  expect_success(pipeline_words({"--verify"}));
  expect_success({"convert", "export", "--model", "out", "--output_path", "up"});
  const Json again = json_of({"convert", "pipeline", "--repo_or_path", "up", "--output_path", "again", "--json"});
  for (const char* part : {"transformer", "vae"}) {
    const std::string file = std::string(part) + "/diffusion_pytorch_model.safetensors";
    expect_success({"compare", "out/" + file, "again/" + file});
  }
  EXPECT_EQ(slurp(path("out/model_index.json")), slurp(path("again/model_index.json")));
}

// A checkpoint large enough that there is something to interrupt.
TEST_F(ConvertTest, CtrlCLeavesNothing) {
  expect_success({"convert", "export", "--model", source_path("models/emoji64/transformer"), "--output_path", "up"});
  std::string config;
  for (const std::string& name : names("up"))
    if (name.ends_with(".yaml")) config = name;
  const auto before = snapshot();
  RunOptions options;
  options.interrupt_after_ms = 0;
  const Result result =
      run({"convert", "stage2", "--repo_or_path", "up", "--config_path", config, "--output_path", "out", "--verify"},
          options);
  EXPECT_EQ(result.exit_code, 130) << result.err;
  EXPECT_TRUE(holds(result.err, "raedit: error: interrupted\n")) << result.err;
  EXPECT_EQ(snapshot(), before);
}

}  // namespace
}  // namespace raedit::cli_test
