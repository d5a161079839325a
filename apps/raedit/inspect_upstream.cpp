#include "inspect_upstream.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "convert/imagenet_labels.h"
#include "convert/inputs.h"
#include "convert/upstream_config.h"
#include "convert/upstream_folder.h"
#include "core/check.h"
#include "core/text.h"
#include "hub/repository.h"
#include "io/yaml.h"

namespace raedit::cli {
namespace fs = std::filesystem;
namespace {

using convert::UpstreamConfig;
using convert::UpstreamModel;

UpstreamConfig read_upstream_config(const hub::Repository& repository, const std::string& path) {
  const std::string file = convert::resolve_input(repository, path, "config");
  return convert::parse_upstream_config(read_yaml(file), file);
}

// Also those of one stage alone, which are no whole model.
std::vector<std::string> stage_configs(const hub::Repository& repository) {
  std::vector<std::string> found;
  for (const std::string& file : convert::yaml_files(repository)) {
    try {
      const UpstreamConfig config = read_upstream_config(repository, file);
      if (config.stage_1 || config.stage_2) found.push_back(file);
    } catch (const Error&) {  // some other tool's file
    }
  }
  return found;
}

std::string describe_file(const hub::Repository& repository, const std::string& path) {
  const std::optional<std::string> file = convert::find_input(repository, path);
  std::error_code error;
  return file ? fmt::format("{} ({})", path, human_bytes(fs::file_size(*file, error))) : path + " (MISSING)";
}

// An encoder or a decoder's config: a folder, a file, or the name of a published model.
std::string describe_model(const hub::Repository& repository, const std::string& path) {
  std::error_code error;
  const bool here = fs::exists(fs::path(repository.name()) / path, error) || fs::exists(path, error);
  return path + (here ? " (there)" : is_model_name(path) ? " (a name)" : " (MISSING)");
}

// Every string of stage_1.params that a path can be, and the checkpoints.
void add_files(Component& component, const hub::Repository& repository, const std::string& section,
               const UpstreamModel& model) {
  component.entries.emplace_back(section, model.target);
  if (model.ckpt) component.entries.emplace_back(section + " checkpoint", describe_file(repository, *model.ckpt));
  const auto add = [&](const char* key, const char* name, bool file) {
    if (!model.params.contains(key) || !model.params[key].is_string()) return;
    const std::string path = model.params[key].get<std::string>();
    component.entries.emplace_back(name, file ? describe_file(repository, path) : describe_model(repository, path));
  };
  add("encoder_config_path", "encoder", false);
  add("decoder_config_path", "decoder config", false);
  add("pretrained_decoder_path", "decoder", true);
  add("normalization_stat_path", "statistics", true);
}

Component describe_config(const hub::Repository& repository, const UpstreamConfig& config, const std::string& file) {
  Component component;
  component.name = file;
  component.kind = "upstream config";
  component.path = (fs::path(repository.name()) / file).string();
  try {
    if (config.stage_2) component.config = convert::transformer_config(*config.stage_2, config.misc);
    if (component.config.is_object()) component.config.erase("_class_name");
  } catch (const Error& error) {
    component.problem = error.what();
  }
  if (config.stage_1) add_files(component, repository, "stage_1", *config.stage_1);
  if (config.stage_2) add_files(component, repository, "stage_2", *config.stage_2);
  if (config.guidance_model) add_files(component, repository, "guidance model", *config.guidance_model);
  component.entries.emplace_back("samples with",
                                 fmt::format("{} steps, {} {} from {} to {}", config.num_steps, config.guidance_method,
                                             config.guidance_scale, config.guidance_t_min, config.guidance_t_max));
  return component;
}

// Whatever is wrong with it lands in the component's problem.
Component describe_config_file(const hub::Repository& repository, const std::string& file) {
  try {
    return describe_config(repository, read_upstream_config(repository, file), file);
  } catch (const Error& error) {
    Component broken;
    broken.name = file;
    broken.kind = "upstream config";
    broken.problem = error.what();
    return broken;
  }
}

}  // namespace

std::vector<Component> inspect_upstream(const std::string& folder, const std::string& config) {
  const hub::Repository repository = hub::Repository::open(folder, {});
  std::vector<Component> components;
  std::vector<std::string> files = convert::pipeline_configs(repository);
  if (!config.empty()) files = {config};
  if (files.empty()) files = stage_configs(repository);
  for (const std::string& file : files) components.push_back(describe_config_file(repository, file));
  return components;
}

std::map<int64_t, std::string> upstream_labels(const std::string& folder_or_name, const std::string& config,
                                               const HubOptions& hub) {
  const hub::Repository repository = hub::Repository::open(folder_or_name, hub);
  const UpstreamConfig upstream = read_upstream_config(repository, config);
  RAEDIT_CHECK(upstream.stage_2, {.code = ErrorCode::format, .what = "no section stage_2", .where = upstream.where});
  const Json model = convert::transformer_config(*upstream.stage_2, upstream.misc);
  return model["num_classes"] == convert::kImageNetClasses ? convert::imagenet_1k_labels()
                                                           : std::map<int64_t, std::string>{};
}

}  // namespace raedit::cli
