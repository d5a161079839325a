// What conversion promises beyond the reference's cases: round trips, running upstream's folder as it is, one clear
// error each, and nothing half done.
#include "raedit/convert.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "convert/export_statistics.h"
#include "convert/latent_statistics.h"
#include "convert/recipe.h"
#include "convert/translated_weights.h"
#include "convert/upstream_checkpoint.h"
#include "io/files.h"
#include "io/io_test_util.h"
#include "io/safetensors.h"
#include "io/staged_folder.h"
#include "io/torch_write.h"
#include "io/zip_writer.h"

namespace raedit {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::ScratchFolder;
using test::spit;

const std::string kData = std::string(RAEDIT_TEST_DATA) + "/convert";

bool same_numbers(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.contiguous().raw(), b.contiguous().raw(), a.nbytes()) == 0;
}

void expect_same_weights(const std::string& a, const std::string& b) {
  const SafetensorsSet x = SafetensorsSet::open(a), y = SafetensorsSet::open(b);
  EXPECT_EQ(x.names(), y.names());
  for (const std::string& name : x.names()) EXPECT_TRUE(same_numbers(x.tensor(name), y.tensor(name))) << name;
}

// The tiny upstream folder, with its encoder, ready to convert.
class Convert : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::make_encoder(kData + "/rae/encoders/dinov2", "single", encoder_);
    pipeline_.repo_or_path = kData + "/pipeline";
    pipeline_.config_path = "configs/pipeline.yaml";
    pipeline_.encoder_name_or_path = encoder_;
    stage2_.repo_or_path = kData + "/stage2";
    stage2_.config_path = "configs/base.yaml";
    output_.output_path = scratch_ / "out";
  }
  // Its decoder is none of the presets.
  ConvertRaeOptions tiny_rae() const {
    ConvertRaeOptions rae;
    rae.repo_or_path = kData + "/rae/repo";
    rae.encoder_type = "dinov2";
    rae.encoder_name_or_path = encoder_;
    rae.variant = "tiny";
    rae.encoder_input_size = 28;
    rae.patch_size = 2;
    return rae;
  }
  void expect_nothing_written() {
    EXPECT_EQ(scratch_.names(), std::vector<std::string>{"encoder"}) << "something was left behind";
  }

  ScratchFolder scratch_;
  const std::string encoder_ = scratch_ / "encoder";
  ConvertPipelineOptions pipeline_;
  ConvertStage2Options stage2_;
  ConvertOutput output_;
};

RAEDiTPipelineOutput draw(const RAEDiTPipeline& pipeline) {
  Context ctx;
  RAEDiTPipelineArguments arguments;
  arguments.class_labels = {1, 3};
  arguments.num_inference_steps = 3;
  arguments.guidance_scale = 2.0;
  arguments.output_type = OutputType::pt;
  return pipeline(ctx, arguments);
}

TEST_F(Convert, UpstreamAsItIsDrawsWhatTheConvertedFolderDraws) {
  convert_pipeline(pipeline_, output_);
  const auto converted = draw(RAEDiTPipeline::from_pretrained(output_.output_path));
  const auto direct = draw(open_upstream(pipeline_).pipeline);
  EXPECT_TRUE(same_numbers(converted.latents, direct.latents));
  EXPECT_TRUE(same_numbers(converted.images, direct.images));
}

TEST_F(Convert, TheGuidanceModelGuides) {
  // A folder whose YAML asks for autoguidance: the guide is converted beside the transformer, and guides.
  stage2_.config_path = "configs/autoguidance.yaml";
  convert_stage2(stage2_, output_);
  const auto guide = RAEDiT2DModel::from_pretrained(output_.output_path + "/guide_transformer");
  const auto transformer = RAEDiT2DModel::from_pretrained(output_.output_path + "/transformer");
  convert_pipeline(pipeline_, output_);
  const RAEDiTPipeline other = RAEDiTPipeline::from_pretrained(output_.output_path);
  Context ctx;
  RAEDiTPipelineArguments arguments;
  arguments.class_labels = {1};
  arguments.guidance_scale = 1.5;
  arguments.guide_transformer = &guide;
  arguments.output_type = OutputType::latent;
  // The tiny pipeline has other latents than the tiny guide: refused before any work.
  expect_error(ErrorCode::invalid_argument, {"guide_transformer does not fit"}, [&] { other(ctx, arguments); });
  EXPECT_EQ(guide.config().in_channels, transformer.config().in_channels);
}

