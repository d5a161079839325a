#include "convert/export_config.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "convert/export_statistics.h"
#include "convert/translated_weights.h"
#include "core/check.h"
#include "models/autoencoder_rae.h"
#include "models/rae_dit_transformer.h"

namespace raedit::convert {
namespace {

constexpr int64_t kShiftBase = 4096;

struct EncoderSpelling {
  const char* type;
  const char* encoder_cls;
  const char* path_param;  // of encoder_params
  const char* prefix;      // in the Hugging Face checkpoint
  const char* inner;       // taken off first
  const char* last_norm;
};
constexpr std::array<EncoderSpelling, 3> kSpellings{{
    {"dinov2", "Dinov2withNorm", "dinov2_path", "", "", "layernorm"},
    {"siglip2", "SigLIP2wNorm", "model_name", "vision_model.", "vision_model.", "post_layernorm"},
    {"mae", "MAEwNorm", "model_name", "vit.", "", "layernorm"},
}};

const EncoderSpelling& spelling_of(const std::string& type) {
  for (const EncoderSpelling& spelling : kSpellings)
    if (type == spelling.type) return spelling;
  raise({.code = ErrorCode::unsupported, .what = "unknown encoder_type", .found = type});
}

// A float that YAML readers take for one: 4 -> "4.0".
std::string yaml_number(double value) {
  const std::string text = fmt::format("{}", value);
  return text.find_first_of(".en") == text.npos ? text + ".0" : text;
}

const char* yaml_bool(bool value) {
  return value ? "true" : "false";
}

std::string stage_2_params(const RAEDiT2DModelConfig& c, const std::string& indent, const std::string& where) {
  RAEDIT_CHECK(c.patch_size[0] == c.patch_size[1], {.code = ErrorCode::unsupported,
                                                    .what = "upstream has one patch size for both streams",
                                                    .where = where,
                                                    .found = fmt::format("{}, {}", c.patch_size[0], c.patch_size[1])});
  std::string text;
  const auto line = [&](const std::string& key, const std::string& value) {
    text += fmt::format("{}{}: {}\n", indent, key, value);
  };
  const auto pair = [](const std::array<int64_t, 2>& p) { return fmt::format("[{}, {}]", p[0], p[1]); };
  line("input_size", fmt::to_string(c.sample_size));
  line("patch_size", fmt::to_string(c.patch_size[0]));
  line("in_channels", fmt::to_string(c.in_channels));
  line("hidden_size", pair(c.hidden_size));
  line("depth", pair(c.depth));
  line("num_heads", pair(c.num_heads));
  line("mlp_ratio", yaml_number(c.mlp_ratio));
  line("class_dropout_prob", yaml_number(c.class_dropout_prob));
  line("num_classes", fmt::to_string(c.num_classes));
  line("use_qknorm", yaml_bool(c.use_qknorm));
  line("use_swiglu", yaml_bool(c.use_swiglu));
  line("use_rope", yaml_bool(c.use_rope));
  line("use_rmsnorm", yaml_bool(c.use_rmsnorm));
  line("wo_shift", yaml_bool(c.wo_shift));
  line("use_pos_embed", yaml_bool(c.use_pos_embed));
  return text;
}

std::string stage_1_section(const AutoencoderRAEConfig& c, bool has_statistics) {
  const EncoderSpelling& encoder = spelling_of(c.encoder_type);
  std::string text = "stage_1:\n  target: stage1.RAE\n  params:\n";
  text += fmt::format("    encoder_cls: '{}'\n    encoder_config_path: '{}'\n", encoder.encoder_cls, kEncoderFolder);
  text += fmt::format("    encoder_input_size: {}\n", c.encoder_input_size);
  text += fmt::format("    encoder_params: {{'{}': '{}'}}\n", encoder.path_param, kEncoderFolder);
  text +=
      fmt::format("    decoder_config_path: '{}'\n    decoder_patch_size: {}\n", kDecoderConfigFolder, c.patch_size);
  text += fmt::format("    pretrained_decoder_path: '{}'\n    noise_tau: 0.0\n", kDecoderFile);
  text += fmt::format("    reshape_to_2d: {}\n", yaml_bool(c.reshape_to_2d));
  if (has_statistics) text += fmt::format("    normalization_stat_path: '{}'\n", kStatisticsFile);
  return text;
}

// The two integers whose ratio's root is the shift: the latent's own size where that fits, as upstream has it.
std::pair<int64_t, int64_t> shift_ratio(double shift, const RAEDiT2DModelConfig& c) {
  const int64_t numbers = c.in_channels * c.sample_size * c.sample_size;
  const auto leads_back = [&](int64_t dim, int64_t base) {
    return std::sqrt(static_cast<double>(dim) / static_cast<double>(base)) == shift;
  };
  if (leads_back(numbers, kShiftBase)) return {numbers, kShiftBase};
  for (int64_t base = kShiftBase; base <= int64_t{1} << 40; base *= 4) {
    const int64_t dim = std::llround(shift * shift * static_cast<double>(base));
    if (leads_back(dim, base)) return {dim, base};
  }
  raise({.code = ErrorCode::unsupported,
         .what = "upstream cannot express this shift: no ratio of two whole numbers has it as its root",
         .where = "scheduler/scheduler_config.json",
         .found = fmt::to_string(shift)});
}

std::string stage_2_sections(const ExportedModels& models) {
  const models::ModelSource& source = models.transformer->source;
  const RAEDiT2DModelConfig c = models::parse_rae_dit_config(source.config, source.where);
  std::string text = "stage_2:\n  target: stage2.models.DDT.DiTwDDTHead\n  params:\n";
  text += stage_2_params(c, "    ", source.where) + fmt::format("  ckpt: '{}'\n", kStage2File);
  text += "transport:\n  params:\n    path_type: 'Linear'\n    prediction: 'velocity'\n    time_dist_type: 'uniform'\n";
  text +=
      "sampler:\n  mode: ODE\n  params:\n    sampling_method: 'euler'\n    num_steps: 50\n    atol: 1.0e-6\n"
      "    rtol: 1.0e-3\n    reverse: false\n";
  text += fmt::format("guidance:\n  method: '{}'\n  scale: 1.0\n  t-min: 0.0\n  t-max: 1.0\n",
                      models.guide ? "autoguidance" : "cfg");
  if (models.guide) {
    const models::ModelSource& guide = models.guide->source;
    text += "  guidance_model:\n    target: stage2.models.DDT.DiTwDDTHead\n    params:\n";
    text += stage_2_params(models::parse_rae_dit_config(guide.config, guide.where), "      ", guide.where);
    text += fmt::format("    ckpt: '{}'\n", kGuideFile);
  }
  const auto [dim, base] = shift_ratio(models.shift, c);
  text += fmt::format(
      "misc:\n  latent_size: [{0}, {1}, {1}]\n  num_classes: {2}\n  time_dist_shift_dim: {3}\n"
      "  time_dist_shift_base: {4}\n",
      c.in_channels, c.sample_size, c.num_classes, dim, base);
  return text;
}

// What upstream's decoder reads of a ViT-MAE config; the encoder's half of it is not used.
std::string decoder_config(const AutoencoderRAEConfig& c) {
  const Json json{{"architectures", {"ViTMAEForPreTraining"}},
                  {"model_type", "vit_mae"},
                  {"attention_probs_dropout_prob", 0.0},
                  {"decoder_hidden_size", c.decoder_hidden_size},
                  {"decoder_intermediate_size", c.decoder_intermediate_size},
                  {"decoder_num_attention_heads", c.decoder_num_attention_heads},
                  {"decoder_num_hidden_layers", c.decoder_num_hidden_layers},
                  {"hidden_act", "gelu"},
                  {"hidden_dropout_prob", 0.0},
                  {"hidden_size", c.encoder_hidden_size},
                  {"image_size", c.output_size()},
                  {"layer_norm_eps", 1e-12},
                  {"num_channels", c.num_channels},
                  {"patch_size", c.patch_size},
                  {"qkv_bias", true}};
  return json.dump(2) + "\n";
}

std::string encoder_config(const AutoencoderRAEConfig& c) {
  Json json{{"hidden_size", c.encoder_hidden_size},
            {"num_attention_heads", c.encoder_hidden_size / 64},
            {"num_hidden_layers", c.encoder_num_hidden_layers},
            {"patch_size", c.encoder_patch_size},
            {"num_channels", 3}};
  if (c.encoder_type == "dinov2") {
    json.update({{"architectures", {"Dinov2WithRegistersModel"}}, {"model_type", "dinov2_with_registers"}});
    json.update({{"image_size", 518}, {"mlp_ratio", 4}, {"num_register_tokens", 4}, {"layer_norm_eps", 1e-6}});
  } else if (c.encoder_type == "mae") {
    json.update({{"architectures", {"ViTMAEForPreTraining"}}, {"model_type", "vit_mae"}});
    json.update({{"image_size", 224}, {"intermediate_size", 3072}, {"layer_norm_eps", 1e-12}});
  } else {
    json.update({{"model_type", "siglip_vision_model"}, {"image_size", 256}, {"intermediate_size", 3072}});
    json = Json{{"architectures", {"SiglipModel"}}, {"model_type", "siglip"}, {"vision_config", json}};
  }
  return json.dump(2) + "\n";
}

// The decimal that a float32 was written as: 0.485 and not 0.48500001430511475.
Json decimals(const Tensor& tensor) {
  Json list = Json::array();
  for (const float value : tensor.to_vector<float>()) list.push_back(std::stod(fmt::format("{}", value)));
  return list;
}

std::string preprocessor_config(const ModelPlan& vae, const AutoencoderRAEConfig& c) {
  const char* processor = c.encoder_type == "dinov2" ? "BitImageProcessor"
                          : c.encoder_type == "mae"  ? "ViTImageProcessor"
                                                     : "SiglipImageProcessor";
  const WeightSet& weights = *vae.source.weights;
  const Json json{{"image_processor_type", processor},
                  {"image_mean", decimals(weights.tensor("encoder_mean"))},
                  {"image_std", decimals(weights.tensor("encoder_std"))},
                  {"size", {{"height", c.encoder_input_size}, {"width", c.encoder_input_size}}}};
  return json.dump(2) + "\n";
}

}  // namespace

std::vector<std::pair<std::string, std::string>> config_files(const ExportedModels& models) {
  std::vector<std::pair<std::string, std::string>> files;
  std::string yaml;
  if (models.vae) {
    const models::ModelSource& source = models.vae->source;
    const AutoencoderRAEConfig c = models::parse_autoencoder_rae_config(source.config, source.where);
    RAEDIT_CHECK(c.scaling_factor == 1.0, {.code = ErrorCode::unsupported,
                                           .what = "upstream has no scaling factor",
                                           .where = source.where + ": scaling_factor",
                                           .found = fmt::to_string(c.scaling_factor),
                                           .expected = "1"});
    yaml += stage_1_section(c, !upstream_statistics(*source.weights).empty());
    files.emplace_back(std::string(kDecoderConfigFolder) + "/config.json", decoder_config(c));
    files.emplace_back(std::string(kEncoderFolder) + "/config.json", encoder_config(c));
    files.emplace_back(std::string(kEncoderFolder) + "/preprocessor_config.json", preprocessor_config(*models.vae, c));
  }
  if (models.transformer) yaml += stage_2_sections(models);
  files.emplace_back(kConfigFile, yaml);
  return files;
}

std::shared_ptr<const WeightSet> export_encoder(const ModelPlan& vae) {
  const models::ModelSource& source = vae.source;
  const AutoencoderRAEConfig c = models::parse_autoencoder_rae_config(source.config, source.where);
  const EncoderSpelling& spelling = spelling_of(c.encoder_type);
  const std::string from = std::string("encoder.") + spelling.inner;
  std::vector<Recipe> recipes;
  for (const std::string& name : source.weights->names())
    if (name.starts_with(from)) recipes.push_back({spelling.prefix + name.substr(from.size()), {{name}}});
  const std::string norm = std::string(spelling.prefix) + spelling.last_norm;
  const NamedTensors identity{{norm + ".weight", Tensor::full({c.encoder_hidden_size}, 1.0f)},
                              {norm + ".bias", Tensor::zeros({c.encoder_hidden_size}, DType::float32)}};
  return std::make_shared<JoinedWeights>(
      JoinedWeights::Parts{std::make_shared<TranslatedWeights>(source.weights, std::move(recipes)),
                           std::make_shared<MemoryWeights>("identity", identity)});
}

}  // namespace raedit::convert
