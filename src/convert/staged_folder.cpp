#include "convert/staged_folder.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <vector>

#include "core/check.h"
#include "io/files.h"

namespace raedit::convert {
namespace fs = std::filesystem;
namespace {

std::string unused_name_beside(const fs::path& path) {
  static std::atomic<uint64_t> counter{0};
  return fmt::format("{}.partial-{}-{}", path.string(), ::getpid(), counter++);
}

bool is_weight_file(const std::string& name) {
  return name.starts_with("diffusion_pytorch_model") &&
         (name.ends_with(".safetensors") || name.ends_with(".bin") || name.ends_with(".index.json"));
}

void rename_over(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) raise_write_error("cannot put a file into its place", to.string(), error.value());
}

// The weights in `target` that `staged` brings no namesake of, when it brings weights at all.
void remove_older_weights(const fs::path& staged, const fs::path& target) {
  std::error_code error;
  std::vector<std::string> brought;
  for (const auto& entry : fs::directory_iterator(staged, error)) brought.push_back(entry.path().filename().string());
  if (std::none_of(brought.begin(), brought.end(), is_weight_file)) return;
  std::vector<fs::path> older;
  for (const auto& entry : fs::directory_iterator(target, error)) {
    const std::string name = entry.path().filename().string();
    if (is_weight_file(name) && std::find(brought.begin(), brought.end(), name) == brought.end())
      older.push_back(entry.path());
  }
  for (const fs::path& path : older) {
    fs::remove(path, error);
    if (error) raise_write_error("cannot remove older weights", path.string(), error.value());
  }
}

void move_into(const fs::path& staged, const fs::path& target) {
  create_directories(target.string());
  std::error_code error;
  std::vector<fs::path> files, folders;
  for (const auto& entry : fs::directory_iterator(staged, error))
    (entry.is_directory(error) ? folders : files).push_back(entry.path());
  if (error) raise_read_error("cannot read the folder", staged.string(), error.value());
  std::sort(files.begin(), files.end());
  std::sort(folders.begin(), folders.end());
  for (const fs::path& folder : folders) move_into(folder, target / folder.filename());
  for (const fs::path& file : files) rename_over(file, target / file.filename());
}

void remove_older_weights_below(const fs::path& staged, const fs::path& target) {
  std::error_code error;
  remove_older_weights(staged, target);
  for (const auto& entry : fs::directory_iterator(staged, error))
    if (entry.is_directory(error)) remove_older_weights_below(entry.path(), target / entry.path().filename());
}

}  // namespace

StagedFolder::StagedFolder(std::string path) : path_(std::move(path)) {
  while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
  RAEDIT_CHECK(
      !path_.empty(),
      {.code = ErrorCode::invalid_argument, .what = "there is no folder to write to", .expected = "output_path"});
  std::error_code error;
  RAEDIT_CHECK(!fs::exists(path_, error) || fs::is_directory(path_, error), {.code = ErrorCode::invalid_argument,
                                                                             .what = "the output must be a folder",
                                                                             .where = path_,
                                                                             .found = "a file of that name"});
  const std::string name = unused_name_beside(path_);
  create_directories(name);
  staging_ = name;
}

StagedFolder::~StagedFolder() {
  std::error_code error;
  if (!staging_.empty()) fs::remove_all(staging_, error);
}

std::string StagedFolder::at(const std::string& relative) const {
  return relative.empty() ? staging_ : (fs::path(staging_) / relative).string();
}

void StagedFolder::commit() {
  std::error_code error;
  if (!fs::exists(path_, error)) {
    rename_over(staging_, path_);
    staging_.clear();
    return;
  }
  remove_older_weights_below(staging_, path_);
  move_into(staging_, path_);
}

}  // namespace raedit::convert
