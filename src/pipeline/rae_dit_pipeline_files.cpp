// RAEDiTPipeline as a folder: model_index.json, transformer/, vae/, scheduler/.
#include <fmt/format.h>

#include <filesystem>

#include "core/check.h"
#include "core/json.h"
#include "io/files.h"
#include "pipeline/class_names.h"
#include "pipeline/latent_fit.h"
#include "pipeline/model_index.h"
#include "raedit/rae_dit_pipeline.h"

namespace raedit {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexName = "model_index.json";

// ["diffusers", "RAEDiT2DModel"]
void check_component(JsonReader& reader, const char* key, std::string_view class_name) {
  const Json* value = reader.raw(key);
  const bool known = value != nullptr && value->is_array() && value->size() == 2 && (*value)[1] == class_name;
  if (!known) reader.fail(key, fmt::format("[\"diffusers\", \"{}\"]", class_name));
}

void check_index(const Json& index, const std::string& path) {
  RAEDIT_CHECK(index.is_object() && index.contains("_class_name") && index["_class_name"] == "RAEDiTPipeline",
               {.code = ErrorCode::format,
                .what = "this is not a RAEDiTPipeline",
                .where = path,
                .found = !index.is_object()                 ? index.type_name()
                         : !index.contains("_class_name")   ? "no _class_name"
                         : index["_class_name"].is_string() ? index["_class_name"].get<std::string>()
                                                            : index["_class_name"].type_name(),
                .expected = "RAEDiTPipeline"});
  JsonReader reader(index, path);
  check_component(reader, "scheduler", "FlowMatchEulerDiscreteScheduler");
  check_component(reader, "transformer", "RAEDiT2DModel");
  check_component(reader, "vae", "AutoencoderRAE");
  reader.raw("id2label");
  reader.finish();
}

// What is read before the models: a broken index costs no time.
struct SmallParts {
  FlowMatchEulerDiscreteScheduler scheduler;
  std::map<int64_t, std::string> id2label;
};

SmallParts read_small_parts(const std::string& folder) {
  std::error_code error;
  RAEDIT_CHECK(fs::is_directory(folder, error),
               {.code = ErrorCode::not_found,
                .what = "no such model folder",
                .where = folder,
                .hint = "a model folder holds model_index.json, transformer/, vae/ and scheduler/"});
  const fs::path root(folder);
  const std::string path = (root / kIndexName).string();
  const Json index = parse_json(read_file(path), path);
  check_index(index, path);
  auto id2label = read_id2label(index, path);
  return {FlowMatchEulerDiscreteScheduler::from_pretrained((root / "scheduler").string()), std::move(id2label)};
}

}  // namespace

void check_latents_fit(const RAEDiT2DModelConfig& transformer, const AutoencoderRAEConfig& vae,
                       const std::string& where) {
  const int64_t latent_channels = vae.encoder_hidden_size;
  RAEDIT_CHECK(vae.reshape_to_2d, {.code = ErrorCode::format,
                                   .what = "the autoencoder's latents are token lists, not maps",
                                   .where = where,
                                   .found = "reshape_to_2d false",
                                   .expected = "reshape_to_2d true"});
  RAEDIT_CHECK(
      transformer.in_channels == latent_channels && transformer.sample_size == vae.grid(),
      {.code = ErrorCode::format,
       .what = "transformer and autoencoder do not fit together",
       .where = where,
       .found = fmt::format("transformer latents [{0}, {1}, {1}]", transformer.in_channels, transformer.sample_size),
       .expected = fmt::format("[{0}, {1}, {1}] of the autoencoder", latent_channels, vae.grid())});
}

RAEDiTPipeline::RAEDiTPipeline(RAEDiT2DModel transformer, AutoencoderRAE vae, FlowMatchEulerDiscreteScheduler scheduler,
                               std::map<int64_t, std::string> id2label)
    : transformer_(std::move(transformer)),
      vae_(std::move(vae)),
      scheduler_(std::move(scheduler)),
      id2label_(std::move(id2label)),
      labels_(names_of(id2label_)) {
  check_latents_fit(transformer_.config(), vae_.config(), "RAEDiTPipeline");
}

RAEDiTPipeline RAEDiTPipeline::from_pretrained(const std::string& folder, const LoadOptions& options) {
  auto [scheduler, id2label] = read_small_parts(folder);
  auto vae = AutoencoderRAE::from_pretrained((fs::path(folder) / "vae").string(), options);
  auto transformer = RAEDiT2DModel::from_pretrained((fs::path(folder) / "transformer").string(), options);
  return RAEDiTPipeline(std::move(transformer), std::move(vae), std::move(scheduler), std::move(id2label));
}

RAEDiTPipeline RAEDiTPipeline::from_pretrained(const std::string& folder, RAEDiT2DModel transformer,
                                               const LoadOptions& options) {
  auto [scheduler, id2label] = read_small_parts(folder);
  auto vae = AutoencoderRAE::from_pretrained((fs::path(folder) / "vae").string(), options);
  return RAEDiTPipeline(std::move(transformer), std::move(vae), std::move(scheduler), std::move(id2label));
}

void RAEDiTPipeline::save_pretrained(const std::string& folder, const SaveOptions& options) const {
  const fs::path root(folder);
  create_directories(folder);
  transformer_.save_pretrained((root / "transformer").string(), options);
  vae_.save_pretrained((root / "vae").string(), options);
  scheduler_.save_pretrained((root / "scheduler").string());
  // Last: a folder without it is not a pipeline yet.
  write_file((root / kIndexName).string(), model_index(id2label_).dump(2) + "\n");
}

}  // namespace raedit
