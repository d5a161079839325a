// config.json of AutoencoderRAE: every field checked before anything is built. latents_mean and latents_std are nested
// lists of up to a million numbers; only their shape is read here, since the checkpoint holds the same as tensors.
#include <fmt/format.h>

#include <cmath>

#include "core/check.h"
#include "models/autoencoder_rae.h"
#include "models/checkpoint.h"

namespace raedit {

namespace models {
namespace {

constexpr int kMostStatisticsRank = 4;

// The lists of lists that torch.tensor() takes: all at one depth have one length, and all ends are numbers.
bool has_shape(const Json& value, const std::vector<int64_t>& dims, size_t depth = 0) {
  if (depth == dims.size()) return value.is_number();
  if (!value.is_array() || static_cast<int64_t>(value.size()) != dims[depth]) return false;
  for (const Json& item : value)
    if (!has_shape(item, dims, depth + 1)) return false;
  return true;
}

// Of a number, of nested lists of numbers, or of the one number that stands for null.
Shape list_shape(JsonReader& reader, const char* key) {
  const Json* value = reader.raw(key);
  if (value == nullptr || value->is_null()) return {1};
  std::vector<int64_t> dims;
  for (const Json* at = value; at->is_array() && !at->empty() && dims.size() <= kMostStatisticsRank; at = &at->front())
    dims.push_back(static_cast<int64_t>(at->size()));
  if (dims.size() > kMostStatisticsRank || !has_shape(*value, dims))
    reader.fail(key, "a number, null, or equally long lists of numbers, nested at most four deep");
  return Shape(dims);
}

void check_channel_numbers(JsonReader& reader, const char* key) {
  const Json* value = reader.raw(key);
  if (value == nullptr || value->is_null()) return;
  if (!has_shape(*value, {3})) reader.fail(key, "three numbers or null");
}

void check_range(const JsonReader& reader, const char* key, int64_t value, int64_t least = 1,
                 int64_t most = kMostWidth) {
  if (value < least || value > most) reader.fail(key, fmt::format("{} to {}", least, most));
}

int64_t trained_image_size(const AutoencoderRAEConfig& c) {
  if (c.encoder_type == "mae") return VitMae::kTrainedImageSize;
  if (c.encoder_type == "siglip2") return Siglip2::kTrainedImageSize;
  return Dinov2WithRegisters::kTrainedImageSize;
}

void check(const JsonReader& reader, const AutoencoderRAEConfig& c) {
  check_range(reader, "encoder_hidden_size", c.encoder_hidden_size);
  check_range(reader, "encoder_patch_size", c.encoder_patch_size);
  check_range(reader, "encoder_num_hidden_layers", c.encoder_num_hidden_layers, 0, kMostLayers);
  check_range(reader, "encoder_input_size", c.encoder_input_size);
  check_range(reader, "decoder_hidden_size", c.decoder_hidden_size);
  check_range(reader, "decoder_num_hidden_layers", c.decoder_num_hidden_layers, 0, kMostLayers);
  check_range(reader, "decoder_num_attention_heads", c.decoder_num_attention_heads);
  check_range(reader, "decoder_intermediate_size", c.decoder_intermediate_size);
  check_range(reader, "patch_size", c.patch_size);
  if (c.num_channels != 3) reader.fail("num_channels", "3");
  if (c.encoder_hidden_size % 64 != 0) reader.fail("encoder_hidden_size", "a multiple of 64, the width of a head");
  if (c.encoder_patch_size > trained_image_size(c))
    reader.fail("encoder_patch_size",
                fmt::format("1 to {}, the side of {}'s own pictures", trained_image_size(c), c.encoder_type));
  if (c.encoder_input_size % c.encoder_patch_size != 0)
    reader.fail("encoder_input_size", fmt::format("a multiple of encoder_patch_size {}", c.encoder_patch_size));
  if (c.grid() > kMostTokensAlongEdge)
    reader.fail("encoder_input_size", fmt::format("at most {} patches along an edge", kMostTokensAlongEdge));
  if ((c.num_patches() + 1) * c.decoder_hidden_size > kMostTableElements)
    reader.fail("decoder_hidden_size",
                fmt::format("at most {} for {} patches", kMostTableElements / (c.num_patches() + 1), c.num_patches()));
  if (c.decoder_hidden_size % c.decoder_num_attention_heads != 0)
    reader.fail("decoder_num_attention_heads",
                fmt::format("a divisor of decoder_hidden_size {}", c.decoder_hidden_size));
  if (c.decoder_hidden_size % 4 != 0)
    reader.fail("decoder_hidden_size", "a multiple of 4, which sine-cosine positions need");
  if (c.image_size && *c.image_size != c.output_size())
    reader.fail("image_size",
                fmt::format("{} (patch_size * encoder_input_size / encoder_patch_size) or null", c.output_size()));
  const auto factor = static_cast<float>(c.scaling_factor);
  if (factor == 0.0f || !std::isfinite(factor)) reader.fail("scaling_factor", "a float32 number that is not 0");
  if (c.noise_tau < 0.0) reader.fail("noise_tau", "0 or more");
}

AutoencoderRAEConfig parse(JsonReader reader) {
  AutoencoderRAEConfig c;
  c.encoder_type = reader.string("encoder_type", c.encoder_type);
  if (c.encoder_type != "dinov2" && c.encoder_type != "siglip2" && c.encoder_type != "mae")
    reader.fail("encoder_type", "dinov2, siglip2 or mae");
  c.encoder_hidden_size = reader.int64("encoder_hidden_size", c.encoder_hidden_size);
  c.encoder_patch_size = reader.int64("encoder_patch_size", c.encoder_patch_size);
  c.encoder_num_hidden_layers = reader.int64("encoder_num_hidden_layers", c.encoder_num_hidden_layers);
  c.decoder_hidden_size = reader.int64("decoder_hidden_size", c.decoder_hidden_size);
  c.decoder_num_hidden_layers = reader.int64("decoder_num_hidden_layers", c.decoder_num_hidden_layers);
  c.decoder_num_attention_heads = reader.int64("decoder_num_attention_heads", c.decoder_num_attention_heads);
  c.decoder_intermediate_size = reader.int64("decoder_intermediate_size", c.decoder_intermediate_size);
  c.patch_size = reader.int64("patch_size", c.patch_size);
  c.encoder_input_size = reader.int64("encoder_input_size", c.encoder_input_size);
  c.image_size = reader.optional_int64("image_size");
  c.num_channels = reader.int64("num_channels", c.num_channels);
  c.noise_tau = reader.number("noise_tau", c.noise_tau);
  c.reshape_to_2d = reader.boolean("reshape_to_2d", c.reshape_to_2d);
  c.use_encoder_loss = reader.boolean("use_encoder_loss", c.use_encoder_loss);
  c.scaling_factor = reader.number("scaling_factor", c.scaling_factor);
  c.latents_mean_shape = list_shape(reader, "latents_mean");
  c.latents_std_shape = list_shape(reader, "latents_std");
  // The checkpoint's encoder_mean and encoder_std are what is used; the lists only have to be lists.
  check_channel_numbers(reader, "encoder_norm_mean");
  check_channel_numbers(reader, "encoder_norm_std");
  reader.finish();
  check(reader, c);
  return c;
}

}  // namespace

AutoencoderRAEConfig parse_autoencoder_rae_config(const Json& json, const std::string& where) {
  return parse(JsonReader(json, where));
}

}  // namespace models

AutoencoderRAEConfig AutoencoderRAEConfig::from_file(const std::string& path) {
  const Json json = models::read_config_file(path, "AutoencoderRAE");
  return models::parse(JsonReader(json, path));
}

}  // namespace raedit
