// An upstream folder as --model: generate, labels, info, reconstruct. And torch files under info and compare.
#include <filesystem>
#include <map>
#include <sstream>

#include "convert_cli.h"
#include "io/torch_write.h"
#include "io/weight_folder.h"
#include "io/zip_writer.h"
#include "raedit/generator.h"

namespace raedit::cli_test {
namespace {

namespace fs = std::filesystem;

class UpstreamTest : public CliTest {
 protected:
  UpstreamTest() : folder_(path("upstream")) {
    fs::copy(convert_data("pipeline"), folder_, fs::copy_options::recursive);
    for (int i = 0; i < 2; ++i) change_config("'facebook/dinov2-with-registers-base'", "'" + encoder_ + "'");
    offline_.environment = {{"HF_HUB_OFFLINE", "1"}, {"HF_HOME", path("no-cache")}};
  }
  Words generate(const std::string& model, const std::string& output, const Words& more = {}) const {
    return merged({"generate", "--model", model, "--class-id", "3", "--count", "2", "--output", output}, more);
  }
  // Puts `to` in the place of `from` in the YAML.
  void change_config(const std::string& from, const std::string& to) const {
    const std::string file = folder_ + "/configs/pipeline.yaml";
    std::string text = slurp(file);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    spit(file, text.replace(at, from.size(), to));
  }

  void convert_with_guide();

