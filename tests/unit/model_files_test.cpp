// Models and pipelines written and read again: nothing is lost, names are diffusers', and weights that do not belong to
// the model are refused by name.
#include <gtest/gtest.h>

#include <set>

#include "nn/embeddings.h"
#include "parity/agreement.h"
#include "raedit/rae_dit_pipeline.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

using test::ModelFolder;
using test::ScratchFolder;
using test::test_data;
using test::Weights;
using testing::agreement;
using ::testing::Values;

std::vector<float> numbers(const Tensor& tensor) {
  return tensor.to_vector<float>();
}

void expect_same_weights(const Weights& found, const Weights& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    ASSERT_TRUE(found.contains(name)) << name;
    const Tensor& other = found.at(name);
    EXPECT_EQ(other.dtype(), tensor.dtype()) << name;
    EXPECT_EQ(other.shape(), tensor.shape()) << name;
    EXPECT_EQ(test::bytes_of(other), test::bytes_of(tensor)) << name;
  }
}

// Sorted, without the version of diffusers, which is not ours to say.
nlohmann::json config_of(const std::string& path) {
  auto config = nlohmann::json::parse(test::slurp(path));
  config.erase("_diffusers_version");
  return config;
}

Tensor forward(const RAEDiT2DModel& model) {
  Context ctx;
  const auto& c = model.config();
  const Tensor latents = test::normal_tensor({2, c.in_channels, c.sample_size, c.sample_size}, 1);
  return model.forward(ctx, latents, Tensor::from(std::vector<float>{0.3f, 0.9f}, {2}),
                       Tensor::from(std::vector<int64_t>{1, 0}, {2}));
}

Tensor reconstruct(const AutoencoderRAE& vae) {
  Context ctx;
  return vae.reconstruct(ctx, test::normal_tensor({2, 3, 40, 60}, 2));
}

Tensor generate(const RAEDiTPipeline& pipeline) {
  Context ctx;
  return pipeline(ctx, {.class_labels = {1, 3}, .num_inference_steps = 2, .output_type = OutputType::pt}).images;
}

std::set<std::string> files_below(const std::string& folder) {
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) files.insert(std::filesystem::relative(entry.path(), folder).string());
  return files;
}

// ---- what was read comes back

class TransformerFiles : public ::testing::TestWithParam<const char*> {};

TEST_P(TransformerFiles, ComeBack) {
  const std::string folder = test_data(std::string("transformer/") + GetParam());
  const auto model = RAEDiT2DModel::from_pretrained(folder);
  const ScratchFolder scratch;
  model.save_pretrained(scratch / "saved");
  EXPECT_EQ(files_below(scratch / "saved"),
            (std::set<std::string>{"config.json", "diffusion_pytorch_model.safetensors"}));
  EXPECT_EQ(config_of(scratch / "saved/config.json"), config_of(folder + "/config.json"));
  expect_same_weights(test::read_weights(scratch / "saved"), test::read_weights(folder));
  const auto again = RAEDiT2DModel::from_pretrained(scratch / "saved");
  EXPECT_EQ(numbers(forward(again)), numbers(forward(model)));
  EXPECT_EQ(again.num_parameters(), model.num_parameters());
}

INSTANTIATE_TEST_SUITE_P(Variants, TransformerFiles,
                         Values("base", "gelu", "layernorm_qknorm", "no_null_class", "no_pos_embed", "no_rope",
                                "odd_inner", "patch_1_2", "patch_2_1", "qknorm", "same_width", "wo_shift"),
                         [](const auto& info) { return info.param; });

class AutoencoderFiles : public ::testing::TestWithParam<const char*> {};

TEST_P(AutoencoderFiles, ComeBack) {
  const std::string folder = test_data(std::string("autoencoder/") + GetParam());
  const auto vae = AutoencoderRAE::from_pretrained(folder);
  const ScratchFolder scratch;
  vae.save_pretrained(scratch / "saved");
  EXPECT_EQ(config_of(scratch / "saved/config.json"), config_of(folder + "/config.json"));
  expect_same_weights(test::read_weights(scratch / "saved"), test::read_weights(folder));
  const auto again = AutoencoderRAE::from_pretrained(scratch / "saved");
  EXPECT_EQ(numbers(reconstruct(again)), numbers(reconstruct(vae)));
  EXPECT_EQ(again.num_parameters(), vae.num_parameters());
}

