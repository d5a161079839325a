// config.json and model_index.json from strangers: every field with values that it cannot have, files that are no JSON,
// too deep, too large, of another class. Large ones that are fine must load.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "models/autoencoder_rae.h"
#include "models/checkpoint.h"
#include "raedit/rae_dit_pipeline.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

using test::expect_error;
using test::ModelFolder;
using test::ScratchFolder;
using test::test_data;

// A key, and JSON texts that it must not have.
struct Field {
  const char* key;
  std::vector<const char*> bad;
};

using Read = void (*)(const std::string& path);

void read_transformer(const std::string& path) {
  RAEDiT2DModelConfig::from_file(path);
}
void read_autoencoder(const std::string& path) {
  AutoencoderRAEConfig::from_file(path);
}

// Each value alone, in an otherwise good config; the message must name file and key.
void expect_refused(const std::string& config_file, const std::vector<Field>& fields, Read read) {
  const Json good = test::read_json(config_file);
  const ScratchFolder scratch;
  const std::string path = scratch / "some.json";
  test::write_json(path, good);
  read(path);
  std::set<std::string> keys;
  for (const Field& field : fields) {
    keys.insert(field.key);
    for (const char* value : field.bad) {
      SCOPED_TRACE(std::string(field.key) + " = " + value);
      Json config = good;
      config[field.key] = Json::parse(value);
      test::write_json(path, config);
      expect_error(ErrorCode::format, {path, field.key, "' is wrong", "expected"}, [&] { read(path); });
    }
  }
  for (const auto& [key, value] : good.items()) EXPECT_TRUE(key.starts_with('_') || keys.contains(key)) << key;
}

TEST(TransformerConfig, EveryFieldIsChecked) {
  // Of transformer/base: sample_size 4, patch_size 1, hidden_size [32, 64], num_heads [4, 4].
  const std::vector<const char*> not_a_flag = {"0", "1", "\"true\"", "null", "[true]"};
  expect_refused(
      test_data("transformer/base/config.json"),
      {{"sample_size", {"0", "-4", "4.0", "\"4\"", "null", "[4, 4]", "1048577", "1024", "1e3", "18446744073709551615"}},
       {"patch_size", {"0", "-1", "3", "[1, 3]", "[1]", "[1, 1, 1]", "[1, 0]", "[1, \"1\"]", "1.0", "null"}},
       {"in_channels", {"0", "-8", "8.5", "\"8\"", "null", "9223372036854775807"}},
       {"hidden_size", {"0", "[32, -64]", "[32, 66]", "[30, 64]", "[32]", "[]", "{}", "\"32\"", "1048580"}},
       {"depth", {"-1", "[2, -1]", "[2]", "4097", "[4097, 1]", "2.0", "null"}},
       {"num_heads", {"0", "[4, 0]", "[3, 4]", "[4, 5]", "[16, 4]", "\"4\"", "[4, 4, 4]"}},
       {"mlp_ratio", {"0", "-1.5", "1025", "\"2\"", "null", "[2, 2]", "true"}},
       {"class_dropout_prob", {"-0.1", "1.1", "\"0.1\"", "null", "false"}},
       {"num_classes", {"0", "-1", "10.0", "\"10\"", "null", "1048577"}},
       {"use_qknorm", not_a_flag},
       {"use_swiglu", not_a_flag},
       {"use_rope", not_a_flag},
       {"use_rmsnorm", not_a_flag},
       {"wo_shift", not_a_flag},
       {"use_pos_embed", not_a_flag}},
      read_transformer);
}

