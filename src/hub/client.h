// The hub's HTTP interface: the list of a repository's files, what is to be known of one before it is downloaded, and
// its bytes. Source: the documentation of huggingface_hub ("Hub API endpoints", "Download files") and its headers.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "hub/http.h"
#include "hub/names.h"
#include "hub/settings.h"

namespace raedit::hub {

struct RepoListing {
  std::string commit;
  std::vector<std::string> files;  // sorted, all of them safe paths
};

struct FileMetadata {
  std::string etag;  // safe as a file name
  std::optional<uint64_t> size;
};

// The pauses between tries.
class Retry {
 public:
  Retry(const Settings& settings, ProgressMeter& progress) : settings_(&settings), progress_(&progress) {}

  // Pauses, longer every time. False when it is time to give up.
  bool again(double retry_after);
  void start_over() { used_ = 0; }
  int tries() const { return used_ + 1; }

 private:
  const Settings* settings_;
  ProgressMeter* progress_;
  int used_ = 0;
};

class HubClient {
 public:
  // Both must outlive it.
  HubClient(const Settings& settings, ProgressMeter& progress);

  RepoListing list(const ModelName& name);
  // The same, but nullopt after one try when the hub cannot be reached or is out of order.
  std::optional<RepoListing> try_list(const ModelName& name);

  FileMetadata metadata(const ModelName& name, const std::string& commit, const std::string& path);

  // One try. `begin` and `sink` as in HttpRequest.
  HttpResponse get(const ModelName& name, const std::string& commit, const std::string& path, uint64_t from,
                   std::function<void(const HttpResponse&)> begin, std::function<void(const char*, size_t)> sink);

  // What went wrong, for people. `path` is "" where no file is meant.
  [[noreturn]] void raise_answer(const HttpResponse& response, const ModelName& name, const std::string& path,
                                 int tries) const;

 private:
  HttpResponse ask(const HttpRequest& request, int& tries);
  HttpRequest list_request(const ModelName& name, std::string& body) const;
  RepoListing read_listing(const HttpResponse& response, const ModelName& name, const std::string& body) const;
  std::string file_url(const ModelName& name, const std::string& commit, const std::string& path) const;

  const Settings& settings_;
  ProgressMeter& progress_;
  HttpClient http_;
  bool reached_ = false;
};

}  // namespace raedit::hub