TEST_F(Convert, TwoModelsDoNotShareAFolder) {
  stage2_.config_path = "configs/autoguidance.yaml";
  stage2_.transformer_subfolder = "guide_transformer";
  expect_error(ErrorCode::invalid_argument, {"one subfolder", "guide_transformer"},
               [&] { convert_stage2(stage2_, output_); });
  expect_nothing_written();
}

TEST_F(Convert, AModelThatGuidesItselfChangesNothing) {
  const UpstreamPipeline upstream = open_upstream(pipeline_);
  EXPECT_FALSE(upstream.guide_transformer.has_value());
  Context ctx;
  RAEDiTPipelineArguments arguments;
  arguments.class_labels = {1, 3};
  arguments.num_inference_steps = 3;
  arguments.output_type = OutputType::latent;
  const Tensor plain = upstream.pipeline(ctx, arguments).latents;
  arguments.guide_transformer = &upstream.pipeline.transformer();
  arguments.guidance_scale = 3.0;  // g + 3 (v - g) with g = v
  EXPECT_TRUE(same_numbers(upstream.pipeline(ctx, arguments).latents, plain));
}

TEST_F(Convert, ExportAndBackIsTheSameToTheLastBit) {
  convert_pipeline(pipeline_, output_);
  ConvertOutput exported = output_, again = output_;
  exported.output_path = scratch_ / "exported";
  again.output_path = scratch_ / "again";
  convert_export({output_.output_path}, exported);
  EXPECT_TRUE(is_upstream_folder(exported.output_path));
  EXPECT_FALSE(is_upstream_folder(output_.output_path));
  ConvertPipelineOptions back;
  back.repo_or_path = exported.output_path;  // its YAML names everything else
  convert_pipeline(back, again);
  expect_same_weights(output_.output_path + "/transformer", again.output_path + "/transformer");
  expect_same_weights(output_.output_path + "/vae", again.output_path + "/vae");
  for (const char* file : {"/transformer/config.json", "/scheduler/scheduler_config.json", "/vae/config.json"})
    EXPECT_TRUE(read_file(output_.output_path + file) == read_file(again.output_path + file)) << file;
}

TEST_F(Convert, AnExportIsVerifiedToo) {
  convert_pipeline(pipeline_, output_);
  ConvertOutput output;
  output.output_path = scratch_ / "exported";
  output.dtype = DType::bfloat16;
  output.verify_load = true;
  uint64_t verified = 0;
  output.progress = [&](const std::string& what, uint64_t done, uint64_t) {
    if (what == "verify") verified = done;
    return true;
  };
  const ConvertReport report = convert_export({.model = output_.output_path}, output);
  EXPECT_GT(report.bytes, 0u);
  EXPECT_EQ(verified, report.bytes);
}

TEST_F(Convert, PathsNeedNotBeUtf8) {
  stage2_.repo_or_path = scratch_ / "l\xf8s";
  fs::copy(kData + "/stage2", stage2_.repo_or_path, fs::copy_options::recursive);
  const ConvertReport report = convert_stage2(stage2_, output_);
  EXPECT_NE(report.metadata.find("/l\xef\xbf\xbds"), std::string::npos);
  EXPECT_EQ(read_file(output_.output_path + "/conversion_metadata.json"), report.metadata);
}