  std::string folder_;
  std::string encoder_ = convert_data("rae/encoders/dinov2_bin");
  RunOptions offline_;
};

TEST_F(UpstreamTest, DrawsWhatTheConvertedFolderDraws) {
  change_config("num_steps: 50", "num_steps: 7");
  change_config("scale: 1.0", "scale: 1.75");
  change_config("t-max: 1.0", "t-max: 0.9");
  expect_success({"convert", "pipeline", "--repo_or_path", folder_, "--output_path", "converted/upstream"});
  const Result direct = run(generate(folder_, "direct.safetensors", {"--json"}), offline_);
  ASSERT_EQ(direct.exit_code, 0) << direct.err;
  EXPECT_TRUE(holds(direct.err, "pipeline.yaml says --steps 7 --guidance 1.75 --guidance-start 0 --guidance-end 0.9\n"))
      << direct.err;
  const Json json = parse_json(direct.out, "stdout");
  EXPECT_EQ(json["steps"], 7);
  EXPECT_EQ(json["guidance"], 1.75);
  EXPECT_TRUE(holds(json["notes"].dump(), "--steps 7"));
  expect_success(generate(path("converted/upstream"), "converted.safetensors",
                          {"--steps", "7", "--guidance", "1.75", "--guidance-end", "0.9"}));
  EXPECT_EQ(slurp(path("direct.safetensors")), slurp(path("converted.safetensors")));
}

// A YAML with autoguidance, and the same converted.
void UpstreamTest::convert_with_guide() {
  const auto weights = open_weight_file(folder_ + "/DiTs/stage2_model.pt");
  std::vector<TensorSource> tensors;
  for (const std::string& name : weights->names())
    tensors.push_back(TensorSource::of(name, name == "final_layer.linear.weight"
                                                 ? Generator(5).randn(weights->info(name).shape)
                                                 : weights->tensor(name)));
  write_torch(folder_ + "/DiTs/guide.pt", tensors);
  const std::string yaml = slurp(folder_ + "/configs/pipeline.yaml");
  const size_t begin = yaml.find("  target: stage2"), end = yaml.find("  ckpt: 'models/DiTs");
  ASSERT_TRUE(begin < end && end != std::string::npos);
  std::string guide;
  std::istringstream lines(yaml.substr(begin, end - begin));
  for (std::string line; std::getline(lines, line);) guide += "  " + line + "\n";
  change_config("  method: 'cfg'\n  scale: 1.0\n",
                "  method: 'autoguidance'\n  scale: 1.5\n  guidance_model:\n" + guide + "    ckpt: DiTs/guide.pt\n");
  expect_success({"convert", "pipeline", "--repo_or_path", folder_, "--output_path", "converted/upstream"});
}

// The weaker model guides, and is guide_transformer/ of the converted folder.
TEST_F(UpstreamTest, AWeakerModelGuidesInBoth) {
  convert_with_guide();
  const Words few{"--steps", "3"};
  expect_success(generate(folder_, "direct.safetensors", few), offline_);
  const Words guided{"--guidance", "1.5", "--guide"};
  const std::string converted = path("converted/upstream");
  expect_success(generate(converted, "guided.safetensors", few + guided + Words{"guide_transformer"}));
  EXPECT_EQ(slurp(path("direct.safetensors")), slurp(path("guided.safetensors")));
  expect_success(generate(converted, "same.safetensors", few + guided + Words{converted + "/transformer"}));
  expect_success(generate(converted, "plain.safetensors", few));
  const Tensor direct = read_tensor(path("direct.safetensors"), "latents");
  EXPECT_GT(max_difference(direct, read_tensor(path("plain.safetensors"), "latents")), 1e-3);
  EXPECT_LT(max_difference(read_tensor(path("same.safetensors"), "latents"),
                           read_tensor(path("plain.safetensors"), "latents")),
            1e-4)
      << "a model that guides itself changes nothing";
  expect_failure(generate(converted, "a.png", {"--guide", "nowhere"}), 1, {"nowhere"});
}

TEST_F(UpstreamTest, AWeakerModelIsCalibratedInBoth) {
  const std::string converted = path("converted/upstream");
  const auto calibrate = [&](const std::string& model, const std::string& output, const Words& more) {
    return merged({"calibrate", "--model", model, "--output", output, "--pictures", "2", "--steps", "2"}, more);
  };
  const Words named{"--guide", "guide_transformer"}, guide_calibration{"--guide-calibration", "guide.safetensors"};
  expect_failure(calibrate(folder_, "guide.safetensors", named), 1, {"no guide", "autoguidance"}, offline_);
  convert_with_guide();
  expect_success(calibrate(folder_, "guide.safetensors", named), offline_);
  expect_success(calibrate(converted, "converted.safetensors", named), offline_);
  EXPECT_EQ(slurp(path("guide.safetensors")), slurp(path("converted.safetensors")));
  expect_success(calibrate(folder_, "model.safetensors", {}), offline_);
  EXPECT_NE(slurp(path("guide.safetensors")), slurp(path("model.safetensors")));
  const Words eight{"--quantize", "int8", "--calibration", "model.safetensors", "--steps", "3"};
  expect_success(generate(folder_, "a.safetensors", eight + guide_calibration), offline_);
  expect_success(generate(folder_, "b.safetensors", eight + named + guide_calibration), offline_);
  expect_success(generate(converted, "c.safetensors", eight + named + Words{"--guidance", "1.5"} + guide_calibration));
  expect_success(generate(folder_, "d.safetensors", eight), offline_);
  EXPECT_EQ(slurp(path("a.safetensors")), slurp(path("b.safetensors")));
  EXPECT_EQ(slurp(path("a.safetensors")), slurp(path("c.safetensors")));
  EXPECT_NE(slurp(path("a.safetensors")), slurp(path("d.safetensors")));
  change_config("method: 'autoguidance'", "method: 'cfg'");
  expect_failure(generate(folder_, "e.safetensors", eight + guide_calibration), 2,
                 {"--guide-calibration", "there is none"}, offline_);
}

// The transformer's numbers are damaged: commands that do not need them do not see it.
TEST_F(UpstreamTest, LoadsTheModelsThatACommandNeeds) {
  const std::string file = folder_ + "/DiTs/stage2_model.pt";
  std::vector<TensorSource> tensors;  // with CRCs, which the committed file is too old for
  for (const auto old = open_weight_file(file); const std::string& name : old->names())
    tensors.push_back(TensorSource::of(name, old->tensor(name).clone()));
  write_torch(file, tensors);
  convert_with_guide();
  expect_success(generate(folder_, "picture.png", {"--steps", "1", "--count", "1"}), offline_);
  const Words calibrate{"calibrate", "--model", folder_, "--pictures", "1", "--steps", "1", "--output"};
  const Words guide{"guide.safetensors", "--guide", "guide_transformer"};
  const Words reconstruct{"reconstruct", "picture.png", "--model", folder_};
  expect_success(calibrate + guide, offline_);
  const std::string calibration = slurp(path("guide.safetensors"));
  const std::string line = expect_success(reconstruct, offline_);

  const auto weights = open_weight_file(file);
  std::string content = slurp(file);
  for (const std::string& name : weights->names())
    if (const TensorInfo& info = weights->info(name); info.offset > 0) content[info.offset] ^= 1;
  spit(file, content);
  expect_failure(calibrate + Words{"model.safetensors"}, 1, {"stage2_model.pt", "tensor"}, offline_);
  fs::remove(path("guide.safetensors"));
  expect_success(calibrate + guide, offline_);
  EXPECT_EQ(slurp(path("guide.safetensors")), calibration);
  EXPECT_EQ(expect_success(reconstruct, offline_), line);
}

TEST_F(UpstreamTest, ReuseIsFoundUnderTheGuidanceOfTheYaml) {
  convert_with_guide();
  change_config("num_steps: 50", "num_steps: 6");
  const auto reuse = [&](const std::string& model, const Words& more) {
    return Words{"reuse", "--model", model, "--pictures", "2", "--passes", "3"} + more;
  };
  const auto found = [&](const std::string& model, const Words& more) {
    return parse_json(expect_success(reuse(model, more + Words{"--json"}), offline_), "reuse");
  };
  const std::string converted = path("converted/upstream");
  const Words six{"--steps", "6"}, guided{"--guidance", "1.5", "--guide", "guide_transformer"};
  const Json direct = found(folder_, {});
  EXPECT_EQ(direct["steps"], 6);
  EXPECT_EQ(direct["guidance"], 1.5);
  EXPECT_EQ(direct["similarity"], found(converted, six + guided)["similarity"]);
  EXPECT_NE(direct["similarity"], found(converted, six)["similarity"]);
  EXPECT_EQ(found(folder_, {"--steps", "5"})["steps"], 5);
  const Result said = run(reuse(folder_, {}), offline_);
  EXPECT_TRUE(holds(said.err, "pipeline.yaml says --steps 6 --guidance 1.5")) << said.err;
  expect_failure({"reuse", "--model", folder_, "--passes", "7"}, 2, {"passes is out of range", "1 to 6"}, offline_);
}

TEST_F(UpstreamTest, OptionsWinOverTheYaml) {
  change_config("num_steps: 50", "num_steps: 7");
  const Result result = run(generate(folder_, "a.safetensors", {"--steps", "3", "--json"}), offline_);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(parse_json(result.out, "stdout")["steps"], 3);
  EXPECT_FALSE(holds(result.err, "--steps 7")) << result.err;
}

TEST_F(UpstreamTest, TheYamlItselfNamesTheModel) {
  expect_success(generate(folder_, "folder.safetensors", {"--steps", "2"}), offline_);
  expect_success(generate(folder_ + "/configs/pipeline.yaml", "yaml.safetensors", {"--steps", "2"}), offline_);
  expect_success(generate(folder_, "config.safetensors", {"--steps", "2", "--config", "configs/pipeline.yaml"}),
                 offline_);
  EXPECT_EQ(slurp(path("folder.safetensors")), slurp(path("yaml.safetensors")));
  EXPECT_EQ(slurp(path("folder.safetensors")), slurp(path("config.safetensors")));
  RunOptions environment = offline_;
  environment.environment["RAEDIT_MODEL_PATH"] = folder_;
  expect_success({"generate", "--class-id", "3", "--count", "2", "--steps", "2", "--output", "env.safetensors"},
                 environment);
  EXPECT_EQ(slurp(path("folder.safetensors")), slurp(path("env.safetensors")));
}

TEST_F(UpstreamTest, OneOfSeveralYamlsMustBeChosen) {
  fs::copy(folder_ + "/configs/pipeline.yaml", folder_ + "/configs/other.yaml");
  expect_failure(generate(folder_, "a.png"), 2,
                 {"several YAML files", "configs/other.yaml, configs/pipeline.yaml", "--config"}, offline_);
  expect_success(generate(folder_, "a.png", {"--steps", "1", "--config", "configs/other.yaml"}), offline_);
  expect_failure({"generate", "--config", "x.yaml"}, 2, {"--config"}, offline_);
}

TEST_F(UpstreamTest, LabelsAreThoseOfImageNet) {
  const std::string all = expect_success({"labels", "--model", folder_}, offline_);
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 1000);
  EXPECT_TRUE(all.starts_with("  0  tench, Tinca tinca\n")) << all.substr(0, 100);
  EXPECT_TRUE(holds(expect_success({"labels", "--model", folder_, "golden retriever"}, offline_), "207  golden"));
  expect_success({"generate", "--model", folder_, "--label", "tench", "--steps", "1", "--output", "t.png"}, offline_);
  change_config("num_classes: 1000", "num_classes: 10");
  expect_failure({"labels", "--model", folder_}, 1, {"this model names no classes", "--class-id"}, offline_);
}

TEST_F(UpstreamTest, InfoSaysWhatTheYamlNamesAndWhatIsThere) {
  fs::remove(folder_ + "/stats/dinov2/wReg_base/imagenet1k/stat.pt");
  const std::string text = expect_success({"info", folder_}, offline_);
  for (const char* part :
       {"upstream folder", "configs/pipeline.yaml: upstream config", "hidden_size         [4,8]",
        "models/DiTs/stage2_model.pt (", "imagenet1k/stat.pt (MISSING)", "50 steps, cfg 1 from 0 to 1"})
    EXPECT_TRUE(holds(text, part)) << part << " not in\n" << text;
  const std::string alone = expect_success({"info", folder_ + "/configs/pipeline.yaml"}, offline_);
  EXPECT_TRUE(holds(alone, "imagenet1k/stat.pt (MISSING)") && holds(alone, "stage2_model.pt (4")) << alone;
  const Json json = parse_json(expect_success({"info", folder_, "--json"}, offline_), "stdout");
  EXPECT_EQ(json["components"][0]["config"]["num_classes"], 1000);
}

TEST_F(UpstreamTest, InfoOfOneStageAndOfBrokenConfigs) {
  const Result result = run({"info", convert_data("stage2")});
  EXPECT_EQ(result.exit_code, 1) << "some of them are wrong on purpose";
  const std::string& stage2 = result.out;
  for (const char* part : {"upstream folder", "configs/base.yaml: upstream config", "models/checkpoints/bare.pt (",
                           "configs/autoguidance.yaml", "guidance model checkpoint", "autoguidance 1.42"})
    EXPECT_TRUE(holds(stage2, part)) << part << " not in\n" << stage2;
  change_config("in_channels: 64", "in_channels: sixty-four");
  const Result broken = run({"info", folder_});
  EXPECT_EQ(broken.exit_code, 1);
  EXPECT_TRUE(holds(broken.out, "CANNOT BE LOADED") && holds(broken.out, "in_channels")) << broken.out;
  fs::create_directory(path("other"));
  spit(path("other/docker-compose.yaml"), "services: {}\n");
  expect_failure({"info", path("other")}, 1, {"not a model folder", "upstream YAML"});
}

TEST_F(UpstreamTest, ReconstructsAsTheConvertedFolderDoes) {
  expect_success(generate(folder_, "picture.png", {"--steps", "1", "--count", "1"}), offline_);
  const std::string direct = expect_success({"reconstruct", "picture.png", "--model", folder_}, offline_);
  const std::string pixels = slurp(path("picture_reconstructed.png"));
  expect_success({"convert", "pipeline", "--repo_or_path", folder_, "--output_path", "converted/upstream"}, offline_);
  EXPECT_EQ(expect_success({"reconstruct", "picture.png", "--model", "converted/upstream"}), direct);
  EXPECT_EQ(slurp(path("picture_reconstructed.png")), pixels);
}

// Matrices that are put together from several tensors, too.
TEST_F(UpstreamTest, PackedWeightsAreKept) {
  const Words few{"--steps", "2", "--count", "1"}, kept{"--packed-cache", "cache"};
  expect_success(generate(folder_, "plain.safetensors", few), offline_);
  expect_success(generate(folder_, "picture.png", few), offline_);
  const auto written = [&] {
    std::map<std::string, fs::file_time_type> times;
    for (const auto& entry : fs::directory_iterator(path("cache")))
      times[entry.path().string()] = entry.last_write_time();
    return times;
  };
  expect_success(generate(folder_, "first.safetensors", few + kept), offline_);
  const auto first = written();
  EXPECT_EQ(first.size(), 2u) << "transformer and decoder";
  const Result result = run(generate(folder_, "second.safetensors", few + kept), offline_);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_FALSE(holds(result.err, "packed")) << result.err;
  EXPECT_EQ(written(), first);
  EXPECT_EQ(slurp(path("first.safetensors")), slurp(path("plain.safetensors")));
  EXPECT_EQ(slurp(path("second.safetensors")), slurp(path("plain.safetensors")));

  const Words reconstruct{"reconstruct", "picture.png", "--model", folder_};
  const std::string plain = expect_success(reconstruct, offline_);
  EXPECT_EQ(expect_success(reconstruct + kept, offline_), plain);
  const auto with_encoder = written();
  EXPECT_EQ(with_encoder.size(), 3u);
  EXPECT_EQ(expect_success(reconstruct + kept, offline_), plain);
  EXPECT_EQ(written(), with_encoder);
}

class TorchInfoTest : public CliTest {
 protected:
  std::string checkpoint(const std::string& name) const { return convert_data("stage2/checkpoints/" + name); }
};

TEST_F(TorchInfoTest, SaysWhatATrainingCheckpointHolds) {
  const std::string text = expect_success({"info", checkpoint("training.pt"), "--tensors"});
  for (const char* part : {"torch file", "checkpoint of a DiTwDDTHead (stage 2)", "format: zip", "    ema", "    model",
                           " tensors, ", "ema.blocks.0.attn.qkv.weight", "  float32     "})
    EXPECT_TRUE(holds(text, part)) << part << " not in\n" << text;
  EXPECT_TRUE(holds(expect_success({"info", checkpoint("legacy.pt")}), "format: legacy"));
}

TEST_F(TorchInfoTest, CountsAreThoseOfTheTensors) {
  const Json torch = parse_json(expect_success({"info", checkpoint("bare.pt"), "--json", "--tensors"}), "stdout");
  const Json safe =
      parse_json(expect_success({"info", checkpoint("bare.safetensors"), "--json", "--tensors"}), "stdout");
  const Json &a = torch["components"][0], &b = safe["components"][0];
  EXPECT_EQ(a["parameters"], b["parameters"]);
  EXPECT_EQ(a["dtypes"], b["dtypes"]);
  EXPECT_EQ(a["tensors"].size(), b["tensors"].size());
  EXPECT_TRUE(holds(a["entries"].dump(), std::to_string(b["tensors"].size()) + " tensors"));
}

TEST_F(TorchInfoTest, BinWeightsOfAFolder) {
  const std::string text = expect_success({"info", convert_data("rae/encoders/dinov2_bin"), "--tensors"});
  for (const char* part : {"dinov2_with_registers", "pytorch_model.bin", "embeddings.cls_token", "hidden_size"})
    EXPECT_TRUE(holds(text, part)) << part << " not in\n" << text;
}

TEST_F(TorchInfoTest, WhatIsNoTorchFile) {
  spit(path("text.pt"), "this is no torch file");
  expect_failure({"info", "text.pt"}, 1, {"text.pt"});
  spit(path("short.pt"), slurp(checkpoint("bare.pt")).substr(0, 20000));
  expect_failure({"info", "short.pt"}, 1, {"short.pt", "byte"});
}

// [x, x], 28 levels deep: 2^28 paths through a file of a few hundred bytes.
TEST_F(TorchInfoTest, TheWalkThroughAFileThatMultipliesEnds) {
  std::string pickle = std::string("\x80\x02]q\0000", 6);
  for (char i = 0; i < 28; ++i) {
    const char next = static_cast<char>(i + 1);
    pickle += std::string("](h") + i + "h" + i + "eq" + next + "0";
  }
  ZipWriter zip(path("bomb.pt"));
  zip.add_aligned("archive/data.pkl", pickle + "h\x1c.", 64);
  zip.add_aligned("archive/version", "3\n", 64);
  zip.commit();
  EXPECT_TRUE(holds(expect_success({"info", "bomb.pt"}), "not listed"));
}

TEST_F(TorchInfoTest, CompareTakesTorchFiles) {
  const std::string equal = expect_success({"compare", checkpoint("bare.pt"), checkpoint("bare.safetensors")});
  EXPECT_TRUE(holds(equal, "tensors agree")) << equal;
  const Result result = run({"compare", checkpoint("bare.pt"), checkpoint("bfloat16.pt")});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_TRUE(holds(result.out, "BEYOND")) << result.out;
}

}  // namespace
}  // namespace raedit::cli_test
