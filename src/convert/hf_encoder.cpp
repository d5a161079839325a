#include "convert/hf_encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "convert/key_rules.h"
#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "hub/repository.h"
#include "io/files.h"
#include "io/weight_folder.h"

namespace raedit::convert {
namespace fs = std::filesystem;
namespace {

constexpr std::array<double, 3> kImageNetMean{0.485, 0.456, 0.406}, kImageNetStd{0.229, 0.224, 0.225};
constexpr std::array<double, 3> kHalf{0.5, 0.5, 0.5};

// What diffusers' AutoencoderRAE fixes for an encoder, and transformers' default where a config leaves it out.
struct EncoderKind {
  std::string_view type, model_type, default_name;
  int64_t patch_size;                // transformers' default
  int64_t image_size;                // the side of the position table
  int64_t config_image_size;         // transformers' default of it
  std::optional<int64_t> mlp_width;  // else four times the width
  double layer_norm_eps;
  std::string_view hidden_act;
  std::vector<std::string> outer;   // prefixes under which the encoder lies in larger checkpoints
  std::string inner;                // the prefix that it has inside the autoencoder
  std::vector<std::string> unused;  // prefixes of what RAE leaves out
};

const EncoderKind& kind_of(const std::string& type) {
  static const std::vector<EncoderKind> kinds{
      {"dinov2",
       "dinov2_with_registers",
       "facebook/dinov2-with-registers-base",
       16,
       518,
       224,
       std::nullopt,
       1e-6,
       "gelu",
       {"dinov2_with_registers."},
       "",
       {"layernorm.", "classifier."}},
      {"siglip2",
       "siglip_vision_model",
       "google/siglip2-base-patch16-256",
       16,
       256,
       224,
       3072,
       1e-6,
       "gelu_pytorch_tanh",
       {"vision_model."},
       "vision_model.",
       {"post_layernorm.", "embeddings.position_ids"}},
      {"mae",
       "vit_mae",
       "facebook/vit-mae-base",
       16,
       224,
       224,
       3072,
       1e-12,
       "gelu",
       {"vit."},
       "",
       {"layernorm.", "decoder."}},
  };
  for (const EncoderKind& kind : kinds)
    if (kind.type == type) return kind;
  std::vector<std::string> known;
  for (const EncoderKind& kind : kinds) known.emplace_back(kind.type);
  raise({.code = ErrorCode::invalid_argument,
         .what = "unknown encoder_type",
         .found = type.empty() ? "nothing" : type,
         .expected = "dinov2, siglip2 or mae",
         .hint = did_you_mean(type, known)});
}

[[noreturn]] void raise_unsupported(const std::string& path, const std::string& key, const std::string& found,
                                    const std::string& expected) {
  raise({.code = ErrorCode::unsupported,
         .what = "an AutoencoderRAE cannot hold this encoder",
         .where = path + ": " + key,
         .found = found,
         .expected = expected});
}

void require(JsonReader& reader, const char* key, int64_t fallback, int64_t expected) {
  const int64_t found = reader.int64(key, fallback);
  if (found != expected) raise_unsupported(reader.where(), key, fmt::to_string(found), fmt::to_string(expected));
}

void check_family(const EncoderKind& kind, const Json& config, const std::string& path) {
  const std::string found = config.contains("model_type") && config["model_type"].is_string()
                                ? config["model_type"].get<std::string>()
                                : "no model_type";
  const bool siglip = kind.type == "siglip2" && (found == "siglip" || found == "siglip_vision_model");
  if (found != kind.model_type && !siglip)
    raise({.code = ErrorCode::format,
           .what = fmt::format("this is not an encoder of type {}", kind.type),
           .where = path + ": model_type",
           .found = found,
           .expected = std::string(kind.model_type)});
}

EncoderFacts read_facts(const EncoderKind& kind, const Json& whole, const std::string& path) {
  RAEDIT_CHECK(whole.is_object(), {.code = ErrorCode::format,
                                   .what = "not the config of a model",
                                   .where = path,
                                   .found = whole.type_name(),
                                   .expected = "an object"});
  check_family(kind, whole, path);
  const bool nested = whole.contains("vision_config") && whole["vision_config"].is_object();
  const Json& config = nested ? whole["vision_config"] : whole;
  JsonReader reader(config, nested ? path + ": vision_config" : path);
  EncoderFacts facts;
  facts.hidden_size = reader.int64("hidden_size", 768);
  facts.patch_size = reader.int64("patch_size", kind.patch_size);
  facts.num_hidden_layers = reader.int64("num_hidden_layers", 12);
  require(reader, "image_size", kind.config_image_size, kind.image_size);
  require(reader, "num_channels", 3, 3);
  require(reader, "num_attention_heads", 12, facts.hidden_size / 64);
  const double eps = reader.number("layer_norm_eps", kind.layer_norm_eps);
  if (eps != kind.layer_norm_eps)
    raise_unsupported(reader.where(), "layer_norm_eps", fmt::to_string(eps), fmt::to_string(kind.layer_norm_eps));
  const std::string act = reader.string("hidden_act", kind.hidden_act);
  if (act != kind.hidden_act) raise_unsupported(reader.where(), "hidden_act", act, std::string(kind.hidden_act));
  if (kind.mlp_width) {
    require(reader, "intermediate_size", 3072, *kind.mlp_width);
  } else {
    const double ratio = reader.number("mlp_ratio", 4.0);
    if (ratio != 4.0) raise_unsupported(reader.where(), "mlp_ratio", fmt::to_string(ratio), "4");
    require(reader, "num_register_tokens", 4, 4);
    if (reader.boolean("use_swiglu_ffn", false)) raise_unsupported(reader.where(), "use_swiglu_ffn", "true", "false");
  }
  return facts;
}

std::array<double, 3> read_three(const Json& config, const char* key, const std::string& path) {
  const Json* value = config.is_object() && config.contains(key) ? &config[key] : nullptr;
  const bool good = value != nullptr && value->is_array() && value->size() == 3 &&
                    std::all_of(value->begin(), value->end(), [](const Json& x) { return x.is_number(); });
  RAEDIT_CHECK(good, {.code = ErrorCode::format,
                      .what = "the preprocessor of the encoder is not what RAE needs",
                      .where = path + ": " + key,
                      .found = value == nullptr ? "nothing" : value->dump().substr(0, 100),
                      .expected = "three numbers"});
  return {(*value)[0].get<double>(), (*value)[1].get<double>(), (*value)[2].get<double>()};
}

// The names of newer versions of transformers back to those of the published files, which diffusers saves too.
std::vector<KeyRule> spelling_rules(const EncoderKind& kind) {
  if (kind.type == "siglip2") return {};
  return {{".attention.q_proj.", ".attention.attention.query."},
          {".attention.k_proj.", ".attention.attention.key."},
          {".attention.v_proj.", ".attention.attention.value."},
          {".attention.o_proj.", ".attention.output.dense."}};
}

// Where the encoder lies in a checkpoint that may hold more: below one of the outer prefixes, or at the top.
std::vector<Recipe> encoder_recipes(const EncoderKind& kind, const WeightSet& weights) {
  std::string outer;
  for (const std::string& prefix : kind.outer)
    for (const std::string& name : weights.names())
      if (name.starts_with(prefix)) outer = prefix;
  std::vector<Recipe> kept;
  for (Recipe& recipe : apply_rules(weights, spelling_rules(kind))) {
    if (!recipe.name.starts_with(outer)) continue;
    const std::string name = recipe.name.substr(outer.size());
    const bool unused = std::any_of(kind.unused.begin(), kind.unused.end(),
                                    [&](const std::string& prefix) { return name.starts_with(prefix); });
    if (!unused) kept.push_back({"encoder." + kind.inner + name, recipe.pieces});
  }
  return kept;
}

// The files of the weights, fetched: model.safetensors or its shards, else pytorch_model.bin or its shards.
std::vector<std::string> fetch_weights(const hub::Repository& repository, std::string& base) {
  std::vector<std::string> files;
  for (const auto& [stem, suffix] : {std::pair("model", ".safetensors"), std::pair("pytorch_model", ".bin")}) {
    base = stem;
    const std::string single = std::string(stem) + suffix, index = single + ".index.json";
    if (repository.exists(single)) return {repository.fetch(single)};
    if (repository.exists(index)) {
      files.push_back(repository.fetch(index));
      const Json json = parse_json(read_file(files.back()), files.back());
      std::vector<std::string> shards;
      if (json.is_object() && json.contains("weight_map") && json["weight_map"].is_object())
        for (const auto& [tensor, file] : json["weight_map"].items())
          if (file.is_string()) shards.push_back(file.get<std::string>());
      std::sort(shards.begin(), shards.end());
      shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
      for (const std::string& shard : shards) files.push_back(repository.fetch(shard));
      return files;
    }
  }
  raise({.code = ErrorCode::not_found,
         .what = "the encoder has no weights",
         .where = repository.name(),
         .expected = "model.safetensors or pytorch_model.bin, or an index of shards"});
}

}  // namespace

void check_encoder_type(const std::string& type) {
  kind_of(type);
}

std::string default_encoder(const std::string& type) {
  return std::string(kind_of(type).default_name);
}

HfEncoder open_encoder(const std::string& type, const std::string& name_or_path, const HubOptions& hub) {
  const EncoderKind& kind = kind_of(type);
  HfEncoder encoder;
  encoder.name = name_or_path;
  const hub::Repository repository = hub::Repository::open(name_or_path, hub);
  const std::string config = repository.fetch("config.json");
  encoder.facts = read_facts(kind, parse_json(read_file(config), config), config);
  const std::string preprocessor = repository.fetch("preprocessor_config.json");
  const Json json = parse_json(read_file(preprocessor), preprocessor);
  encoder.facts.image_mean = read_three(json, "image_mean", preprocessor);
  encoder.facts.image_std = read_three(json, "image_std", preprocessor);

  std::string base;
  encoder.files = fetch_weights(repository, base);
  const auto weights = open_weights(fs::path(encoder.files.front()).parent_path().string(), base, "");
  encoder.weights = std::make_shared<TranslatedWeights>(weights, encoder_recipes(kind, *weights));
  return encoder;
}

std::optional<EncoderFacts> published_encoder(const std::string& name) {
  struct Published {
    std::string_view name;
    EncoderFacts facts;
  };
  static const std::vector<Published> known{
      {"facebook/dinov2-with-registers-small", {384, 14, 12, kImageNetMean, kImageNetStd}},
      {"facebook/dinov2-with-registers-base", {768, 14, 12, kImageNetMean, kImageNetStd}},
      {"facebook/dinov2-with-registers-large", {1024, 14, 24, kImageNetMean, kImageNetStd}},
      {"google/siglip2-base-patch16-256", {768, 16, 12, kHalf, kHalf}},
      {"facebook/vit-mae-base", {768, 16, 12, kImageNetMean, kImageNetStd}},
  };
  for (const Published& model : known)
    if (model.name == name.substr(0, name.find('@'))) return model.facts;
  return std::nullopt;
}

}  // namespace raedit::convert