TEST_F(Convert, WhatOnlyHasTheNameOfAYamlIsNoUpstreamFolder) {
  const std::string folder = scratch_ / "other";
  create_directories(folder + "/folder.yaml");
  fs::create_symlink("nowhere", folder + "/link.yaml");
  spit(folder + "/back\\slash.yaml", "a: 1");
  EXPECT_FALSE(is_upstream_folder(folder));
}

TEST_F(Convert, DryRunChecksEverythingAndWritesNothing) {
  output_.dry_run = true;
  const ConvertReport report = convert_pipeline(pipeline_, output_);
  EXPECT_NE(report.metadata.find("\"transformer\""), std::string::npos);
  EXPECT_GT(report.num_tensors, 100);
  expect_nothing_written();
}

TEST_F(Convert, CancelledLeavesNothing) {
  int calls = 0;
  output_.progress = [&](const std::string&, uint64_t, uint64_t) { return ++calls < 5; };
  expect_error(ErrorCode::cancelled, {"cancelled"}, [&] { convert_pipeline(pipeline_, output_); });
  EXPECT_EQ(calls, 5);
  expect_nothing_written();
}

TEST_F(Convert, FailureLeavesAnOlderConversionAsItWas) {
  convert_stage2(stage2_, output_);
  const std::string weights = output_.output_path + "/transformer/diffusion_pytorch_model.safetensors";
  const std::string before = read_file(weights);
  output_.progress = [](const std::string&, uint64_t done, uint64_t total) { return done < total / 2; };
  stage2_.checkpoint_path = "checkpoints/training.pt";
  stage2_.disable_ema = true;
  expect_error(ErrorCode::cancelled, {}, [&] { convert_stage2(stage2_, output_); });
  EXPECT_TRUE(read_file(weights) == before);
  output_.progress = {};
  convert_stage2(stage2_, output_);
  EXPECT_FALSE(read_file(weights) == before);
}

TEST_F(Convert, OverAnOlderConversionNoOldWeightsStay) {
  convert_stage2(stage2_, output_);
  const std::string folder = output_.output_path + "/transformer/";
  output_.max_shard_bytes = 4000;
  convert_stage2(stage2_, output_);
  EXPECT_FALSE(fs::exists(folder + "diffusion_pytorch_model.safetensors"));
  EXPECT_TRUE(fs::exists(folder + "diffusion_pytorch_model.safetensors.index.json"));
  output_.max_shard_bytes = 10'000'000;
  spit(folder + "notes.txt", "mine");
  convert_stage2(stage2_, output_);
  EXPECT_FALSE(fs::exists(folder + "diffusion_pytorch_model.safetensors.index.json"));
  EXPECT_EQ(SafetensorsSet::open(folder).shards().size(), 1u);
  EXPECT_EQ(read_file(folder + "notes.txt"), "mine");
}

TEST_F(Convert, WritesTheTypeAskedForAndKeepsIntegers) {
  output_.dtype = DType::bfloat16;
  output_.verify_load = true;
  convert_stage2(stage2_, output_);
  const SafetensorsSet weights = SafetensorsSet::open(output_.output_path + "/transformer");
  for (const std::string& name : weights.names()) EXPECT_EQ(weights.info(name).dtype, DType::bfloat16) << name;
  output_.dtype = DType::float64;
  expect_error(ErrorCode::invalid_argument, {"float64", "bfloat16"}, [&] { convert_stage2(stage2_, output_); });
}

