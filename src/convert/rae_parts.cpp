// Where the parts of an autoencoder are: by the script's options, or by the stage_1 section of upstream's YAML.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "convert/rae.h"
#include "core/check.h"
#include "core/text.h"
#include "io/files.h"

namespace raedit::convert {
namespace fs = std::filesystem;
namespace {

struct Preset {
  const char* name;
  DecoderSizes sizes;
};
constexpr Preset kPresets[] = {
    {"ViTB", {768, 12, 12, 3072}}, {"ViTL", {1024, 24, 16, 4096}}, {"ViTXL", {1152, 28, 16, 4096}}};

// Below decoders/ and stats/ of the published repository.
std::string published_folder(const std::string& encoder_type) {
  if (encoder_type == "dinov2") return "dinov2/wReg_base";
  if (encoder_type == "mae") return "mae/base_p16";
  return "siglip2/base_p16_i256";
}

std::string cased(std::string name, int (*change)(int)) {
  std::transform(name.begin(), name.end(), name.begin(), [&](unsigned char c) { return static_cast<char>(change(c)); });
  return name;
}

// Each run of letters with a capital first: "imagenet1k" -> "Imagenet1K", as Python's str.title.
std::string titled(const std::string& name) {
  std::string result = name;
  bool inside = false;
  for (char& c : result) {
    const auto letter = static_cast<unsigned char>(c);
    c = static_cast<char>(inside ? std::tolower(letter) : std::toupper(letter));
    inside = std::isalpha(letter) != 0;
  }
  return result;
}

std::string find_decoder(const ConvertRaeOptions& o, const hub::Repository& repository) {
  if (!o.decoder_checkpoint.empty()) return resolve_input(repository, o.decoder_checkpoint, "decoder checkpoint");
  const std::string folder = fmt::format("decoders/{}/{}", published_folder(o.encoder_type), o.variant);
  for (const char* name : {"dinov2_decoder.pt", "model.pt"})
    if (const auto found = find_input(repository, "models/" + folder + "/" + name)) return *found;
  raise({.code = ErrorCode::not_found,
         .what = "decoder checkpoint not found",
         .where = repository.name(),
         .expected = folder + "/dinov2_decoder.pt or " + folder + "/model.pt",
         .hint = "pass variant or decoder_checkpoint"});
}

std::optional<std::string> find_statistics(const ConvertRaeOptions& o, const hub::Repository& repository) {
  if (!o.stats_checkpoint.empty()) return resolve_input(repository, o.stats_checkpoint, "statistics");
  for (const std::string& dataset :
       {o.dataset_name, cased(o.dataset_name, std::tolower), cased(o.dataset_name, std::toupper),
        titled(o.dataset_name), std::string("imagenet1k"), std::string("ImageNet1k")})
    if (const auto found = find_input(
            repository, fmt::format("models/stats/{}/{}/stat.pt", published_folder(o.encoder_type), dataset)))
      return found;
  return std::nullopt;
}

DecoderSizes read_decoder_config(const std::string& path) {
  const Json json = parse_json(read_file(path), path);
  JsonReader reader(json, path);
  return {reader.int64("decoder_hidden_size"), reader.int64("decoder_num_hidden_layers"),
          reader.int64("decoder_num_attention_heads"), reader.int64("decoder_intermediate_size")};
}

// stage_1.params as upstream's RAE takes them.
struct Stage1Params {
  std::string encoder_cls, encoder_path, decoder_config_path, decoder_path, stats_path;
  int64_t encoder_input_size = 224, decoder_patch_size = 16;
  bool reshape_to_2d = true;
};

std::string encoder_weights_name(const Json* params, const std::string& where, const std::string& fallback) {
  if (params == nullptr || params->is_null()) return fallback;
  JsonReader reader(*params, where + ": encoder_params");
  const std::string name = reader.string("dinov2_path", reader.string("model_name", fallback));
  if (!reader.boolean("normalize", true))
    raise({.code = ErrorCode::unsupported,
           .what = "an AutoencoderRAE has no affine part in the encoder's last norm",
           .where = where + ": encoder_params.normalize",
           .found = "false",
           .expected = "true"});
  reader.raw("num_tokens");
  reader.finish();
  return name;
}

Stage1Params read_stage_1(const UpstreamModel& model) {
  const bool known = model.target.empty() || model.target == "RAE" || model.target.ends_with(".RAE");
  RAEDIT_CHECK(known, {.code = ErrorCode::unsupported,
                       .what = "this is not an autoencoder that raedit knows",
                       .where = model.where + ": target",
                       .found = model.target,
                       .expected = "stage1.RAE"});
  JsonReader reader(model.params, model.where + ": params");
  Stage1Params p;
  p.encoder_cls = reader.string("encoder_cls", "Dinov2withNorm");
  const std::string config_path = reader.string("encoder_config_path", "");
  p.encoder_path = encoder_weights_name(reader.raw("encoder_params"), reader.where(), config_path);
  p.encoder_input_size = reader.int64("encoder_input_size", 224);
  p.decoder_config_path = reader.string("decoder_config_path");
  p.decoder_patch_size = reader.int64("decoder_patch_size", 16);
  const Json* decoder = reader.raw("pretrained_decoder_path");
  if (decoder != nullptr && !decoder->is_null()) p.decoder_path = reader.string("pretrained_decoder_path");
  const Json* stats = reader.raw("normalization_stat_path");
  if (stats != nullptr && !stats->is_null()) p.stats_path = reader.string("normalization_stat_path");
  p.reshape_to_2d = reader.boolean("reshape_to_2d", true);
  reader.number("noise_tau", 0.8);  // training only
  const double eps = reader.number("eps", 1e-5);
  if (eps != 1e-5) reader.fail("eps", "1e-5, the only one that the diffusers layout knows");
  reader.finish();
  return p;
}

std::string encoder_type_of(const std::string& encoder_cls, const std::string& where) {
  if (encoder_cls == "Dinov2withNorm") return "dinov2";
  if (encoder_cls == "SigLIP2wNorm") return "siglip2";
  if (encoder_cls == "MAEwNorm") return "mae";
  raise({.code = ErrorCode::unsupported,
         .what = "unknown encoder class",
         .where = where + ": params.encoder_cls",
         .found = encoder_cls,
         .expected = "Dinov2withNorm, SigLIP2wNorm or MAEwNorm"});
}

// "configs/decoder/ViTXL": a folder with config.json in one of the repositories, or else the preset of its name.
DecoderSizes sizes_of(const std::string& path, const hub::Repository& weights, const hub::Repository& configs) {
  const std::string file = path.ends_with(".json") ? path : path + "/config.json";
  for (const hub::Repository* repository : {&configs, &weights})
    if (const auto found = find_input(*repository, file)) return read_decoder_config(*found);
  return decoder_sizes(fs::path(path).filename().string());
}

HfEncoder encoder_or_facts(const std::string& type, const std::string& name, const HubOptions& hub, bool optional,
                           std::vector<std::string>& notes) {
  if (!optional) return open_encoder(type, name, hub);
  HubOptions local = hub;
  local.offline = true;  // generating does without: nothing is downloaded for it
  try {
    return open_encoder(type, name, local);
  } catch (const Error& error) {
    const std::optional<EncoderFacts> facts = published_encoder(name);
    if (error.code() != ErrorCode::not_found || !facts) throw;
    notes.push_back(fmt::format("the encoder {} is not on this machine: encoding will not work", name));
    return {name, *facts, nullptr, {}};
  }
}

}  // namespace

DecoderSizes decoder_sizes(const std::string& name_or_path) {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) {
    if (name_or_path == preset.name) return preset.sizes;
    names.emplace_back(preset.name);
  }
  std::error_code error;
  if (fs::is_directory(name_or_path, error))
    return read_decoder_config((fs::path(name_or_path) / "config.json").string());
  if (fs::exists(name_or_path, error)) return read_decoder_config(name_or_path);
  raise({.code = ErrorCode::invalid_argument,
         .what = "unknown decoder",
         .where = "decoder_config_name",
         .found = name_or_path,
         .expected = join(names) + ", or the path of a config.json",
         .hint = did_you_mean(name_or_path, names)});
}

