// A place that files come from, by their path inside it: a folder, or a repository of the hub.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "raedit/hub.h"

namespace raedit::hub {

class Repository {
 public:
  // An existing folder, or org/name[@revision]. Nothing is downloaded yet, but for a repository that is not in the
  // cache the list of its files is asked for; one that is stays at the commit that is there. Throws Error(not_found)
  // naming what was tried.
  static Repository open(const std::string& folder_or_name, const HubOptions& options);

  const std::string& name() const;  // as it was given
  bool is_local() const;
  std::string commit() const;  // of a repository: the 40 hex digits; "" for a folder

  // `path` uses '/'; it may not leave the place ("..", absolute): Error(invalid_argument).
  bool exists(const std::string& path) const;
  // Where the file is on this machine, downloaded if need be. Throws Error(not_found) naming the nearest paths.
  std::string fetch(const std::string& path) const;
  // All files of a repository (of one that is only in the cache: those that are there), or of a folder, sorted.
  std::vector<std::string> files() const;

 private:
  struct State;
  explicit Repository(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

}  // namespace raedit::hub