TEST_F(Convert, OneErrorSaysWhatIsWrong) {
  const auto wrong = [&](const char* config, ErrorCode code, const std::vector<std::string>& parts) {
    stage2_.config_path = std::string("configs/") + config;
    expect_error(code, parts, [&] { convert_stage2(stage2_, output_); });
    expect_nothing_written();
  };
  wrong("nothing.yaml", ErrorCode::not_found, {"config not found", "configs/nothing.yaml"});
  wrong("wrong_absent_checkpoint.yaml", ErrorCode::not_found, {"stage-2 checkpoint not found", "nothing.pt"});
  wrong("wrong_block_of_other_width.yaml", ErrorCode::format, {"blocks.1", "wrong shape", "[8]", "[4]"});
  wrong("wrong_missing_block.yaml", ErrorCode::format, {"blocks.2", "missing"});
  wrong("wrong_missing_qknorm.yaml", ErrorCode::format, {"q_norm.weight", "missing"});
  wrong("wrong_unexpected_qknorm.yaml", ErrorCode::format, {"q_norm.weight", "does not belong"});
  wrong("wrong_wrong_classes.yaml", ErrorCode::format, {"embedding_table", "[11, 4]", "[13, 4]"});
  wrong("wrong_not_linear.yaml", ErrorCode::unsupported, {"path_type"});
  wrong("wrong_latent_channels.yaml", ErrorCode::format, {"latent_size"});
  wrong("wrong_no_checkpoint.yaml", ErrorCode::invalid_argument, {"checkpoint", "stage_2.ckpt"});
}

TEST_F(Convert, NamesTheKeysThatACheckpointHas) {
  stage2_.checkpoint_path = "checkpoints/training.pt";
  stage2_.checkpoint_key = "emma";
  expect_error(ErrorCode::not_found, {"'emma'", "ema"}, [&] { convert_stage2(stage2_, output_); });
  stage2_.checkpoint_key = "epoch";
  expect_error(ErrorCode::format, {"epoch"}, [&] { convert_stage2(stage2_, output_); });
  expect_nothing_written();
}

TEST_F(Convert, SaysWhichDecoderPresetFits) {
  ConvertRaeOptions rae = tiny_rae();
  expect_error(ErrorCode::format, {"other sizes", "width 16", "ViTXL"}, [&] { convert_rae(rae, output_); });
  rae.decoder_config_name = "ViTXXL";
  expect_error(ErrorCode::invalid_argument, {"ViTXXL", "ViTXL"}, [&] { convert_rae(rae, output_); });
  rae.decoder_config_name = kData + "/rae/repo/configs/decoder/tiny/config.json";
  rae.encoder_type = "dinov3";
  expect_error(ErrorCode::invalid_argument, {"dinov3", "dinov2"}, [&] { convert_rae(rae, output_); });
  rae.encoder_type = "mae";
  rae.decoder_checkpoint = "decoders/dinov2/wReg_base/tiny/model.pt";
  expect_error(ErrorCode::format, {"model_type", "dinov2_with_registers", "vit_mae"},
               [&] { convert_rae(rae, output_); });
  rae.encoder_type = "dinov2";
  rae.encoder_input_size = 56;  // the statistics are those of 2 x 2 latents
  expect_error(ErrorCode::format, {"statistics do not fit", "stat.pt"}, [&] { convert_rae(rae, output_); });
  expect_nothing_written();
}

TEST_F(Convert, TheTwoEpsilonsDifferByJustThat) {
  ConvertRaeOptions rae = tiny_rae();
  rae.decoder_config_name = kData + "/rae/repo/configs/decoder/tiny/config.json";
  convert_rae(rae, output_);
  const Tensor script = SafetensorsSet::open(output_.output_path).tensor("_latents_std").clone();
  rae.latents_std = LatentsStd::upstream;
  convert_rae(rae, output_);
  const Tensor upstream = SafetensorsSet::open(output_.output_path).tensor("_latents_std");
  for (int64_t i = 0; i < script.numel(); ++i) EXPECT_EQ(upstream.data<float>()[i], script.data<float>()[i] - 1e-5f);
}

TEST_F(Convert, WithoutTheEncoderItStillDraws) {
  // The encoder's published name, and nothing in the cache.
  const std::string folder = scratch_ / "upstream";
  fs::copy(kData + "/pipeline", folder, fs::copy_options::recursive);
  ConvertPipelineOptions options;
  options.repo_or_path = folder;
  options.config_path = "configs/pipeline.yaml";
  options.encoder_name_or_path = "nobody/unknown-encoder";
  HubOptions hub;
  hub.cache_dir = scratch_ / "empty-cache";
  expect_error(ErrorCode::not_found, {"nobody/unknown-encoder"}, [&] { open_upstream(options, {}, hub); });
}

