#include "train/checkpoints.h"

#include <algorithm>
#include <filesystem>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"

namespace raedit::train {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPrefix = "checkpoint-";
constexpr std::string_view kRemoved = ".removed";

std::optional<int64_t> step_of(std::string_view name) {
  if (!name.starts_with(kPrefix)) return {};
  const auto step = number_of<int64_t>(name.substr(kPrefix.size()));
  return step && *step >= 0 ? step : std::nullopt;
}

std::vector<fs::path> entries_of(const std::string& folder) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    paths.push_back(it->path());
  return paths;
}

void erase(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) raise_write_error("cannot remove the folder", path.string(), error.value());
}

}  // namespace

std::string checkpoint_path(const std::string& output_dir, int64_t step) {
  return (fs::path(output_dir) / (std::string(kPrefix) + std::to_string(step))).string();
}

std::vector<CheckpointFolder> list_checkpoints(const std::string& output_dir) {
  std::vector<CheckpointFolder> found;
  for (const fs::path& path : entries_of(output_dir)) {
    const auto step = step_of(path.filename().string());
    if (step && is_file((path / "trainer_state.json").string())) found.push_back({*step, path.string()});
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return found;
}

std::optional<CheckpointFolder> find_checkpoint(const std::string& output_dir, const std::string& name) {
  const std::vector<CheckpointFolder> all = list_checkpoints(output_dir);
  if (name == "latest") return all.empty() ? std::nullopt : std::optional(all.back());
  for (const fs::path& path : {fs::path(name), fs::path(output_dir) / fs::path(name).filename()}) {
    const fs::path clean = path.has_filename() ? path : path.parent_path();
    const auto step = step_of(clean.filename().string());
    if (step && is_file((clean / "trainer_state.json").string())) return CheckpointFolder{*step, clean.string()};
  }
  std::vector<std::string> names;
  for (const CheckpointFolder& checkpoint : all) names.push_back(fs::path(checkpoint.path).filename().string());
  raise({.code = ErrorCode::not_found,
         .what = "there is no such checkpoint",
         .where = "--resume-from-checkpoint",
         .found = name,
         .expected = names.empty() ? "a folder checkpoint-N with a trainer_state.json" : join(names),
         .hint = "'latest' is the last one of --output-dir"});
}

void prune_checkpoints(const std::string& output_dir, int64_t limit) {
  const std::vector<CheckpointFolder> all = list_checkpoints(output_dir);
  for (size_t i = 0; i + static_cast<size_t>(limit) < all.size(); ++i) {
    const fs::path path(all[i].path), removed(all[i].path + std::string(kRemoved));
    std::error_code error;
    fs::rename(path, removed, error);
    if (error) raise_write_error("cannot remove the checkpoint", path.string(), error.value());
    erase(removed);
  }
}

void remove_leftovers(const std::string& output_dir) {
  // Of an export, which moves files into a folder that is there, and of validation.
  for (const fs::path& path : entries_of(output_dir))
    if (path.filename().string().starts_with(".partial-")) erase(path);
  for (const fs::path& path : entries_of((fs::path(output_dir) / "validation").string()))
    if (path.filename().string().find(".partial-") != std::string::npos) erase(path);
  for (const fs::path& path : entries_of(output_dir)) {
    const std::string name = path.filename().string();
    const size_t partial = name.find(".partial-");
    const bool half = name.ends_with(kRemoved) ? step_of(name.substr(0, name.size() - kRemoved.size())).has_value()
                                               : partial != name.npos && step_of(name.substr(0, partial)).has_value();
    if (half) erase(path);
  }
}

}  // namespace raedit::train
