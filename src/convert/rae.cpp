#include "convert/rae.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "convert/key_rules.h"
#include "convert/latent_statistics.h"
#include "convert/upstream_checkpoint.h"
#include "core/check.h"
#include "models/autoencoder_rae.h"

namespace raedit::convert {
namespace {

constexpr const char* kDecoder = "decoder.";

// The decoder's own names, out of a decoder-only state dict or a whole stage-1 model.
std::shared_ptr<const WeightSet> decoder_part(const StateDict& state, const std::string& path) {
  const auto& names = state.weights->names();
  if (std::none_of(names.begin(), names.end(), [](const auto& n) { return n.starts_with(kDecoder); }))
    return state.weights;
  for (const std::string& name : names)
    RAEDIT_CHECK(name.starts_with(kDecoder) || name.starts_with("encoder."),
                 {.code = ErrorCode::format,
                  .what = "tensor '" + name + "' belongs neither to the encoder nor to the decoder",
                  .where = path});
  return below(state.weights, kDecoder);
}

int64_t count_layers(const WeightSet& weights) {
  int64_t count = 0;
  for (const std::string& name : weights.names()) {
    constexpr std::string_view kLayers = "decoder_layers.";
    int32_t layer = 0;
    if (name.starts_with(kLayers) &&
        std::from_chars(name.data() + kLayers.size(), name.data() + name.size(), layer).ec == std::errc())
      count = std::max(count, int64_t{layer} + 1);
  }
  return count;
}

std::string describe(const DecoderSizes& s) {
  return fmt::format("width {}, {} layers, MLP {}", s.hidden_size, s.num_hidden_layers, s.intermediate_size);
}

// A preset that does not fit would fail at the first tensor; better to say which one does.
void check_sizes(const WeightSet& weights, const RaeParts& parts) {
  constexpr const char* kEmbed = "decoder_embed.weight";
  constexpr const char* kMlp = "decoder_layers.0.intermediate.dense.weight";
  if (!weights.contains(kEmbed) || !weights.contains(kMlp)) return;  // the strict check will name them
  DecoderSizes found;
  found.hidden_size = weights.info(kEmbed).shape.rank() == 2 ? weights.info(kEmbed).shape[0] : 0;
  found.intermediate_size = weights.info(kMlp).shape.rank() == 2 ? weights.info(kMlp).shape[0] : 0;
  found.num_hidden_layers = count_layers(weights);
  const auto same = [&](const DecoderSizes& s) {
    return s.hidden_size == found.hidden_size && s.intermediate_size == found.intermediate_size &&
           s.num_hidden_layers == found.num_hidden_layers;
  };
  if (same(parts.decoder)) return;
  std::string hint = "pass its config.json";
  for (const char* name : {"ViTB", "ViTL", "ViTXL"})
    if (same(decoder_sizes(name))) hint = fmt::format("it is a {}", name);
  raise({.code = ErrorCode::format,
         .what = "the decoder has other sizes than its config says",
         .where = parts.decoder_file,
         .found = describe(found),
         .expected = fmt::format("{} ({})", describe(parts.decoder), parts.decoder_where),
         .hint = hint});
}

Json nested_list(const float* values, const Shape& shape, int dim, int64_t& at) {
  if (dim == shape.rank()) return Json(static_cast<double>(values[at++]));
  Json list = Json::array();
  for (int64_t i = 0; i < shape[dim]; ++i) list.push_back(nested_list(values, shape, dim + 1, at));
  return list;
}

Json list_of(const Tensor& tensor) {
  if (!tensor.defined()) return nullptr;
  const Tensor values = tensor.to(DType::float32).contiguous();
  int64_t at = 0;
  return nested_list(values.data<float>(), values.shape(), 0, at);
}

Json config_of(const RaeParts& p, const LatentStatistics& statistics) {
  const EncoderFacts& e = p.encoder.facts;
  Json json{{"_class_name", "AutoencoderRAE"}};
  json["decoder_hidden_size"] = p.decoder.hidden_size;
  json["decoder_intermediate_size"] = p.decoder.intermediate_size;
  json["decoder_num_attention_heads"] = p.decoder.num_attention_heads;
  json["decoder_num_hidden_layers"] = p.decoder.num_hidden_layers;
  json["encoder_hidden_size"] = e.hidden_size;
  json["encoder_input_size"] = p.encoder_input_size;
  json["encoder_norm_mean"] = e.image_mean;
  json["encoder_norm_std"] = e.image_std;
  json["encoder_num_hidden_layers"] = e.num_hidden_layers;
  json["encoder_patch_size"] = e.patch_size;
  json["encoder_type"] = p.encoder_type;
  json["image_size"] = p.image_size ? Json(*p.image_size) : Json(nullptr);
  json["latents_mean"] = list_of(statistics.mean);
  json["latents_std"] = list_of(statistics.std);
  json["noise_tau"] = 0.0;
  json["num_channels"] = p.num_channels;
  json["patch_size"] = p.patch_size;
  json["reshape_to_2d"] = p.reshape_to_2d;
  json["scaling_factor"] = p.scaling_factor;
  json["use_encoder_loss"] = false;
  return json;
}

Tensor three(const std::array<double, 3>& values) {
  std::vector<float> floats;
  for (const double value : values) floats.push_back(static_cast<float>(value));
  return Tensor::from(floats, {1, 3, 1, 1});
}

NamedTensors buffers_of(const RaeParts& parts, const LatentStatistics& statistics) {
  return {{"encoder_mean", three(parts.encoder.facts.image_mean)},
          {"encoder_std", three(parts.encoder.facts.image_std)},
          {"_latents_mean", statistics.mean.defined() ? statistics.mean : Tensor::zeros({1}, DType::float32)},
          {"_latents_std", statistics.std.defined() ? statistics.std : Tensor::full({1}, 1.0f)}};
}

Json metadata_of(const RaeParts& p, const StateDict& state) {
  Json json;
  json["encoder"] = {{"type", p.encoder_type},
                     {"name_or_path", p.encoder.name},
                     {"hidden_size", p.encoder.facts.hidden_size},
                     {"patch_size", p.encoder.facts.patch_size},
                     {"num_hidden_layers", p.encoder.facts.num_hidden_layers}};
  json["decoder"] = {{"checkpoint_path", p.decoder_file},
                     {"checkpoint_key", or_null(p.decoder_key)},
                     {"state_dict", or_null(state.key)},
                     {"prefer_ema", !p.disable_ema}};
  json["statistics"] = {
      {"checkpoint_path", or_null(p.stats_file.value_or(""))},
      {"latents_std", p.latents_std == LatentsStd::diffusers ? "sqrt(var + 1e-5)" : "sqrt(var + 1e-5) - 1e-5"}};
  return json;
}

void check_shapes(const ModelPlan& plan, bool with_encoder) {
  const AutoencoderRAEConfig config = models::parse_autoencoder_rae_config(plan.source.config, plan.source.where);
  models::AutoencoderRaeParameters parameters(config, *plan.source.weights);
  models::NamedParameters named = models::named_parameters(parameters);
  if (!with_encoder) std::erase_if(named, [](const auto& entry) { return entry.first.starts_with("encoder."); });
  models::check_autoencoder_parameters(config, named, *plan.source.weights);
}

}  // namespace

RaePlan plan_rae(const RaeParts& parts) {
  RaePlan plan;
  const std::vector<std::string> candidates = parts.disable_ema
                                                  ? std::vector<std::string>{"model", "ema", "module", "state_dict"}
                                                  : std::vector<std::string>{"ema", "model", "module", "state_dict"};
  const StateDict state = open_state_dict(parts.decoder_file, parts.decoder_key, candidates);
  const auto decoder = decoder_part(state, parts.decoder_file);
  check_sizes(*decoder, parts);
  RAEDIT_CHECK(parts.encoder_input_size >= 1 && parts.encoder_input_size <= models::kMostWidth,
               {.code = ErrorCode::invalid_argument,
                .what = "encoder_input_size is out of range",
                .found = fmt::to_string(parts.encoder_input_size),
                .expected = fmt::format("1 to {}", models::kMostWidth)});
  const int64_t side = parts.encoder_input_size / std::max<int64_t>(parts.encoder.facts.patch_size, 1);
  const int64_t channels = parts.encoder.facts.hidden_size;
  LatentStatistics statistics;
  if (parts.stats_file)
    statistics =
        read_latent_statistics(*parts.stats_file, parts.latents_std,
                               parts.reshape_to_2d ? Shape{channels, side, side} : Shape{side * side, channels});
  else
    plan.notes.push_back("no statistics found: latents are left as the encoder gives them");

  NamedTensors buffers = buffers_of(parts, statistics);
  if (!decoder->contains("trainable_cls_token")) {
    buffers.emplace_back("decoder.trainable_cls_token",
                         Tensor::zeros({1, 1, parts.decoder.hidden_size}, DType::float32));
    plan.vae.computed.push_back("decoder.trainable_cls_token");
    plan.notes.push_back("decoder.trainable_cls_token is not in the checkpoint: zeros, as at the start of training");
  }
  JoinedWeights::Parts all{
      std::make_shared<TranslatedWeights>(decoder, apply_rules(*decoder, decoder_rules(), kDecoder))};
  if (parts.encoder.weights != nullptr) all.push_back(parts.encoder.weights);
  all.push_back(std::make_shared<MemoryWeights>("statistics", std::move(buffers)));

  plan.vae.class_name = "AutoencoderRAE";
  plan.vae.source.config = config_of(parts, statistics);
  plan.vae.source.where = parts.decoder_where;
  plan.vae.source.weights = std::make_shared<JoinedWeights>(std::move(all));
  check_shapes(plan.vae, parts.encoder.weights != nullptr);
  plan.metadata = metadata_of(parts, state);
  plan.checkpoints = {parts.decoder_file};
  if (parts.stats_file) plan.checkpoints.push_back(*parts.stats_file);
  for (const std::string& file : parts.encoder.files) plan.checkpoints.push_back(file);
  return plan;
}

}  // namespace raedit::convert
