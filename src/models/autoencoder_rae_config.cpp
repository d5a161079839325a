// config.json of AutoencoderRAE: every field checked before anything is built. latents_mean and latents_std are nested
// lists of up to a million numbers; only their shape is read here, since the checkpoint holds the same as tensors.
#include <fmt/format.h>

#include "core/check.h"
#include "models/autoencoder_rae.h"
#include "models/checkpoint.h"

namespace raedit {

AutoencoderRAEConfig AutoencoderRAEConfig::from_file(const std::string& path) {
  return models::parse_autoencoder_rae_config(models::read_config(path, "AutoencoderRAE"), path);
}

namespace models {
namespace {

constexpr int64_t kMost = 1 << 20;

// The shape of a number or of equally long nested lists of numbers.
Shape list_shape(JsonReader& reader, const char* key) {
  const Json* value = reader.raw(key);
  if (value == nullptr || value->is_null()) return {1};
  if (value->is_number()) return {1};
  std::vector<int64_t> dims;
  for (const Json* at = value; at->is_array(); at = &at->front()) {
    dims.push_back(static_cast<int64_t>(at->size()));
    if (at->empty() || dims.size() > 4) reader.fail(key, "a number or nested lists of at most four dimensions");
  }
  if (!value->is_array()) reader.fail(key, "a number, nested lists of numbers or null");
  return Shape(dims);
}

std::vector<double> channel_numbers(JsonReader& reader, const char* key) {
  const Json* value = reader.raw(key);
  if (value == nullptr || value->is_null()) return {};
  std::vector<double> numbers;
  if (!value->is_array() || value->size() != 3) reader.fail(key, "three numbers or null");
  for (const Json& item : *value) {
    if (!item.is_number()) reader.fail(key, "three numbers or null");
    numbers.push_back(item.get<double>());
  }
  return numbers;
}

void check_range(const JsonReader& reader, const char* key, int64_t value, int64_t least = 1) {
  if (value < least || value > kMost) reader.fail(key, fmt::format("{} to {}", least, kMost));
}

void check(const JsonReader& reader, const AutoencoderRAEConfig& c) {
  check_range(reader, "encoder_hidden_size", c.encoder_hidden_size);
  check_range(reader, "encoder_patch_size", c.encoder_patch_size);
  check_range(reader, "encoder_num_hidden_layers", c.encoder_num_hidden_layers, 0);
  check_range(reader, "encoder_input_size", c.encoder_input_size);
  check_range(reader, "decoder_hidden_size", c.decoder_hidden_size);
  check_range(reader, "decoder_num_hidden_layers", c.decoder_num_hidden_layers, 0);
  check_range(reader, "decoder_num_attention_heads", c.decoder_num_attention_heads);
  check_range(reader, "decoder_intermediate_size", c.decoder_intermediate_size);
  check_range(reader, "patch_size", c.patch_size);
  if (c.num_channels != 3) reader.fail("num_channels", "3");
  if (c.encoder_hidden_size % 64 != 0) reader.fail("encoder_hidden_size", "a multiple of 64, the width of a head");
  if (c.encoder_patch_size > 518) reader.fail("encoder_patch_size", "1 to 518");
  if (c.encoder_input_size % c.encoder_patch_size != 0)
    reader.fail("encoder_input_size", fmt::format("a multiple of encoder_patch_size {}", c.encoder_patch_size));
  if (c.decoder_hidden_size % c.decoder_num_attention_heads != 0)
    reader.fail("decoder_num_attention_heads",
                fmt::format("a divisor of decoder_hidden_size {}", c.decoder_hidden_size));
  if (c.decoder_hidden_size % 4 != 0)
    reader.fail("decoder_hidden_size", "a multiple of 4, which sine-cosine positions need");
  if (c.image_size && *c.image_size != c.output_size())
    reader.fail("image_size",
                fmt::format("{} (patch_size * encoder_input_size / encoder_patch_size) or null", c.output_size()));
  if (c.scaling_factor == 0.0) reader.fail("scaling_factor", "anything but 0");
}

}  // namespace

AutoencoderRAEConfig parse_autoencoder_rae_config(const Json& json, const std::string& where) {
  JsonReader reader(json, where + "/config.json");
  AutoencoderRAEConfig c;
  c.encoder_type = reader.string("encoder_type", c.encoder_type);
  if (c.encoder_type == "siglip2" || c.encoder_type == "mae")
    raise({.code = ErrorCode::unsupported,
           .what = "this encoder is not supported yet",
           .where = where + "/config.json: encoder_type",
           .found = c.encoder_type,
           .expected = "dinov2"});
  if (c.encoder_type != "dinov2") reader.fail("encoder_type", "dinov2");
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
  channel_numbers(reader, "encoder_norm_mean");
  channel_numbers(reader, "encoder_norm_std");
  reader.finish();
  check(reader, c);
  return c;
}

}  // namespace models
}  // namespace raedit
