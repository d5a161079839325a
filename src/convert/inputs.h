// Where the files of a conversion come from, and the record of what was read.
#pragma once

#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "hub/repository.h"

namespace raedit::convert {

// Under which names a relative path is looked for: its own, and without a leading "models/".
std::vector<std::string> input_candidates(const std::string& path);

// Finds a file that a config or an option names. An absolute path (or ~/...) must exist. A relative one is looked for
// inside the repository, there again without a leading "models/" (the published repository lacks that folder, which
// upstream's configs name), and then from the working directory, in the same order as the script's.
std::optional<std::string> find_input(const hub::Repository& repository, const std::string& path);
// The same; Error(not_found) with `what` ("stage-2 checkpoint") when it is nowhere.
std::string resolve_input(const hub::Repository& repository, const std::string& path, const std::string& what);

// The files that went into a conversion, each hashed in a thread of its own while the work goes on.
class SourceRecord {
 public:
  // Nothing is hashed when `hashed` is false (dry run).
  explicit SourceRecord(bool hashed) : hashed_(hashed) {}
  ~SourceRecord();
  SourceRecord(const SourceRecord&) = delete;
  SourceRecord& operator=(const SourceRecord&) = delete;

  void add(const std::string& path);
  const std::vector<std::string>& paths() const { return paths_; }
  // Starts hashing, one file after the other; finish() waits for it: [{"path", "bytes", "sha256"}, ...].
  void start();
  Json finish();

 private:
  bool hashed_;
  std::vector<std::string> paths_;
  std::shared_ptr<std::atomic<bool>> stop_ = std::make_shared<std::atomic<bool>>(false);
  std::future<std::vector<std::string>> digests_;
};

}  // namespace raedit::convert
