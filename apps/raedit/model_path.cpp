#include "model_path.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "convert/inputs.h"
#include "convert/upstream_config.h"
#include "convert/upstream_folder.h"
#include "core/check.h"
#include "core/text.h"
#include "hub/repository.h"
#include "io/files.h"
#include "io/yaml.h"
#include "raedit/convert.h"
#include "values.h"

namespace raedit::cli {
namespace fs = std::filesystem;
namespace {

constexpr const char* kBundled = "emoji64";

bool is_model(const fs::path& folder) {
  return is_file(folder / "model_index.json");
}

bool is_yaml(const fs::path& path) {
  return (path.extension() == ".yaml" || path.extension() == ".yml") && is_file(path);
}

// "emoji64", for file names and picture texts.
std::string model_name(const std::string& folder) {
  std::error_code error;
  fs::path path = fs::weakly_canonical(folder, error);
  if (error) path = folder;
  return path.filename().string();
}

// A component's files, but for those of other variants: diffusion_pytorch_model.fp16.safetensors.
void add_component(std::vector<std::string>& patterns, const std::string& folder) {
  for (const char* file : {"config.json", "diffusion_pytorch_model.safetensors",
                           "diffusion_pytorch_model-*.safetensors", "diffusion_pytorch_model.safetensors.index.json"})
    patterns.push_back(folder + file);
}

std::vector<std::string> patterns_of(ModelPart part, const hub::Repository& repository) {
  std::vector<std::string> patterns{"model_index.json", "config.json"};
  if (part == ModelPart::pipeline) patterns.push_back("scheduler/*.json");
  if (part == ModelPart::pipeline || part == ModelPart::transformer) add_component(patterns, "transformer/");
  if (part == ModelPart::pipeline || part == ModelPart::autoencoder) add_component(patterns, "vae/");
  if (part != ModelPart::labels && !repository.exists("model_index.json")) add_component(patterns, "");
  return patterns;
}

// The YAML that --config names, or the only one there is.
FoundModel found_upstream(const std::string& folder_or_name, const std::string& config, const std::string& shown,
                          const HubOptions& hub) {
  if (!config.empty()) return {folder_or_name, true, config, shown};
  const std::vector<std::string> configs = convert::pipeline_configs(hub::Repository::open(folder_or_name, hub));
  RAEDIT_CHECK(!configs.empty(), {.code = ErrorCode::not_found,
                                  .what = "this is no model",
                                  .where = folder_or_name,
                                  .expected = "model_index.json, or a YAML with stage_1 and stage_2"});
  RAEDIT_CHECK(configs.size() == 1, {.code = ErrorCode::invalid_argument,
                                     .what = "several YAML files describe models here",
                                     .where = folder_or_name,
                                     .found = join(configs),
                                     .hint = "choose one with --config"});
  return {folder_or_name, true, configs.front(), shown};
}

// A misspelt path looks like a name.
hub::Repository open_repository(const std::string& name, const HubOptions& hub) {
  try {
    return hub::Repository::open(name, hub);
  } catch (const Error& error) {
    ErrorInfo info = error.info();
    if (!info.hint.empty()) info.hint += "; ";
    info.hint += "there is no folder of that name here";
    throw Error(std::move(info));
  }
}

// "models/emoji46" beside a folder "models" is a misspelt path sooner than a name: nobody has to wait for the hub to
// say so. A revision makes it a name whatever lies here, and so does a copy in the cache.
void refuse_misspelt_path(const std::string& name, HubOptions hub) {
  const std::string folder = name.substr(0, name.find('/'));
  std::error_code error;
  if (name.find('@') != name.npos || !fs::is_directory(folder, error)) return;
  std::vector<std::string> there;
  try {
    hub.offline = true;
    hub::Repository::open(name, hub);
    return;
  } catch (const Error&) {  // not in the cache
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
      if (it->is_directory(error)) there.push_back(folder + "/" + it->path().filename().string());
  }
  std::sort(there.begin(), there.end());
  const std::string near = did_you_mean(name, there);
  raise({.code = ErrorCode::not_found,
         .what = "no such model folder",
         .where = "--model",
         .found = name,
         .expected = "a folder in " + folder + ", which is here",
         .hint = near + (near.empty() ? "" : "; ") + "to ask the hub for it, write " + name + "@main"});
}

FoundModel find_by_name(const std::string& name, const std::string& config, ModelPart part, const HubOptions& hub) {
  refuse_misspelt_path(name, hub);
  const hub::Repository repository = open_repository(name, hub);
  const bool diffusers = repository.exists("model_index.json") || repository.exists("config.json");
  const std::string shown = name.substr(name.find('/') + 1);
  if (!diffusers || !config.empty()) return found_upstream(name, config, shown, hub);
  return {download_model(name, patterns_of(part, repository), hub), false, "", shown};
}

// The folder that the YAML's paths start from: the nearest one above it that has its checkpoint, as in upstream's
// tree, where configs lie deep; or else the YAML's own.
FoundModel upstream_of_yaml(const std::string& path) {
  const convert::UpstreamConfig config = convert::parse_upstream_config(read_yaml(path), path);
  std::error_code error;
  const fs::path file = fs::absolute(path, error).lexically_normal();
  const std::optional<std::string> checkpoint = config.stage_2 ? config.stage_2->ckpt : std::nullopt;
  for (fs::path folder = file.parent_path(); checkpoint; folder = folder.parent_path()) {
    for (const std::string& inner : convert::input_candidates(*checkpoint))
      if (is_file(folder / inner)) return {folder.string(), true, file.string(), model_name(folder.string())};
    if (!folder.has_relative_path()) break;
  }
  return {file.parent_path().string(), true, file.string(), model_name(file.parent_path().string())};
}

std::optional<FoundModel> from_environment(const ModelOptions& options, ModelPart part, const HubOptions& hub) {
  const char* value = std::getenv("RAEDIT_MODEL_PATH");
  if (value == nullptr || *value == '\0') return std::nullopt;
  const fs::path folder = value;
  std::error_code error;
  if (is_model(folder)) return FoundModel{folder.string(), false, "", model_name(folder.string())};
  if (is_model(folder / kBundled)) return FoundModel{(folder / kBundled).string(), false, "", kBundled};
  if (is_yaml(folder) || is_model_name(value) || (fs::is_directory(folder, error) && is_upstream_folder(value)))
    return resolve_model(value, options.config, part, hub);
  raise({.code = ErrorCode::not_found,
         .what = "no model there",
         .where = "RAEDIT_MODEL_PATH",
         .found = folder.string(),
         .expected = "a folder with model_index.json, or with emoji64/model_index.json"});
}

std::string find_bundled() {
  std::vector<std::string> tried;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) tried.push_back((program.parent_path() / RAEDIT_MODELS_FROM_BIN / kBundled).lexically_normal().string());
  tried.push_back((fs::path(RAEDIT_SOURCE_MODELS) / kBundled).string());
  for (const std::string& folder : tried)
    if (is_model(folder)) return folder;
  raise({.code = ErrorCode::not_found,
         .what = "the bundled model is not there",
         .found = "nothing in " + join(tried, " nor "),
         .hint = "name a model with --model or RAEDIT_MODEL_PATH"});
}

}  // namespace

