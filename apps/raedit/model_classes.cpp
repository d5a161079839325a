#include "model_classes.h"

#include <algorithm>
#include <filesystem>

#include "core/check.h"
#include "core/json.h"
#include "io/files.h"
#include "models/checkpoint.h"
#include "models/rae_dit_transformer.h"
#include "pipeline/class_names.h"
#include "pipeline/model_index.h"

namespace raedit::cli {
namespace {

int64_t id_of_name(const ModelClasses& classes, const std::string& name) {
  try {
    return ids_of_names(classes.names, {name}).front();
  } catch (const Error& error) {
    ErrorInfo info = error.info();
    if (info.hint.empty() && !classes.names.empty()) info.hint = "'raedit labels' lists them";
    throw Error(std::move(info));
  }
}

}  // namespace

ModelClasses classes_of(const RAEDiTPipeline& pipeline) {
  return {pipeline.id2label(), pipeline.labels(), pipeline.transformer().config().num_classes};
}

std::optional<ModelClasses> classes_in(const std::string& folder) {
  const std::filesystem::path root(folder);
  try {
    const std::string index = (root / "model_index.json").string();
    ModelClasses classes;
    classes.id2label = read_id2label(parse_json(read_file(index), index), index);
    classes.names = names_of(classes.id2label);
    const std::string transformer = (root / "transformer").string();
    const Json config = models::read_config(transformer, "RAEDiT2DModel");
    classes.num_classes = models::parse_rae_dit_config(config, transformer).num_classes;
    return classes;
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::vector<int64_t> ids_of_labels(const ModelClasses& classes, const std::vector<std::string>& labels) {
  std::vector<int64_t> ids;
  for (const std::string& label : labels) {
    const auto whole = std::find_if(classes.id2label.begin(), classes.id2label.end(),
                                    [&](const auto& entry) { return entry.second == label; });
    ids.push_back(whole != classes.id2label.end() && !classes.names.contains(label) ? whole->first
                                                                                    : id_of_name(classes, label));
  }
  return ids;
}

}  // namespace raedit::cli