RaeParts find_rae_parts(const ConvertRaeOptions& o, const HubOptions& hub) {
  check_encoder_type(o.encoder_type);
  RaeParts parts;
  parts.encoder_type = o.encoder_type;
  const hub::Repository repository = hub::Repository::open(o.repo_or_path.empty() ? "." : o.repo_or_path, hub);
  parts.decoder_file = find_decoder(o, repository);
  parts.decoder_key = o.checkpoint_key;
  parts.stats_file = find_statistics(o, repository);
  parts.decoder = decoder_sizes(o.decoder_config_name);
  parts.decoder_where = o.decoder_config_name;
  parts.encoder = open_encoder(
      o.encoder_type, o.encoder_name_or_path.empty() ? default_encoder(o.encoder_type) : o.encoder_name_or_path, hub);
  parts.encoder_input_size = o.encoder_input_size;
  parts.patch_size = o.patch_size;
  parts.image_size = o.image_size;
  parts.num_channels = o.num_channels;
  parts.scaling_factor = o.scaling_factor;
  parts.disable_ema = o.disable_ema;
  parts.latents_std = o.latents_std;
  return parts;
}

RaeParts find_rae_parts(const ConvertPipelineOptions& o, const UpstreamConfig& config, const hub::Repository& weights,
                        const hub::Repository& configs, const HubOptions& hub, bool encoder_optional,
                        std::vector<std::string>& notes) {
  const UpstreamModel& model = *config.stage_1;
  const Stage1Params p = read_stage_1(model);
  RaeParts parts;
  parts.encoder_type = encoder_type_of(p.encoder_cls, model.where);
  const std::string decoder = o.decoder_checkpoint.empty() ? p.decoder_path : o.decoder_checkpoint;
  RAEDIT_CHECK(!decoder.empty(), {.code = ErrorCode::format,
                                  .what = "no decoder checkpoint is named",
                                  .where = model.where + ": params.pretrained_decoder_path",
                                  .hint = "pass decoder_checkpoint"});
  parts.decoder_file = resolve_input(weights, decoder, "decoder checkpoint");
  const std::string stats = o.stats_checkpoint.empty() ? p.stats_path : o.stats_checkpoint;
  if (!stats.empty()) parts.stats_file = resolve_input(weights, stats, "statistics");
  parts.decoder = sizes_of(p.decoder_config_path, weights, configs);
  parts.decoder_where = p.decoder_config_path;
  std::string encoder = !o.encoder_name_or_path.empty() ? o.encoder_name_or_path : p.encoder_path;
  if (encoder.empty()) encoder = default_encoder(parts.encoder_type);
  // A folder inside the place itself, as a self-contained upstream folder has it.
  std::error_code error;
  if (weights.is_local() && fs::is_directory(fs::path(weights.name()) / encoder, error))
    encoder = (fs::path(weights.name()) / encoder).string();
  parts.encoder = encoder_or_facts(parts.encoder_type, encoder, hub, encoder_optional, notes);
  parts.encoder_input_size = p.encoder_input_size;
  parts.patch_size = p.decoder_patch_size;
  parts.reshape_to_2d = p.reshape_to_2d;
  parts.disable_ema = o.disable_ema;
  parts.latents_std = o.latents_std;
  return parts;
}

}  // namespace raedit::convert