void add_hub_options(CLI::App& app, ModelOptions& o) {
  app.add_option("--cache-dir,--cache_dir", o.cache_dir, "where downloads are kept (default: the Hugging Face cache)")
      ->type_name("DIR");
  add_switch(app, "--offline", o.offline, "use the cache alone, never the network");
}

void add_model_options(CLI::App& app, ModelOptions& o, const char* help) {
  app.add_option("--model", o.model, help)->type_name("DIR|NAME");
  app.add_option("--config", o.config, "which YAML of an upstream folder, where there are several")->type_name("FILE");
  add_hub_options(app, o);
}

HubOptions hub_options(const ModelOptions& o) {
  HubOptions hub;
  hub.cache_dir = o.cache_dir;
  hub.offline = o.offline;
  return hub;
}

FoundModel resolve_model(const std::string& path_or_name, const std::string& config, ModelPart part,
                         const HubOptions& hub) {
  if (is_yaml(path_or_name)) {
    RAEDIT_CHECK(config.empty(), {.code = ErrorCode::invalid_argument,
                                  .what = "--model is a YAML already",
                                  .where = "--config",
                                  .found = config});
    return upstream_of_yaml(path_or_name);
  }
  if (is_model_name(path_or_name)) return find_by_name(path_or_name, config, part, hub);
  std::error_code error;
  RAEDIT_CHECK(fs::is_directory(path_or_name, error), {.code = ErrorCode::not_found,
                                                       .what = "no such model folder",
                                                       .where = "--model",
                                                       .found = path_or_name,
                                                       .expected = "a folder in the diffusers layout, an upstream "
                                                                   "folder or its YAML, or org/name"});
  const std::string shown = model_name(path_or_name);
  if (!config.empty() || is_upstream_folder(path_or_name)) return found_upstream(path_or_name, config, shown, hub);
  return {path_or_name, false, "", shown};
}

FoundModel find_model(const ModelOptions& options, ModelPart part, const HubOptions& hub) {
  if (!options.model.empty()) return resolve_model(options.model, options.config, part, hub);
  if (std::optional<FoundModel> found = from_environment(options, part, hub)) return *found;
  RAEDIT_CHECK(options.config.empty(), {.code = ErrorCode::invalid_argument,
                                        .what = "a YAML of which folder?",
                                        .where = "--config",
                                        .found = options.config,
                                        .hint = "name it with --model"});
  return {find_bundled(), false, "", kBundled};
}

}  // namespace raedit::cli
