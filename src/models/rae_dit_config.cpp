// config.json of RAEDiT2DModel: every field checked before anything is built.
#include <fmt/format.h>

#include "core/check.h"
#include "models/checkpoint.h"
#include "models/rae_dit_transformer.h"

namespace raedit {

namespace models {
namespace {

void check_range(const JsonReader& reader, const char* key, int64_t value, int64_t least = 1,
                 int64_t most = kMostWidth) {
  if (value < least || value > most) reader.fail(key, fmt::format("{} to {}", least, most));
}

void check_pair(const JsonReader& reader, const char* key, const std::array<int64_t, 2>& pair, int64_t least = 1,
                int64_t most = kMostWidth) {
  for (const int64_t value : pair) check_range(reader, key, value, least, most);
}

void check(const JsonReader& reader, const RAEDiT2DModelConfig& c) {
  check_range(reader, "sample_size", c.sample_size);
  check_range(reader, "in_channels", c.in_channels);
  check_range(reader, "num_classes", c.num_classes);
  check_pair(reader, "patch_size", c.patch_size);
  check_pair(reader, "hidden_size", c.hidden_size);
  check_pair(reader, "num_heads", c.num_heads);
  check_pair(reader, "depth", c.depth, 0, kMostLayers);
  if (!(c.mlp_ratio > 0.0 && c.mlp_ratio <= 1024.0)) reader.fail("mlp_ratio", "above 0, at most 1024");
  if (!(c.class_dropout_prob >= 0.0 && c.class_dropout_prob <= 1.0)) reader.fail("class_dropout_prob", "0 to 1");
  for (size_t stream = 0; stream < 2; ++stream) {
    if (c.sample_size % c.patch_size[stream] != 0)
      reader.fail("patch_size", fmt::format("a divisor of sample_size {}", c.sample_size));
    if (c.sample_size / c.patch_size[stream] > kMostTokensAlongEdge)
      reader.fail("sample_size", fmt::format("at most {} patches along an edge", kMostTokensAlongEdge));
    const int64_t side = c.sample_size / c.patch_size[stream];
    if (side * side * c.hidden_size[stream] > kMostTableElements)
      reader.fail("hidden_size",
                  fmt::format("at most {} for {} tokens", kMostTableElements / (side * side), side * side));
    if (static_cast<double>(c.hidden_size[stream]) * c.mlp_ratio < 2.0)
      reader.fail("mlp_ratio", "at least one hidden feature");
    if (c.hidden_size[stream] % c.num_heads[stream] != 0)
      reader.fail("num_heads", fmt::format("a divisor of hidden_size {}", c.hidden_size[stream]));
    if (c.use_rope && c.hidden_size[stream] / c.num_heads[stream] % 4 != 0)
      reader.fail("num_heads", "a head width that is a multiple of 4, which rotary positions need");
  }
  if (c.use_pos_embed && c.hidden_size[0] % 4 != 0)
    reader.fail("hidden_size", "a multiple of 4, which sine-cosine positions need");
}

RAEDiT2DModelConfig parse(JsonReader reader) {
  RAEDiT2DModelConfig c;
  c.sample_size = reader.int64("sample_size", c.sample_size);
  c.patch_size = reader.int_pair("patch_size", c.patch_size);
  c.in_channels = reader.int64("in_channels", c.in_channels);
  c.hidden_size = reader.int_pair("hidden_size", c.hidden_size);
  c.depth = reader.int_pair("depth", c.depth);
  c.num_heads = reader.int_pair("num_heads", c.num_heads);
  c.mlp_ratio = reader.number("mlp_ratio", c.mlp_ratio);
  c.class_dropout_prob = reader.number("class_dropout_prob", c.class_dropout_prob);
  c.num_classes = reader.int64("num_classes", c.num_classes);
  c.use_qknorm = reader.boolean("use_qknorm", c.use_qknorm);
  c.use_swiglu = reader.boolean("use_swiglu", c.use_swiglu);
  c.use_rope = reader.boolean("use_rope", c.use_rope);
  c.use_rmsnorm = reader.boolean("use_rmsnorm", c.use_rmsnorm);
  c.wo_shift = reader.boolean("wo_shift", c.wo_shift);
  c.use_pos_embed = reader.boolean("use_pos_embed", c.use_pos_embed);
  reader.finish();
  check(reader, c);
  return c;
}

}  // namespace

RAEDiT2DModelConfig parse_rae_dit_config(const Json& json, const std::string& where) {
  return parse(JsonReader(json, where));
}

}  // namespace models

RAEDiT2DModelConfig RAEDiT2DModelConfig::from_file(const std::string& path) {
  const Json json = models::read_config_file(path, "RAEDiT2DModel");
  return models::parse(JsonReader(json, path));
}

}  // namespace raedit