TEST(AutoencoderConfig, EveryFieldIsChecked) {
  // Of autoencoder/dinov2: encoder 128 wide, 56 pixels in patches of 14; decoder 64 wide, 4 heads, patches of 8.
  const std::vector<const char*> not_a_flag = {"0", "1", "\"true\"", "null"};
  const std::vector<const char*> not_layers = {"-1", "4097", "2.0", "\"2\"", "null"};
  const std::vector<const char*> not_statistics = {
      "\"0\"",         "true",        "{}",       "[]",          "[[], []]", "[1, \"2\"]",
      "[[1, 2], [3]]", "[[1, 2], 3]", "[1, [2]]", "[[[[[1]]]]]", "[null]"};
  const std::vector<const char*> not_colours = {"0.5", "[0.5, 0.5]", "[0.5, 0.5, \"0.5\"]", "[[1, 2, 3]]", "{}"};
  expect_refused(test_data("autoencoder/dinov2/config.json"),
                 {{"encoder_type", {"\"dino\"", "\"\"", "2", "null"}},
                  {"encoder_hidden_size", {"0", "-128", "100", "128.0", "\"128\"", "null", "67108864"}},
                  {"encoder_patch_size", {"0", "-14", "519", "13", "14.0", "null"}},
                  {"encoder_num_hidden_layers", not_layers},
                  {"encoder_input_size", {"0", "-56", "57", "56.0", "\"56\"", "null", "14000"}},
                  {"decoder_hidden_size", {"0", "-64", "66", "64.5", "null"}},
                  {"decoder_num_hidden_layers", not_layers},
                  {"decoder_num_attention_heads", {"0", "-4", "5", "[4]", "null"}},
                  {"decoder_intermediate_size", {"0", "-1", "128.5", "null", "1048577"}},
                  {"patch_size", {"0", "-8", "[8, 8]", "8.0", "null", "1048577"}},
                  {"image_size", {"0", "31", "33", "\"32\"", "32.0"}},
                  {"num_channels", {"1", "4", "\"3\"", "null"}},
                  {"noise_tau", {"-0.5", "\"0\"", "null"}},
                  {"reshape_to_2d", not_a_flag},
                  {"use_encoder_loss", not_a_flag},
                  {"scaling_factor", {"0", "0.0", "1e39", "1e-60", "\"1\"", "null", "[1]"}},
                  {"latents_mean", not_statistics},
                  {"latents_std", not_statistics},
                  {"encoder_norm_mean", not_colours},
                  {"encoder_norm_std", not_colours}},
                 read_autoencoder);
}

TEST(AutoencoderConfig, PatchesAreNoLargerThanTheEncodersOwnPictures) {
  const std::vector<std::pair<std::string, int64_t>> largest = {{"dinov2", 518}, {"siglip2", 256}, {"mae", 224}};
  const ScratchFolder scratch;
  const std::string path = scratch / "config.json";
  const auto write = [&](const std::string& encoder, int64_t patch) {
    test::write_json(path,
                     {{"encoder_type", encoder}, {"encoder_patch_size", patch}, {"encoder_input_size", 2 * patch}});
  };
  for (const auto& [encoder, patch] : largest) {
    write(encoder, patch);
    EXPECT_EQ(AutoencoderRAEConfig::from_file(path).encoder_type, encoder);
    write(encoder, patch + 1);
    expect_error(ErrorCode::format, {path, "encoder_patch_size", std::to_string(patch), encoder},
                 [&] { AutoencoderRAEConfig::from_file(path); });
  }
}

TEST(AutoencoderConfig, StatisticsMustFitTheLatents) {
  const ModelFolder folder("autoencoder/dinov2");
  folder.change_config([](Json& config) {
    config["latents_mean"] = test::nested_lists(Tensor::zeros({64, 1, 1}, DType::float32));
  });
  expect_error(ErrorCode::format, {"latents_mean", "[64, 1, 1]", "[1, 128, 4, 4]"},
               [&] { AutoencoderRAE::from_pretrained(folder.path()); });
}

TEST(Config, MissingKeysAreTheReferencesDefaults) {
  const ScratchFolder scratch;
  test::spit(scratch / "config.json", "{}");
  const auto transformer = RAEDiT2DModelConfig::from_file(scratch / "config.json");
  EXPECT_EQ(transformer.hidden_size, (std::array<int64_t, 2>{1152, 2048}));
  EXPECT_EQ(transformer.depth, (std::array<int64_t, 2>{28, 2}));
  EXPECT_EQ(transformer.in_channels, 768);
  EXPECT_TRUE(transformer.use_rope && transformer.use_rmsnorm && transformer.use_swiglu && transformer.use_pos_embed);
  EXPECT_FALSE(transformer.wo_shift || transformer.use_qknorm);
  const auto autoencoder = AutoencoderRAEConfig::from_file(scratch / "config.json");
  EXPECT_EQ(autoencoder.encoder_hidden_size, 768);
  EXPECT_EQ(autoencoder.output_size(), 256);
}

TEST(Config, UnknownKeysNameTheNearestAndPrivateOnesPass) {
  const ScratchFolder scratch;
  const std::string path = scratch / "config.json";
  test::spit(path, R"({"_class_name": "RAEDiT2DModel", "_diffusers_version": 7, "_anything": {"at": ["all"]}})");
  EXPECT_EQ(RAEDiT2DModelConfig::from_file(path).in_channels, 768);
  test::spit(path, R"({"hiden_size": 32})");
  expect_error(ErrorCode::format, {path, "unknown key 'hiden_size'", "did you mean 'hidden_size'"},
               [&] { RAEDiT2DModelConfig::from_file(path); });
  test::spit(path, R"({"latent_mean": 0.5})");
  expect_error(ErrorCode::format, {path, "unknown key 'latent_mean'", "'latents_mean'"},
               [&] { AutoencoderRAEConfig::from_file(path); });
}

