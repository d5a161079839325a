#include "convert/inputs.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"
#include "io/hash.h"

namespace raedit::convert {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kModels = "models/";

std::string expand_user(const std::string& path) {
  const char* home = std::getenv("HOME");
  return path.starts_with("~/") && home != nullptr ? home + path.substr(1) : path;
}

// What may be a path inside a repository: those that leave it are looked for on this machine only.
bool stays_inside(const std::string& path) {
  const fs::path normal = fs::path(path).lexically_normal();
  return !normal.empty() && *normal.begin() != "..";
}

}  // namespace

std::vector<std::string> input_candidates(const std::string& path) {
  std::vector<std::string> candidates{path};
  if (path.starts_with(kModels)) candidates.push_back(path.substr(kModels.size()));
  return candidates;
}

std::optional<std::string> find_input(const hub::Repository& repository, const std::string& path) {
  const std::string expanded = expand_user(path);
  if (fs::path(expanded).is_absolute()) return is_file(expanded) ? std::optional(expanded) : std::nullopt;
  for (const std::string& candidate : input_candidates(expanded)) {
    const std::string inside = fs::path(candidate).lexically_normal().string();
    if (stays_inside(candidate) && repository.exists(inside)) return repository.fetch(inside);
  }
  for (const std::string& candidate : input_candidates(expanded))
    if (is_file(candidate)) return candidate;
  return std::nullopt;
}

std::string resolve_input(const hub::Repository& repository, const std::string& path, const std::string& what) {
  if (std::optional<std::string> found = find_input(repository, path)) return *found;
  const bool absolute = fs::path(expand_user(path)).is_absolute();
  raise({.code = ErrorCode::not_found,
         .what = what + " not found",
         .where = path,
         .found = absolute ? "no such file" : "nothing of that name in " + repository.name() + " nor here",
         .hint = absolute ? "" : did_you_mean(path, repository.files())});
}

SourceRecord::~SourceRecord() {
  *stop_ = true;
  if (digests_.valid()) digests_.wait();
}

void SourceRecord::add(const std::string& path) {
  if (std::find(paths_.begin(), paths_.end(), path) == paths_.end()) paths_.push_back(path);
}

void SourceRecord::start() {
  if (!hashed_) return;
  // Deferred, that is hashed by finish(), where no thread can be had.
  digests_ = std::async(std::launch::async | std::launch::deferred, [paths = paths_, stop = stop_] {
    std::vector<std::string> digests;
    for (const std::string& path : paths)
      digests.push_back(sha256_of_file(path, [&](uint64_t, uint64_t) { return !stop->load(); }));
    return digests;
  });
}

Json SourceRecord::finish() {
  std::vector<std::string> digests;
  if (digests_.valid()) digests = digests_.get();
  Json files = Json::array();
  for (size_t i = 0; i < paths_.size(); ++i) {
    std::error_code error;
    Json file{{"path", paths_[i]}, {"bytes", fs::file_size(paths_[i], error)}};
    if (i < digests.size()) file["sha256"] = digests[i];
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace raedit::convert
