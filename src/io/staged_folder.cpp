#include "io/staged_folder.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <vector>

#include "core/check.h"
#include "io/files.h"
#include "io/folder_entries.h"

namespace raedit {
namespace fs = std::filesystem;
namespace {

// Beside a folder that is to be made; inside one that is there, which may be a file system of its own. Always a new
// one: what a process of the same number was killed over may still lie there.
std::string make_staging(const fs::path& path) {
  static std::atomic<uint64_t> counter{0};
  std::error_code error;
  const bool inside = fs::exists(path, error);
  if (!inside && path.has_parent_path()) create_directories(path.parent_path().string());
  for (;;) {
    const std::string suffix = fmt::format(".partial-{}-{}", ::getpid(), counter++);
    const std::string name = inside ? (path / suffix).string() : path.string() + suffix;
    if (fs::create_directory(name, error)) return name;
    if (error) raise_write_error("cannot create the folder", name, error.value());
  }
}

// Not a variant's (diffusion_pytorch_model.fp16.safetensors), which nobody reads by mistake.
bool is_weight_file(const std::string& name) {
  constexpr std::string_view kBase = "diffusion_pytorch_model";
  if (!name.starts_with(kBase)) return false;
  const std::string_view rest = std::string_view(name).substr(kBase.size());
  const bool shard = rest.starts_with('-') && rest.find("-of-") != rest.npos;
  return shard || rest == ".safetensors" || rest == ".safetensors.index.json" || rest == ".bin" ||
         rest == ".bin.index.json";
}

void rename_over(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) raise_write_error("cannot put a file into its place", to.string(), error.value());
}

// Of a folder that is not there: none.
std::vector<fs::directory_entry> entries_of(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder, error) && !error) return {};
  return folder_entries(folder.string());
}

// The weights below `target` that `staged` brings no namesake of, in folders that it brings weights into.
void collect_older_weights(const fs::path& staged, const fs::path& target, std::vector<fs::path>& older) {
  std::error_code error;
  std::vector<std::string> brought;
  for (const auto& entry : entries_of(staged)) {
    brought.push_back(entry.path().filename().string());
    if (entry.is_directory(error)) collect_older_weights(entry.path(), target / entry.path().filename(), older);
  }
  if (std::none_of(brought.begin(), brought.end(), is_weight_file)) return;
  for (const auto& entry : entries_of(target)) {
    const std::string name = entry.path().filename().string();
    if (is_weight_file(name) && std::find(brought.begin(), brought.end(), name) == brought.end())
      older.push_back(entry.path());
  }
}

void move_into(const fs::path& staged, const fs::path& target) {
  create_directories(target.string());
  std::error_code error;
  std::vector<fs::path> files, folders;
  for (const auto& entry : entries_of(staged)) (entry.is_directory(error) ? folders : files).push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::sort(folders.begin(), folders.end());
  for (const fs::path& folder : folders) move_into(folder, target / folder.filename());
  for (const fs::path& file : files) rename_over(file, target / file.filename());
  sync_folder(target.string());
}

// The files in it were brought to the disk when they were written.
void sync_folders(const fs::path& folder) {
  std::error_code error;
  for (const auto& entry : entries_of(folder))
    if (entry.is_directory(error)) sync_folders(entry.path());
  sync_folder(folder.string());
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
  staging_ = make_staging(path_);
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
    sync_folders(staging_);
    rename_over(staging_, path_);
    sync_folder(fs::path(path_).parent_path().string());
    staging_.clear();
    return;
  }
  // Removed only when the new ones are in their place: at every moment there is something to read.
  std::vector<fs::path> older;
  collect_older_weights(staging_, path_, older);
  move_into(staging_, path_);  // what is left of the staging folder goes with this object
  for (const fs::path& path : older) {
    fs::remove(path, error);
    if (error) raise_write_error("cannot remove older weights", path.string(), error.value());
    sync_folder(path.parent_path().string());
  }
}

}  // namespace raedit
