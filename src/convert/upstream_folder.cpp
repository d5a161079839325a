#include "convert/upstream_folder.h"

#include <algorithm>
#include <filesystem>

#include "convert/upstream_config.h"
#include "core/check.h"
#include "core/guard.h"
#include "core/text.h"
#include "io/yaml.h"
#include "raedit/convert.h"

namespace raedit::convert {
namespace fs = std::filesystem;
namespace {

bool is_yaml(const std::string& path) {
  return path.ends_with(".yaml") || path.ends_with(".yml");
}

bool describes_pipeline(const hub::Repository& repository, const std::string& path) {
  // A folder of that name, a link to nowhere, a name that no repository has: found by listing, but no file of ours.
  std::error_code error;
  if (repository.is_local() && !fs::is_regular_file(fs::path(repository.name()) / path, error)) return false;
  const std::string file =
      repository.is_local() ? (fs::path(repository.name()) / path).string() : repository.fetch(path);
  try {
    const Json yaml = read_yaml(file);
    return (yaml.contains("stage_1") || yaml.contains("stage1")) &&
           (yaml.contains("stage_2") || yaml.contains("stage2"));
  } catch (const Error&) {
    return false;  // some other tool's file
  }
}

}  // namespace

std::vector<std::string> yaml_files(const hub::Repository& repository) {
  std::vector<std::string> files;
  if (!repository.is_local()) {
    for (const std::string& path : repository.files())
      if (is_yaml(path)) files.push_back(path);
    return files;
  }
  std::error_code error;
  const fs::path root(repository.name());
  for (auto it = fs::directory_iterator(root, error); !error && it != fs::directory_iterator(); it.increment(error))
    if (is_yaml(it->path().filename().string())) files.push_back(it->path().filename().string());
  for (auto it = fs::recursive_directory_iterator(root / "configs", error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error))
    if (is_yaml(it->path().filename().string())) files.push_back(it->path().lexically_relative(root).string());
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> pipeline_configs(const hub::Repository& repository) {
  std::vector<std::string> top, below;
  for (const std::string& path : yaml_files(repository))
    if (describes_pipeline(repository, path)) (path.find('/') == path.npos ? top : below).push_back(path);
  return top.empty() ? below : top;
}

std::string only_pipeline_config(const hub::Repository& repository) {
  const std::vector<std::string> configs = pipeline_configs(repository);
  RAEDIT_CHECK(!configs.empty(), {.code = ErrorCode::not_found,
                                  .what = "no config of upstream's is here",
                                  .where = repository.name(),
                                  .expected = "a YAML with stage_1 and stage_2",
                                  .hint = "pass config_path"});
  RAEDIT_CHECK(configs.size() == 1, {.code = ErrorCode::invalid_argument,
                                     .what = "several configs are here",
                                     .where = repository.name(),
                                     .found = join(configs),
                                     .hint = "choose one with config_path"});
  return configs.front();
}

}  // namespace raedit::convert

namespace raedit {

bool is_upstream_folder(const std::string& folder) {
  return guarded("is_upstream_folder", [&] {
    namespace fs = std::filesystem;
    std::error_code error;
    if (!fs::is_directory(folder, error) || fs::exists(fs::path(folder) / "model_index.json", error)) return false;
    return !convert::pipeline_configs(hub::Repository::open(folder, {})).empty();
  });
}

}  // namespace raedit