TEST(UpstreamStatistics, LeadBackToTheSameStd) {
  std::vector<float> values;
  for (int i = 0; i < 4000; ++i) values.push_back(0.0032f + 0.00137f * static_cast<float>(i) * (i % 7 + 1));
  const auto n = static_cast<int64_t>(values.size());
  const MemoryWeights vae("vae",
                          {{"_latents_mean", Tensor::from(values, {n})}, {"_latents_std", Tensor::from(values, {n})}});
  const NamedTensors statistics = convert::upstream_statistics(vae);
  ASSERT_EQ(statistics.size(), 2u);
  for (int64_t i = 0; i < n; ++i)
    EXPECT_EQ(std::sqrt(statistics[1].second.data<float>()[i] + 1e-5f), values[static_cast<size_t>(i)]) << i;
}

std::string pickled(const std::string& text) {
  return std::string("X") + static_cast<char>(text.size()) + std::string(3, '\0') + text;
}

TEST(LatentStatistics, NoneIsNothingAndWhatElseIsThereDoesNotMatter) {
  ScratchFolder scratch;
  const std::string path = scratch / "stat.pt";
  const auto write = [&](const std::string& mean) {
    const std::string zero("K\0", 2);
    const std::string storage =
        "(" + pickled("storage") + "ctorch\nFloatStorage\n" + pickled("0") + pickled("cpu") + "K\1tQ";
    const std::string tensor = "ctorch._utils\n_rebuild_tensor_v2\n(" + storage + zero + "K\1\x85K\1\x85\x89}tR";
    const float var = 4.0f;
    ZipWriter zip(path);
    zip.add_aligned("stat/data.pkl",
                    "\x80\2}(" + pickled("mean") + mean + pickled("count") + "K\5" + pickled("var") + tensor + "u.",
                    64);
    zip.add_aligned("stat/data/0", {reinterpret_cast<const char*>(&var), sizeof(var)}, 64);
    zip.commit();
  };
  write("N");
  const convert::LatentStatistics found = convert::read_latent_statistics(path, LatentsStd::diffusers, {1, 1, 1});
  EXPECT_FALSE(found.mean.defined());
  EXPECT_EQ(found.std.to_vector<float>(), std::vector<float>{std::sqrt(4.0f + 1e-5f)});
  write("K\3");
  expect_error(ErrorCode::format, {"stat.pt: mean", "an integer"}, [&] {
    convert::read_latent_statistics(path, LatentsStd::diffusers, {1, 1, 1});
  });
}

TEST(LatentStatistics, MustBeFiniteInTheTypeOfTheConfig) {
  ScratchFolder scratch;
  for (const double value : {1e300, -std::numeric_limits<double>::infinity()}) {
    Tensor mean = Tensor::empty({1}, DType::float64);
    mean.data<double>()[0] = value;
    write_torch(scratch / "stat.pt", {TensorSource::of("mean", mean)});
    expect_error(ErrorCode::format, {"stat.pt: mean", "not finite"}, [&] {
      convert::read_latent_statistics(scratch / "stat.pt", LatentsStd::diffusers, {1, 1, 1});
    });
  }
}

