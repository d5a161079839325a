#include "inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "core/check.h"
#include "inspect_model.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "raedit/flow_match_euler_discrete.h"

namespace raedit::cli {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMostConfigBytes = size_t{1} << 30;
constexpr size_t kLongestList = 8;

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

Json read_json(const fs::path& path) {
  Json json = parse_json(read_file(path.string(), kMostConfigBytes), path.string());
  RAEDIT_CHECK(json.is_object(), {.code = ErrorCode::format, .what = "not a JSON object", .where = path.string()});
  return json;
}

// "[192, 8, 8] numbers" in place of a long list.
Json shortened(const Json& value) {
  if (!value.is_array()) return value;
  std::string shape;
  size_t count = 1;
  const Json* level = &value;
  while (level->is_array() && !level->empty()) {
    count *= level->size();
    shape += (shape.empty() ? "" : ", ") + fmt::to_string(level->size());
    level = &level->front();
  }
  return count <= kLongestList ? value : Json(fmt::format("[{}] numbers", shape));
}

std::string class_name(const Json& config) {
  return config.contains("_class_name") && config["_class_name"].is_string() ? config["_class_name"].get<std::string>()
                                                                             : "";
}

void add_tensors(Component& component, const SafetensorsFile& file) {
  std::error_code error;
  component.files.emplace_back(fs::path(file.path()).filename().string(), fs::file_size(file.path(), error));
  for (const std::string& name : file.names()) {
    const TensorInfo& info = file.info(name);
    component.tensors.push_back({name, std::string(name_of(info.dtype)), info.shape, info.nbytes, ""});
  }
}

std::string guess_kind(const SafetensorsFile& file) {
  if (file.contains("y_embedder.embedding_table.weight") && file.contains("final_layer.linear.weight"))
    return "weights of a RAEDiT2DModel";
  if (file.contains("decoder.decoder_embed.weight")) return "weights of an AutoencoderRAE";
  const auto software = file.metadata().find("software");
  if (software != file.metadata().end() && software->second.starts_with("raedit"))
    return file.contains("images") ? "pictures" : "latents";
  return "tensors";
}

Component inspect_file(const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  Component component;
  component.kind = guess_kind(file);
  component.path = path;
  component.metadata = file.metadata();
  add_tensors(component, file);
  for (const TensorRow& row : component.tensors) component.parameters += row.shape.numel();
  return component;
}

// Runs `fill`, and notes what is wrong instead of giving up: the rest is worth seeing.
void attempt(Component& component, const std::function<void()>& fill) {
  try {
    fill();
  } catch (const Error& error) {
    if (component.problem.empty()) component.problem = error.what();
  }
}

Component inspect_component(const fs::path& folder, const std::string& name, const std::string& expected_kind) {
  Component component;
  component.name = name;
  component.path = folder.string();
  component.kind = expected_kind;
  const bool scheduler = is_file(folder / "scheduler_config.json");
  attempt(component, [&] {
    Json config = read_json(folder / (scheduler ? "scheduler_config.json" : "config.json"));
    if (!class_name(config).empty()) component.kind = class_name(config);
    component.config = Json::object();
    for (const auto& [key, value] : config.items())
      if (!key.starts_with("_")) component.config[key] = shortened(value);
  });
  if (scheduler) {
    attempt(component, [&] { (void)FlowMatchEulerDiscreteScheduler::from_pretrained(folder.string()); });
    return component;
  }
  attempt(component, [&] {
    const SafetensorsSet weights = SafetensorsSet::open(folder.string());
    component.metadata = weights.metadata();
    for (const SafetensorsFile& file : weights.shards()) add_tensors(component, file);
    attempt(component, [&] { describe_model(component, weights); });
  });
  return component;
}

Inspection inspect_pipeline(const fs::path& folder) {
  Inspection inspection;
  const Json index = read_json(folder / "model_index.json");
  inspection.kind = class_name(index).empty() ? "pipeline" : class_name(index);
  if (index.contains("id2label") && index["id2label"].is_object()) inspection.labels = index["id2label"].size();
  for (const auto& [key, value] : index.items()) {
    const bool names_class = value.is_array() && value.size() == 2 && value[1].is_string();
    if (names_class) inspection.components.push_back(inspect_component(folder / key, key, value[1].get<std::string>()));
  }
  return inspection;
}

}  // namespace

Inspection inspect(const std::string& path) {
  std::error_code error;
  const fs::path root(path);
  RAEDIT_CHECK(fs::exists(root, error),
               {.code = ErrorCode::not_found, .what = "no such file or folder", .where = path});
  Inspection inspection;
  if (!fs::is_directory(root, error)) {
    inspection.components.push_back(inspect_file(path));
    inspection.kind = "safetensors file";
  } else if (is_file(root / "model_index.json")) {
    inspection = inspect_pipeline(root);
  } else {
    RAEDIT_CHECK(is_file(root / "config.json") || is_file(root / "scheduler_config.json"),
                 {.code = ErrorCode::format,
                  .what = "not a model folder",
                  .where = path,
                  .expected = "model_index.json, config.json or scheduler_config.json in it"});
    inspection.components.push_back(inspect_component(root, "", ""));
    inspection.kind = inspection.components[0].kind;
  }
  inspection.path = path;
  return inspection;
}

}  // namespace raedit::cli