TEST(Config, OfAnotherClassIsRefused) {
  const ScratchFolder scratch;
  const std::string path = scratch / "config.json";
  for (const char* found : {"\"AutoencoderRAE\"", "3", "null", "[\"RAEDiT2DModel\"]"}) {
    test::spit(path, std::string("{\"_class_name\": ") + found + "}");
    expect_error(ErrorCode::format, {path, "another kind of model", "RAEDiT2DModel"},
                 [&] { RAEDiT2DModelConfig::from_file(path); });
  }
}

// ---- files that are not what they should be

TEST(HostileConfig, IsRefusedWithItsPath) {
  const ModelFolder folder("transformer/base");
  const std::string path = folder / "config.json";
  const auto load = [&] { RAEDiT2DModel::from_pretrained(folder.path()); };
  const std::string deep(100'000, '[');
  const std::vector<std::pair<std::string, std::string>> list = {
      {"", "not valid JSON"},
      {"hello", "not valid JSON at byte 1"},
      {R"({"depth": 2)", "not valid JSON at byte 12"},
      {R"({"depth": 2} 3)", "not valid JSON"},
      {R"({"depth": 2, "depth": 2})", "'depth'"},
      {R"({"mlp_ratio": 1e400})", "not valid JSON"},
      {R"({"mlp_ratio": NaN})", "not valid JSON"},
      {std::string("{\"depth\": 2}\0", 13), "zero byte"},
      {"{\"\xff\": 2}", "not valid JSON"},
      {"[1, 2]", "not a JSON object"},
      {"\"config\"", "not a JSON object"},
      {"null", "not a JSON object"},
      {deep, "nested too deeply"},
      {"{\"_a\": " + deep, "nested too deeply"},
  };
  for (const auto& [text, part] : list) {
    SCOPED_TRACE(text.substr(0, 40));
    test::spit(path, text);
    expect_error(ErrorCode::format, {path, part}, load);
  }
}

TEST(HostileConfig, MayBeMissingOrHuge) {
  const ModelFolder folder("transformer/base");
  const std::string path = folder / "config.json";
  const auto load = [&] { RAEDiT2DModel::from_pretrained(folder.path()); };
  std::filesystem::resize_file(path, 100'000'000);  // the rest is a hole of zeros
  expect_error(ErrorCode::format, {path, "zero byte"}, load);
  std::filesystem::resize_file(path, 200'000'000);
  expect_error(ErrorCode::format, {path, "too large", "134217728"}, load);
  std::filesystem::remove(path);
  expect_error(ErrorCode::not_found, {path}, load);
  std::filesystem::create_directory(path);
  expect_error(ErrorCode::io, {path}, load);
}

// What a config asks for is not built before it is known to be reasonable: this must not take gigabytes.
TEST(HostileConfig, CannotMakeUsBuildMuch) {
  const ModelFolder folder("transformer/base");
  folder.change_config([](Json& config) { config["depth"] = {4096, 4096}; });
  expect_error(ErrorCode::format, {"'blocks.2.", "[64]", "[32]"},
               [&] { RAEDiT2DModel::from_pretrained(folder.path()); });
}

TEST(HostileFolder, MayNotBeOne) {
  const ScratchFolder scratch;
  test::spit(scratch / "file", "x");
  for (const std::string& path :
       {scratch / "nothing", scratch / "file", scratch / std::string(5000, 'x'), std::string()}) {
    expect_error(ErrorCode::not_found, {"no such model folder"}, [&] { RAEDiT2DModel::from_pretrained(path); });
    expect_error(ErrorCode::not_found, {"no such model folder"}, [&] { AutoencoderRAE::from_pretrained(path); });
    expect_error(ErrorCode::not_found, {"no such model folder", "model_index.json"},
                 [&] { RAEDiTPipeline::from_pretrained(path); });
  }
}

// ---- model_index.json and what it promises

class HostileIndex : public ::testing::Test {
 protected:
  ModelFolder folder{"pipeline"};
  std::string index = folder / "model_index.json";

  void expect(ErrorCode code, std::vector<std::string> parts) {
    expect_error(code, parts, [&] { RAEDiTPipeline::from_pretrained(folder.path()); });
  }
};

TEST_F(HostileIndex, MustBeThereAndOfThisPipeline) {
  const std::vector<std::pair<std::string, std::string>> list = {
      {"", "not valid JSON"},
      {"[]", "array"},
      {"{}", "no _class_name"},
      {R"({"_class_name": "StableDiffusionPipeline"})", "StableDiffusionPipeline"},
      {R"({"_class_name": 7})", "number"},
      {R"({"_class_name": null})", "null"},
      {std::string(1000, '['), "nested too deeply"},
  };
  for (const auto& [text, part] : list) {
    SCOPED_TRACE(text.substr(0, 40));
    test::spit(index, text);
    expect(ErrorCode::format, {index, part});
  }
  std::filesystem::remove(index);
  expect(ErrorCode::not_found, {index});
}

TEST_F(HostileIndex, LabelsMustBeNamesOfIds) {
  const std::vector<std::pair<const char*, const char*>> list = {
      {"[\"a\", \"b\"]", "array"},
      {"\"a\"", "string"},
      {"7", "number"},
      {R"({"a": "b"})", "'a'"},
      {R"({"-1": "b"})", "'-1'"},
      {R"({"1.5": "b"})", "'1.5'"},
      {R"({"": "b"})", "''"},
      {R"({"1": 2})", "'1'"},
      {R"({"1": ["b"]})", "'1'"},
      {R"({"1 ": "b"})", "'1 '"},
      {R"({"99999999999999999999": "b"})", "'99999999999999999999'"},
      {R"({"0x1": "b"})", "'0x1'"},
      {R"({"1": null})", "'1'"},
  };
  for (const auto& [value, part] : list) {
    SCOPED_TRACE(value);
    folder.change_json("model_index.json", [&](Json& json) { json["id2label"] = Json::parse(value); });
    expect(ErrorCode::format, {index, "id2label", part});
  }
  folder.change_json("model_index.json", [](Json& json) { json["id2label"] = nullptr; });
  EXPECT_TRUE(RAEDiTPipeline::from_pretrained(folder.path()).labels().empty());
}

TEST_F(HostileIndex, PartsMustBeThere) {
  for (const std::string part : {"transformer", "vae", "scheduler"}) {
    const std::string away = folder / part + ".away";
    std::filesystem::rename(folder / part, away);
    expect(ErrorCode::not_found, {folder / part});
    std::filesystem::rename(away, folder / part);
  }
}

TEST_F(HostileIndex, PartsMustBeOfTheirClassAndFitTogether) {
  folder.change_json("scheduler/scheduler_config.json",
                     [](Json& json) { json["_class_name"] = "EulerDiscreteScheduler"; });
  expect(ErrorCode::format, {folder / "scheduler", "EulerDiscreteScheduler"});
  folder.change_json("scheduler/scheduler_config.json",
                     [](Json& json) { json["_class_name"] = "FlowMatchEulerDiscreteScheduler"; });

  folder.change_json("vae/config.json", [](Json& json) { json["_class_name"] = "AutoencoderKL"; });
  expect(ErrorCode::format, {folder / "vae", "AutoencoderKL", "AutoencoderRAE"});
  folder.change_json("vae/config.json", [](Json& json) { json["_class_name"] = "AutoencoderRAE"; });

  std::filesystem::remove_all(folder / "transformer");
  std::filesystem::copy(test_data("transformer/base"), folder / "transformer");
  expect(ErrorCode::format, {"do not fit together", "[8, 4, 4]", "[128, 4, 4]"});
}

// ---- large and good

// As the published autoencoders have it: mean and deviation of every element of a 768x16x16 latent, about 10 MB of
// lists. The layers are left out; the rest is as wide as theirs.
TEST(LargeConfig, IsReadAndKept) {
  const ScratchFolder scratch;
  const std::string path = scratch / "config.json";
  const Tensor mean = test::normal_tensor({768, 16, 16}, 5), deviation = test::normal_tensor({768, 16, 16}, 6);
  Json json = {{"_class_name", "AutoencoderRAE"}, {"encoder_num_hidden_layers", 0},   {"decoder_num_hidden_layers", 0},
               {"decoder_hidden_size", 32},       {"decoder_num_attention_heads", 2}, {"decoder_intermediate_size", 8}};
  json["latents_mean"] = test::nested_lists(mean);
  json["latents_std"] = test::nested_lists(deviation);
  test::write_json(path, json);
  EXPECT_GT(std::filesystem::file_size(path), 10'000'000u);

  models::AutoencoderRaeParameters parameters(AutoencoderRAEConfig::from_file(path));
  test::Weights weights;
  for (const auto& [name, parameter] : models::named_parameters(parameters))
    if (parameter->required) weights[name] = test::normal_tensor(parameter->shape, 7);
  test::write_weights(scratch.path(), weights);

  const auto vae = AutoencoderRAE::from_pretrained(scratch.path());
  EXPECT_EQ(vae.config().latents_mean_shape, Shape({768, 16, 16}));
  Context ctx;
  const Tensor latents = vae.encode(ctx, test::normal_tensor({1, 3, 64, 64}, 8));
  EXPECT_EQ(latents.shape(), Shape({1, 768, 16, 16}));
  EXPECT_EQ(vae.decode(ctx, latents).shape(), Shape({1, 3, 256, 256}));

  vae.save_pretrained(scratch / "saved");
  EXPECT_EQ(test::slurp(scratch / "saved/config.json"), json.dump(2) + "\n");
}

}  // namespace
}  // namespace raedit
