#include "inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>

#include "core/check.h"
#include "inspect_model.h"
#include "inspect_torch.h"
#include "inspect_upstream.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "io/weight_folder.h"
#include "model_path.h"
#include "raedit/flow_match_euler_discrete.h"

namespace raedit::cli {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMostConfigBytes = size_t{1} << 30;
constexpr size_t kLongestList = 8;

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

// diffusers' or transformers' word for what this is the config of.
std::string class_name(const Json& config) {
  if (config.contains("_class_name") && config["_class_name"].is_string())
    return config["_class_name"].get<std::string>();
  if (config.contains("model_type") && config["model_type"].is_string()) return config["model_type"].get<std::string>();
  return "";
}

void add_tensors(Component& component, const WeightSet& weights) {
  std::set<std::string> files{weights.names().empty() ? weights.path() : weights.file_of(weights.names().front())};
  for (const std::string& name : weights.names()) {
    const TensorInfo& info = weights.info(name);
    files.insert(weights.file_of(name));
    component.tensors.push_back({name, std::string(name_of(info.dtype)), info.shape, info.nbytes, ""});
  }
  std::error_code error;
  for (const std::string& file : files)
    component.files.emplace_back(fs::path(file).filename().string(), fs::file_size(file, error));
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
  add_tensors(component, SafetensorsSet(file));
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

// diffusers' name, or transformers' where that is what is there: an encoder.
std::string weights_base(const fs::path& folder) {
  for (const char* file :
       {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"})
    if (is_file(folder / file)) return "model";
  return "diffusion_pytorch_model";
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
    const std::shared_ptr<const WeightSet> weights = open_weights(folder.string(), weights_base(folder));
    if (const auto* file = dynamic_cast<const SafetensorsSet*>(weights.get())) component.metadata = file->metadata();
    add_tensors(component, *weights);
    attempt(component, [&] { describe_model(component, *weights); });
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

std::string grouped(int64_t value) {
  std::string digits = fmt::to_string(value);
  for (auto i = static_cast<int64_t>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<size_t>(i), 1, ',');
  return digits;
}

Inspection inspect(const std::string& path) {
  std::error_code error;
  const fs::path root(path);
  RAEDIT_CHECK(fs::exists(root, error),
               {.code = ErrorCode::not_found, .what = "no such file or folder", .where = path});
  Inspection inspection;
  if (root.extension() == ".yaml" || root.extension() == ".yml") {
    const FoundModel found = resolve_model(path, "", ModelPart::labels, {});
    inspection.components = inspect_upstream(found.path, found.config);
    inspection.kind = "upstream config";
  } else if (!fs::is_directory(root, error) && is_torch_file(path)) {
    inspection.components.push_back(inspect_torch_file(path));
    inspection.kind = "torch file";
  } else if (!fs::is_directory(root, error)) {
    inspection.components.push_back(inspect_file(path));
    inspection.kind = "safetensors file";
  } else if (is_file(root / "model_index.json")) {
    inspection = inspect_pipeline(root);
  } else if (is_file(root / "config.json") || is_file(root / "scheduler_config.json")) {
    inspection.components.push_back(inspect_component(root, "", ""));
    inspection.kind = inspection.components[0].kind;
  } else {
    inspection.components = inspect_upstream(path);
    inspection.kind = "upstream folder";
    RAEDIT_CHECK(!inspection.components.empty(),
                 {.code = ErrorCode::format,
                  .what = "not a model folder",
                  .where = path,
                  .expected = "model_index.json, config.json, scheduler_config.json or an upstream YAML in it"});
  }
  inspection.path = path;
  return inspection;
}

}  // namespace raedit::cli
