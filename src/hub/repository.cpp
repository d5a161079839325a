#include "hub/repository.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <optional>
#include <utility>

#include "core/check.h"
#include "core/guard.h"
#include "core/text.h"
#include "hub/cache.h"
#include "hub/client.h"
#include "hub/download.h"
#include "hub/names.h"
#include "hub/settings.h"
#include "io/files.h"

namespace raedit::hub {
namespace {

constexpr const char* kNameForm = "a folder, or a model's name: org/name or org/name@revision";

bool is_there(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(std::filesystem::symlink_status(path, error));
}

ModelName model_name(const std::string& text) {
  const auto name = parse_model_name(text);
  RAEDIT_CHECK(name.has_value(), {.code = ErrorCode::invalid_argument,
                                  .what = "this is not the name of a model",
                                  .found = text,
                                  .expected = "org/name or org/name@revision"});
  return *name;
}

void check_path(const std::string& path) {
  RAEDIT_CHECK(is_safe_path(path), {.code = ErrorCode::invalid_argument,
                                    .what = "this is not the path of a file inside a model",
                                    .found = path,
                                    .expected = "a relative path without '..', with '/' between its parts"});
}

// A repository of the hub: its cache folder, and the hub itself when it is needed.
class HubRepository {
 public:
  HubRepository(ModelName name, const HubOptions& options)
      : name_(std::move(name)),
        settings_(settings_from(options)),
        progress_(options.progress),
        cache_(settings_.cache_dir, name_.repo) {
    if (!settings_.offline) client_.emplace(settings_, progress_);
  }
  HubRepository(const HubRepository&) = delete;  // the client refers to its neighbours
  HubRepository& operator=(const HubRepository&) = delete;

  const std::string& commit() const { return commit_; }
  const CacheFolder& cache() const { return cache_; }
  const ModelName& name() const { return name_; }

  // The commit that the cache has for the name, or else the hub.
  void resolve_in_cache_first() {
    if (auto cached = cache_.commit_of(name_.revision)) {
      commit_ = *cached;
      return;
    }
    if (!client_) raise_not_in_cache();
    take(client_->list(name_));
  }

  // What the hub says now; where it cannot be reached, what is in the cache.
  void resolve_newest() {
    const auto cached = cache_.commit_of(name_.revision);
    if (!client_ && !cached) raise_not_in_cache();
    if (!client_) {
      commit_ = *cached;
    } else if (!cached) {
      take(client_->list(name_));
    } else if (auto listing = client_->try_list(name_)) {
      take(std::move(*listing));
    } else {
      commit_ = *cached;
      listing_ = cache_.files(commit_);
      unreachable_ = true;
    }
  }

  bool exists(const std::string& path) {
    if (cache_.find(commit_, path)) return true;
    return std::binary_search(files().begin(), files().end(), path);
  }

  std::string fetch(const std::string& path) {
    if (auto found = cache_.find(commit_, path)) return *found;
    const std::vector<std::string>& all = files();
    const bool only_cache = !client_ || unreachable_;
    RAEDIT_CHECK(!only_cache && std::binary_search(all.begin(), all.end(), path),
                 {.code = ErrorCode::not_found,
                  .what = only_cache ? "the file was not downloaded before, and the hub is not asked"
                                     : "there is no such file in the model",
                  .where = name_.text() + "/" + path,
                  .hint = only_cache && did_you_mean(path, all).empty()
                              ? "run it once with the network, without --offline and HF_HUB_OFFLINE"
                              : did_you_mean(path, all)});
    downloaded_ = true;
    return download_file(*client_, cache_, settings_, progress_, name_, commit_, path);
  }

  const std::vector<std::string>& files() {
    if (!listing_ && client_) listing_ = client_->list({.repo = name_.repo, .revision = commit_}).files;
    if (!listing_) listing_ = cache_.files(commit_);
    return *listing_;
  }

  // Last, so that the name stands for a commit whose files are there.
  void write_ref() const {
    if (!client_ || unreachable_) return;
    try {
      cache_.write_ref(name_.revision, commit_);
    } catch (const Error&) {
      if (downloaded_) throw;  // else: a cache that has everything may be one that cannot be written
    }
  }

  std::mutex mutex;

 private:
  void take(RepoListing listing) {
    commit_ = std::move(listing.commit);
    listing_ = std::move(listing.files);
  }