INSTANTIATE_TEST_SUITE_P(Encoders, AutoencoderFiles, Values("dinov2", "dinov2_tokens", "mae", "siglip2"),
                         [](const auto& info) { return info.param; });

TEST(PipelineFiles, ComeBack) {
  const auto pipeline = RAEDiTPipeline::from_pretrained(test_data("pipeline"));
  const ScratchFolder scratch;
  pipeline.save_pretrained(scratch / "a/b/saved");
  std::set<std::string> expected = files_below(test_data("pipeline"));
  expected.erase("io.safetensors");
  EXPECT_EQ(files_below(scratch / "a/b/saved"), expected);
  for (const char* file : {"/model_index.json", "/transformer/config.json", "/vae/config.json"})
    EXPECT_EQ(config_of(scratch / "a/b/saved" + file), config_of(test_data("pipeline") + file)) << file;
  const auto again = RAEDiTPipeline::from_pretrained(scratch / "a/b/saved");
  EXPECT_EQ(again.id2label(), pipeline.id2label());
  EXPECT_EQ(again.labels(), pipeline.labels());
  EXPECT_EQ(again.scheduler().config(), pipeline.scheduler().config());
  EXPECT_EQ(numbers(generate(again)), numbers(generate(pipeline)));
}

TEST(PipelineFiles, LabelsWithoutNamesStayThatWay) {
  const auto pipeline = RAEDiTPipeline::from_pretrained(test_data("pipeline"));
  const ScratchFolder scratch;
  RAEDiTPipeline(pipeline.transformer(), pipeline.vae(), pipeline.scheduler()).save_pretrained(scratch / "saved");
  EXPECT_TRUE(RAEDiTPipeline::from_pretrained(scratch / "saved").id2label().empty());
}