TEST(UpstreamCheckpoint, AnyNumberOfWrappersComesOff) {
  ScratchFolder scratch;
  std::string wrappers;
  for (int i = 0; i < 30'000; ++i) wrappers += i % 2 == 0 ? "module." : "_orig_mod.";
  const Tensor x = Tensor::from(std::vector<float>{1, 2, 3}, {3});
  write_torch(scratch / "x.pt", {TensorSource::of(wrappers + "x", x), TensorSource::of(wrappers + "model.y", x)});
  const convert::StateDict state = convert::open_state_dict(scratch / "x.pt", "", {"model"});
  EXPECT_EQ(state.weights->names(), (std::vector<std::string>{"x", "model.y"}));
  EXPECT_EQ(state.weights->tensor("x").to_vector<float>(), (std::vector<float>{1, 2, 3}));
}

TEST(TranslatedWeights, SplitsSwapsAndJoins) {
  std::vector<float> values(24);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const auto source = std::make_shared<MemoryWeights>(
      "source", NamedTensors{{"a", Tensor::from(values, {6, 4})}, {"b", Tensor::from(values, {4, 6})}});
  const convert::TranslatedWeights weights(
      source, {{"middle", {{"a", 1, 3}}}, {"swapped", {{"a", 1, 2}, {"a", 0, 2}}}, {"whole", {{"b"}}}});
  EXPECT_EQ(weights.tensor("middle").to_vector<float>(), (std::vector<float>{8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT_EQ(weights.info("swapped").shape, (Shape{6, 4}));
  EXPECT_EQ(weights.tensor("swapped").to_vector<float>()[0], 12.0f);
  EXPECT_EQ(weights.tensor("swapped").to_vector<float>()[12], 0.0f);
  EXPECT_EQ(weights.tensor("whole").raw(), source->tensor("b").raw());
  expect_error(ErrorCode::format, {"'b'", "[4, 6]", "3 divides"}, [&] {
    convert::TranslatedWeights(source, {{"x", {{"b", 0, 3}}}});
  });
  expect_error(ErrorCode::format, {"do not fit together"}, [&] {
    convert::TranslatedWeights(source, {{"x", {{"a"}, {"b"}}}});
  });
  expect_error(ErrorCode::format, {"two tensors", "'x'"}, [&] {
    convert::TranslatedWeights(source, {{"x", {{"a"}}}, {"x", {{"b"}}}});
  });
  expect_error(ErrorCode::not_found, {"'c'"}, [&] { convert::TranslatedWeights(source, {{"x", {{"c"}}}}); });
}

TEST(StagedFolder, AppearsWholeOrNotAtAll) {
  ScratchFolder scratch;
  const std::string path = scratch / "model";
  {
    StagedFolder staged(path);
    write_file(staged.at("a.txt"), "1");
    EXPECT_FALSE(fs::exists(path));
  }
  EXPECT_TRUE(scratch.names().empty());
  {
    StagedFolder staged(path + "/");
    create_directories(staged.at("sub"));
    write_file(staged.at("sub/a.txt"), "1");
    staged.commit();
  }
  EXPECT_EQ(scratch.names(), std::vector<std::string>{"model"});
  EXPECT_EQ(read_file(path + "/sub/a.txt"), "1");
  for (const bool commits : {false, true}) {  // into a folder that is there: nothing beside it is needed
    StagedFolder staged(path);
    EXPECT_EQ(scratch.names(), std::vector<std::string>{"model"});
    create_directories(staged.at("sub"));
    write_file(staged.at("sub/a.txt"), "2");
    if (commits) staged.commit();
  }
  EXPECT_EQ(read_file(path + "/sub/a.txt"), "2");
  EXPECT_EQ(std::distance(fs::directory_iterator(path), fs::directory_iterator()), 1);
  // What a process of this number was killed over does not come along.
  const std::string prefix = path + fmt::format("/.partial-{}-", ::getpid());
  for (int i = 0; i < 1000; ++i) {
    create_directories(prefix + fmt::to_string(i));
    spit(prefix + fmt::to_string(i) + "/half.bin", "x");
  }
  {
    StagedFolder staged(path);
    write_file(staged.at("b.txt"), "3");
    staged.commit();
  }
  EXPECT_TRUE(fs::exists(path + "/b.txt"));
  EXPECT_FALSE(fs::exists(path + "/half.bin"));
  spit(scratch / "file", "x");
  expect_error(ErrorCode::invalid_argument, {"file"}, [&] { StagedFolder staged(scratch / "file"); });
}

}  // namespace
}  // namespace raedit