  [[noreturn]] void raise_not_in_cache() const {
    raise({.code = ErrorCode::not_found,
           .what = "the model is not in the cache, and the hub is not asked (offline)",
           .where = name_.text(),
           .found = "nothing in " + cache_.path(),
           .hint = "run it once with the network, without --offline and HF_HUB_OFFLINE, or set HF_HUB_CACHE to the "
                   "cache that has it"});
  }

  ModelName name_;
  Settings settings_;
  ProgressMeter progress_;
  CacheFolder cache_;
  std::optional<HubClient> client_;  // none offline
  std::string commit_;
  std::optional<std::vector<std::string>> listing_;
  bool downloaded_ = false;
  bool unreachable_ = false;  // it was tried, and the cache has to do
};

bool matches_any(const std::string& path, const std::vector<std::string>& patterns) {
  return patterns.empty() || std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
           // As in huggingface_hub, '*' takes '/' too, and a folder stands for what is in it.
           const std::string whole = pattern.ends_with('/') ? pattern + "*" : pattern;
           return ::fnmatch(whole.c_str(), path.c_str(), 0) == 0;
         });
}

std::string download(const std::string& text, const std::vector<std::string>& patterns, const HubOptions& options) {
  const ModelName name = model_name(text);
  HubRepository repository(name, options);
  repository.resolve_newest();
  size_t matching = 0;
  for (const std::string& path : std::vector<std::string>(repository.files())) {
    if (!matches_any(path, patterns)) continue;
    ++matching;
    repository.fetch(path);
  }
  RAEDIT_CHECK(matching > 0, {.code = ErrorCode::not_found,
                              .what = "the model has no such files",
                              .where = name.text(),
                              .found = fmt::format("{} other files", repository.files().size()),
                              .expected = join(patterns)});
  repository.write_ref();
  return repository.cache().snapshot(repository.commit());
}

}  // namespace

struct Repository::State {
  std::string given;
  std::unique_ptr<HubRepository> remote;  // none for a folder
};

Repository Repository::open(const std::string& folder_or_name, const HubOptions& options) {
  auto state = std::make_shared<State>();
  state->given = folder_or_name;
  if (is_folder(folder_or_name)) return Repository(std::move(state));
  RAEDIT_CHECK(!is_there(folder_or_name), {.code = ErrorCode::invalid_argument,
                                           .what = "this is not a folder",
                                           .where = folder_or_name,
                                           .expected = kNameForm});
  RAEDIT_CHECK(is_model_name(folder_or_name), {.code = ErrorCode::not_found,
                                               .what = "there is no such folder",
                                               .where = folder_or_name,
                                               .expected = kNameForm});
  guarded("hub", [&] {
    state->remote = std::make_unique<HubRepository>(model_name(folder_or_name), options);
    state->remote->resolve_in_cache_first();
  });
  return Repository(std::move(state));
}

const std::string& Repository::name() const {
  return state_->given;
}

bool Repository::is_local() const {
  return state_->remote == nullptr;
}

std::string Repository::commit() const {
  return is_local() ? "" : state_->remote->commit();
}

bool Repository::exists(const std::string& path) const {
  check_path(path);
  if (is_local()) return is_file(state_->given + "/" + path);
  const std::lock_guard lock(state_->remote->mutex);
  return state_->remote->exists(path);
}

std::string Repository::fetch(const std::string& path) const {
  check_path(path);
  if (!is_local()) {
    const std::lock_guard lock(state_->remote->mutex);
    std::string file = state_->remote->fetch(path);
    state_->remote->write_ref();
    return file;
  }
  std::string file = state_->given + "/" + path;
  if (is_file(file)) return file;
  raise({.code = ErrorCode::not_found,
         .what = is_folder(file) ? "this is a folder, not a file" : "there is no such file",
         .where = file,
         .hint = did_you_mean(path, files())});
}

std::vector<std::string> Repository::files() const {
  if (is_local()) return files_below(state_->given);
  const std::lock_guard lock(state_->remote->mutex);
  return state_->remote->files();
}

}  // namespace raedit::hub

namespace raedit {

bool is_model_name(const std::string& name) {
  const auto parsed = hub::parse_model_name(name);
  if (!parsed || parsed->repo.find('/') == std::string::npos) return false;
  return !hub::is_there(name) && !hub::is_there(parsed->repo);
}

std::string download_model(const std::string& name, const std::vector<std::string>& patterns,
                           const HubOptions& options) {
  return guarded("hub", [&] { return hub::download(name, patterns, options); });
}

}  // namespace raedit