// The weights that are written are mapped from the file that is replaced.
TEST(PipelineFiles, MayBeSavedOverThemselves) {
  const ModelFolder folder("pipeline");
  const auto pipeline = RAEDiTPipeline::from_pretrained(folder.path());
  const auto before = numbers(generate(pipeline));
  pipeline.save_pretrained(folder.path());
  pipeline.save_pretrained(folder.path(), {.max_shard_bytes = 200'000});
  EXPECT_EQ(numbers(generate(pipeline)), before);
  EXPECT_EQ(numbers(generate(RAEDiTPipeline::from_pretrained(folder.path()))), before);
}

// One number or two: both are right, and neither becomes the other.
TEST(SavedConfig, PairsStayAsTheyWereWritten) {
  const ModelFolder folder("transformer/base");
  const ScratchFolder scratch;
  for (const Json& patch_size : {Json(1), Json{1, 1}}) {
    folder.change_config([&](Json& config) { config["patch_size"] = patch_size; });
    RAEDiT2DModel::from_pretrained(folder.path()).save_pretrained(scratch / "saved");
    EXPECT_EQ(test::read_json(scratch / "saved/config.json")["patch_size"], patch_size);
  }
}

// ---- shards, variants, dtypes

TEST(ShardedFiles, HaveDiffusersNamesAndComeBack) {
  const auto model = RAEDiT2DModel::from_pretrained(test_data("transformer/base"));
  const ScratchFolder scratch;
  model.save_pretrained(scratch / "saved", {.max_shard_bytes = 60'000});
  const auto files = files_below(scratch / "saved");
  EXPECT_TRUE(files.contains("diffusion_pytorch_model.safetensors.index.json"));
  const size_t shards = files.size() - 2;
  ASSERT_GE(shards, 3u);
  EXPECT_TRUE(files.contains("diffusion_pytorch_model-00001-of-0000" + std::to_string(shards) + ".safetensors"));
  const Json index = test::read_json(scratch / "saved/diffusion_pytorch_model.safetensors.index.json");
  const Weights weights = test::read_weights(test_data("transformer/base"));
  size_t bytes = 0;
  for (const auto& [name, tensor] : weights) bytes += tensor.nbytes();
  EXPECT_EQ(index["metadata"]["total_size"], bytes);
  EXPECT_EQ(index["weight_map"].size(), weights.size());
  expect_same_weights(test::read_weights(scratch / "saved"), weights);
  EXPECT_EQ(numbers(forward(RAEDiT2DModel::from_pretrained(scratch / "saved"))), numbers(forward(model)));

  // Saved whole into the same folder, the shards must not be what is read.
  model.save_pretrained(scratch / "saved");
  EXPECT_EQ(files_below(scratch / "saved"),
            (std::set<std::string>{"config.json", "diffusion_pytorch_model.safetensors"}));
}

TEST(VariantFiles, HaveDiffusersNames) {
  const auto pipeline = RAEDiTPipeline::from_pretrained(test_data("pipeline"));
  const ScratchFolder scratch;
  pipeline.save_pretrained(scratch / "whole", {.variant = "fp16"});
  EXPECT_TRUE(files_below(scratch / "whole").contains("vae/diffusion_pytorch_model.fp16.safetensors"));
  EXPECT_TRUE(files_below(scratch / "whole").contains("transformer/diffusion_pytorch_model.fp16.safetensors"));
  pipeline.save_pretrained(scratch / "shards", {.variant = "fp16", .max_shard_bytes = 400'000});
  const auto files = files_below(scratch / "shards");
  EXPECT_TRUE(files.contains("transformer/diffusion_pytorch_model.safetensors.index.fp16.json"));
  EXPECT_TRUE(files.contains("transformer/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"));
  const auto expected = numbers(generate(pipeline));
  for (const char* folder : {"whole", "shards"})
    EXPECT_EQ(numbers(generate(RAEDiTPipeline::from_pretrained(scratch / folder, {.variant = "fp16"}))), expected);
}

TEST(VariantFiles, LiveBesideTheDefaultAndEachOther) {
  const ModelFolder folder("transformer/base");
  const auto model = RAEDiT2DModel::from_pretrained(folder.path(), {.dtype = DType::bfloat16});
  model.save_pretrained(folder.path(), {.variant = "bf16"});
  EXPECT_EQ(numbers(forward(RAEDiT2DModel::from_pretrained(folder.path()))),
            numbers(forward(RAEDiT2DModel::from_pretrained(test_data("transformer/base")))));
  EXPECT_EQ(
      numbers(forward(RAEDiT2DModel::from_pretrained(folder.path(), {.dtype = DType::bfloat16, .variant = "bf16"}))),
      numbers(forward(model)));
  test::expect_error(ErrorCode::not_found,
                     {folder.path(), "diffusion_pytorch_model.fp16.safetensors", "'bf16'", "default"},
                     [&] { RAEDiT2DModel::from_pretrained(folder.path(), {.variant = "fp16"}); });
  test::expect_error(ErrorCode::invalid_argument, {"'../fp16'"},
                     [&] { RAEDiT2DModel::from_pretrained(folder.path(), {.variant = "../fp16"}); });
}

TEST(Bfloat16Files, HoldWeightsInBfloat16AndBuffersAsTheyWere) {
  const auto pipeline = RAEDiTPipeline::from_pretrained(test_data("pipeline"), {.dtype = DType::bfloat16});
  const ScratchFolder scratch;
  pipeline.save_pretrained(scratch / "saved");
  const std::set<std::string> buffers = {"pos_embed",
                                         "t_embedder.W",
                                         "dec_feat_rope.freqs_cos",
                                         "dec_feat_rope.freqs_sin",
                                         "enc_feat_rope.freqs_cos",
                                         "encoder_mean",
                                         "_latents_mean",
                                         "enc_feat_rope.freqs_sin",
                                         "encoder_std",
                                         "_latents_std"};
  for (const std::string part : {"/transformer", "/vae"}) {
    const Weights original = test::read_weights(test_data("pipeline") + part);
    const Weights saved = test::read_weights(scratch / "saved" + part);
    ASSERT_EQ(saved.size(), original.size());
    for (const auto& [name, tensor] : original) {
      const DType dtype = buffers.contains(name) ? DType::float32 : DType::bfloat16;
      EXPECT_EQ(saved.at(name).dtype(), dtype) << name;
      EXPECT_EQ(test::bytes_of(saved.at(name)), test::bytes_of(tensor.to(dtype))) << name;
    }
  }
  const auto again = RAEDiTPipeline::from_pretrained(scratch / "saved", {.dtype = DType::bfloat16});
  EXPECT_EQ(numbers(generate(again)), numbers(generate(pipeline)));
}

// A file's own type does not matter, only its numbers.
TEST(Weights, OfAnyFloatingTypeAreRead) {
  const ModelFolder folder("transformer/base");
  for (const DType dtype : {DType::float16, DType::bfloat16, DType::float64}) {
    Weights narrow = test::read_weights(test_data("transformer/base")), wide = narrow;
    for (auto& [name, tensor] : narrow) tensor = tensor.to(dtype);
    for (auto& [name, tensor] : wide) tensor = narrow.at(name).to(DType::float32);
    test::write_weights(folder.path(), wide);
    const auto expected = numbers(forward(RAEDiT2DModel::from_pretrained(folder.path())));
    test::write_weights(folder.path(), narrow);
    const auto model = RAEDiT2DModel::from_pretrained(folder.path());
    EXPECT_EQ(model.dtype(), DType::float32);
    EXPECT_EQ(numbers(forward(model)), expected) << name_of(dtype);
  }
}

// ---- tables that a checkpoint may lack

TEST(OptionalTensors, TransformerTablesAreComputed) {
  for (const std::string variant : {"base", "grid_16", "patch_2_1", "head_72_128"}) {
    const ModelFolder folder("transformer/" + variant);
    const auto expected = forward(RAEDiT2DModel::from_pretrained(folder.path()));
    std::map<std::string, Tensor> tables;
    folder.change_weights([&](Weights& weights) {
      for (const char* name : {"pos_embed", "enc_feat_rope.freqs_cos", "enc_feat_rope.freqs_sin",
                               "dec_feat_rope.freqs_cos", "dec_feat_rope.freqs_sin"}) {
        tables[name] = weights.at(name);
        weights.erase(name);
      }
    });
    const auto model = RAEDiT2DModel::from_pretrained(folder.path());
    EXPECT_LE(agreement(forward(model), expected).relative(), 1e-5) << variant;
    // Saved, as diffusers expects them, they can be looked at.
    const ScratchFolder scratch;
    model.save_pretrained(scratch / "saved");
    const Weights saved = test::read_weights(scratch / "saved");
    for (const auto& [name, table] : tables) {
      ASSERT_TRUE(saved.contains(name)) << name;
      EXPECT_LE(agreement(saved.at(name), table).max_absolute, 1e-6) << variant << " " << name;
    }
  }
}

// One of a pair of tables is not computed anew because the other is missing.
TEST(OptionalTensors, TablesOfTheCheckpointAreUsed) {
  const ModelFolder folder("transformer/base");
  const auto expected = numbers(forward(RAEDiT2DModel::from_pretrained(folder.path())));
  for (const char* name : {"pos_embed", "enc_feat_rope.freqs_cos", "dec_feat_rope.freqs_sin"}) {
    const Weights original = test::read_weights(folder.path());
    folder.change_weights([&](Weights& weights) { weights[name] = test::normal_tensor(weights.at(name).shape(), 3); });
    EXPECT_NE(numbers(forward(RAEDiT2DModel::from_pretrained(folder.path()))), expected) << name;
    test::write_weights(folder.path(), original);
  }
}

TEST(OptionalTensors, DecoderPositionsOfTheCheckpointAreUsedAndKept) {
  const ModelFolder folder("autoencoder/dinov2");
  const auto computed = numbers(reconstruct(AutoencoderRAE::from_pretrained(folder.path())));
  constexpr const char* kName = "decoder.decoder_pos_embed";
  const Tensor table = nn::sincos_pos_embed_2d(64, 4, true).reshape({1, 17, 64});
  folder.change_weights([&](Weights& weights) { ASSERT_TRUE(weights.emplace(kName, table).second); });
  EXPECT_EQ(numbers(reconstruct(AutoencoderRAE::from_pretrained(folder.path()))), computed);

  folder.change_weights([&](Weights& weights) { weights[kName] = test::normal_tensor(table.shape(), 4); });
  const auto vae = AutoencoderRAE::from_pretrained(folder.path());
  const auto trained = numbers(reconstruct(vae));
  EXPECT_NE(trained, computed);
  const ScratchFolder scratch;
  vae.save_pretrained(scratch / "saved");
  EXPECT_EQ(numbers(reconstruct(AutoencoderRAE::from_pretrained(scratch / "saved"))), trained);
}

// ---- weights that are not the model's

struct Wrong {
  const char* model;
  std::function<void(Weights&)> change;
  ErrorCode code;
  std::vector<std::string> parts;
};

void rename(Weights& weights, const std::string& from, const std::string& to) {
  weights[to] = weights.at(from);
  weights.erase(from);
}

const std::vector<Wrong>& wrong_weights() {
  static const std::vector<Wrong> list = {
      {"transformer/base",
       [](Weights& w) { w.erase("final_layer.linear.bias"); },
       ErrorCode::format,
       {"tensor 'final_layer.linear.bias' is missing", "[8]", "diffusion_pytorch_model.safetensors"}},
      {"transformer/base",
       [](Weights& w) { rename(w, "blocks.1.attn.to_out.0.weight", "blocks.1.attn.to_out.weight"); },
       ErrorCode::format,
       {"'blocks.1.attn.to_out.0.weight' is missing", "[32, 32]", "did you mean 'blocks.1.attn.to_out.weight'?"}},
      {"transformer/base",
       [](Weights& w) { w["blocks.3.norm1.weigth"] = w.at("blocks.0.norm1.weight"); },
       ErrorCode::format,
       {"'blocks.3.norm1.weigth' does not belong to this model", "did you mean"}},
      {"transformer/base",
       [](Weights& w) {
         w["s_embedder.proj.weight"] = Tensor::zeros({32, 8}, DType::float32);
       },
       ErrorCode::format,
       {"'s_embedder.proj.weight' has the wrong shape", "[32, 8]", "[32, 8, 1, 1]"}},
      {"transformer/base",
       [](Weights& w) {
         w["pos_embed"] = Tensor::zeros({1, 9, 32}, DType::float32);
       },
       ErrorCode::format,
       {"'pos_embed' has the wrong shape", "[1, 9, 32]", "[1, 16, 32]"}},
      {"transformer/base",
       [](Weights& w) { w["t_embedder.W"] = Tensor::zeros({256}, DType::int64); },
       ErrorCode::unsupported,
       {"'t_embedder.W'", "int64", "floating"}},
      {"transformer/no_rope",
       [](Weights& w) {
         w["enc_feat_rope.freqs_cos"] = Tensor::zeros({16, 8}, DType::float32);
       },
       ErrorCode::format,
       {"'enc_feat_rope.freqs_cos' does not belong"}},
      {"transformer/no_null_class",
       [](Weights& w) {
         w["y_embedder.embedding_table.weight"] = Tensor::zeros({11, 32}, DType::float32);
       },
       ErrorCode::format,
       {"'y_embedder.embedding_table.weight' has the wrong shape", "[11, 32]", "[10, 32]"}},
      {"autoencoder/dinov2",
       [](Weights& w) { rename(w, "encoder.encoder.layer.1.mlp.fc2.bias", "encoder.encoder.layer.2.mlp.fc2.bias"); },
       ErrorCode::format,
       {"'encoder.encoder.layer.1.mlp.fc2.bias' is missing", "'encoder.encoder.layer.2.mlp.fc2.bias'"}},
      {"autoencoder/dinov2",
       [](Weights& w) { w["encoder.layernorm.weight"] = Tensor::zeros({128}, DType::float32); },
       ErrorCode::format,
       {"'encoder.layernorm.weight' does not belong"}},
      {"autoencoder/mae",
       [](Weights& w) { w["encoder.layernorm.bias"] = Tensor::zeros({64}, DType::float32); },
       ErrorCode::format,
       {"'encoder.layernorm.bias' does not belong"}},
      {"autoencoder/mae",
       [](Weights& w) {
         w["encoder.embeddings.position_embeddings"] = Tensor::zeros({1, 257, 64}, DType::float32);
       },
       ErrorCode::format,
       {"'encoder.embeddings.position_embeddings' has the wrong shape", "[1, 257, 64]", "[1, 197, 64]"}},
      {"autoencoder/siglip2",
       [](Weights& w) { w.erase("encoder.vision_model.head.attention.in_proj_bias"); },
       ErrorCode::format,
       {"'encoder.vision_model.head.attention.in_proj_bias' is missing", "[192]"}},
      {"autoencoder/siglip2",
       [](Weights& w) {
         w["encoder.vision_model.encoder.layers.0.mlp.fc1.bias"] = Tensor::zeros({256}, DType::float32);
       },
       ErrorCode::format,
       {"'encoder.vision_model.encoder.layers.0.mlp.fc1.bias' has the wrong shape", "[256]", "[3072]"}},
      {"autoencoder/dinov2",
       [](Weights& w) {
         w["_latents_mean"] = Tensor::zeros({128, 1, 1}, DType::float32);
       },
       ErrorCode::format,
       {"'_latents_mean' has the wrong shape", "[128, 1, 1]", "[128, 4, 4]"}},
      {"autoencoder/dinov2",
       [](Weights& w) {
         w["decoder.decoder_pred.weight"] = Tensor::zeros({192, 64}, DType::bool8);
       },
       ErrorCode::unsupported,
       {"'decoder.decoder_pred.weight'", "bool"}},
  };
  return list;
}

TEST(WrongWeights, AreRefusedByName) {
  for (const Wrong& wrong : wrong_weights()) {
    SCOPED_TRACE(wrong.parts.front());
    const ModelFolder folder(wrong.model);
    folder.change_weights(wrong.change);
    std::vector<std::string> parts = wrong.parts;
    parts.push_back(folder.path());
    test::expect_error(wrong.code, parts, [&] {
      if (std::string(wrong.model).starts_with("transformer"))
        RAEDiT2DModel::from_pretrained(folder.path());
      else
        AutoencoderRAE::from_pretrained(folder.path());
    });
  }
}

TEST(WrongWeights, AreFoundInTheirShard) {
  const ModelFolder folder("transformer/base");
  RAEDiT2DModel::from_pretrained(folder.path()).save_pretrained(folder.path(), {.max_shard_bytes = 60'000});
  const auto set = SafetensorsSet::open(folder.path());
  const std::string shard = set.file_of("blocks.2.norm1.weight");
  NamedTensors tensors;
  const auto file = SafetensorsFile::open(shard);
  for (const std::string& name : file.names())
    tensors.emplace_back(
        name, name == "blocks.2.norm1.weight" ? Tensor::zeros({7}, DType::float32) : file.tensor(name).clone());
  write_safetensors(shard, tensors);
  test::expect_error(ErrorCode::format, {shard, "'blocks.2.norm1.weight'", "[7]", "[64]"},
                     [&] { RAEDiT2DModel::from_pretrained(folder.path()); });
}

TEST(LoadOptions, RefuseTypesThatNothingComputesIn) {
  for (const DType dtype : {DType::float16, DType::float64, DType::int8}) {
    const std::vector<std::string> parts = {std::string(name_of(dtype)), "float32 or bfloat16"};
    test::expect_error(ErrorCode::unsupported, parts,
                       [&] { RAEDiT2DModel::from_pretrained(test_data("transformer/base"), {.dtype = dtype}); });
    test::expect_error(ErrorCode::unsupported, parts,
                       [&] { AutoencoderRAE::from_pretrained(test_data("autoencoder/dinov2"), {.dtype = dtype}); });
  }
}

TEST(SavePretrained, SaysWhereItCouldNotWrite) {
  const ScratchFolder scratch;
  test::spit(scratch / "file", "not a folder");
  const auto pipeline = RAEDiTPipeline::from_pretrained(test_data("pipeline"));
  test::expect_error(ErrorCode::io, {scratch / "file"}, [&] { pipeline.save_pretrained(scratch / "file"); });
  test::expect_error(ErrorCode::io, {scratch / "file"}, [&] { pipeline.save_pretrained(scratch / "file/below"); });
  EXPECT_EQ(scratch.names(), std::vector<std::string>{"file"});
  EXPECT_EQ(test::slurp(scratch / "file"), "not a folder");
}

}  // namespace
}  // namespace raedit
