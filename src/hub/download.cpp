// Ranges by RFC 9110, section 14.
#include "hub/download.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>

#include "core/check.h"
#include "hub/part_file.h"

namespace raedit::hub {
namespace {

// So much that is new earns a download its tries back: a long one over a bad line is not a failing one.
constexpr uint64_t kProgressBytes = uint64_t{1} << 20;

// Where "bytes 100-199/500" begins; nullopt for what is no such header.
std::optional<uint64_t> range_begin(const std::string& header) {
  constexpr std::string_view kUnit = "bytes ";
  if (!header.starts_with(kUnit)) return std::nullopt;
  uint64_t begin = 0;
  const auto [end, error] = std::from_chars(header.data() + kUnit.size(), header.data() + header.size(), begin);
  if (error != std::errc() || end == header.data() + header.size() || *end != '-') return std::nullopt;
  return begin;
}

class BlobDownload {
 public:
  BlobDownload(HubClient& client, ProgressMeter& progress, const Settings& settings, const ModelName& name,
               const std::string& commit, const std::string& path)
      : client_(client), progress_(progress), settings_(settings), name_(name), commit_(commit), path_(path) {}

  // Until the part is whole, or the tries are used up.
  void fill(PartFile& part, const FileMetadata& metadata) {
    progress_.begin(path_, part.size(), metadata.size.value_or(0));
    part.check_space();
    Retry retry(settings_, progress_);
    uint64_t best = part.size();
    while (!part.is_whole()) {
      HttpResponse response = fetch(part);
      if (response.ok() && is_all(response, part, metadata)) return;
      if (response.status == 416 && response.failure.empty()) {  // nothing comes after what there is: it is not ours
        part.restart();
        response.may_pass = true;
      }
      if (response.ok()) {
        response.failure = "the connection was closed before the end";
        response.may_pass = true;
      }
      if (part.size() >= best + kProgressBytes) {
        best = part.size();
        retry.start_over();
      }
      if (!response.may_pass || !retry.again(response.retry_after))
        client_.raise_answer(response, name_, path_, retry.tries());
    }
  }

 private:
  HttpResponse fetch(PartFile& part) {
    const uint64_t from = part.size();
    const auto begin = [&](const HttpResponse& response) {
      if (response.status == 206 && range_begin(response.header("content-range")) == from) return;
      // Everything from the start, or a piece that nobody asked for.
      if (part.size() > 0) part.restart();
      RAEDIT_CHECK(response.status != 206, {.code = ErrorCode::io,
                                            .what = "the hub sends another part of the file than was asked for",
                                            .where = name_.text() + "/" + path_,
                                            .found = response.header("content-range"),
                                            .expected = fmt::format("bytes {}-", from),
                                            .hint = "run it again"});
    };
    return client_.get(name_, commit_, path_, from, begin, [&](const char* data, size_t bytes) {
      part.write(data, bytes);
      progress_.advance(part.size());
    });
  }

  // An answer that said how long it is and came whole is all there is, also when that is not what was announced.
  bool is_all(const HttpResponse& response, const PartFile& part, const FileMetadata& metadata) const {
    return part.is_whole() || !metadata.size || !response.header("content-length").empty();
  }

  HubClient& client_;
  ProgressMeter& progress_;
  const Settings& settings_;
  const ModelName& name_;
  const std::string& commit_;
  const std::string& path_;
};

bool is_blob(const std::string& path, const FileMetadata& metadata) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return false;
  return !metadata.size || static_cast<uint64_t>(status.st_size) == *metadata.size;
}

}  // namespace

std::string download_file(HubClient& client, const CacheFolder& cache, const Settings& settings,
                          ProgressMeter& progress, const ModelName& name, const std::string& commit,
                          const std::string& path) {
  const FileMetadata metadata = client.metadata(name, commit, path);
  const auto poll = [&progress] { progress.poll(); };
  cache.create_folders();
  progress.begin(path, 0, metadata.size.value_or(0));
  {
    const BlobLock lock(cache, metadata.etag, [&progress] { progress.sleep(0.05); });
    const std::string blob = cache.blob(metadata.etag);
    if (!is_blob(blob, metadata)) {
      PartFile part(blob + ".incomplete", name.text() + "/" + path, metadata, poll);
      BlobDownload(client, progress, settings, name, commit, path).fill(part, metadata);
      part.finish(blob);
      progress.end();
    }
    if (!cache.find(commit, path)) cache.link(commit, path, metadata.etag);
  }
  const auto found = cache.find(commit, path);
  RAEDIT_CHECK(found.has_value(), {.code = ErrorCode::io,
                                   .what = "the file vanished from the cache while it was downloaded",
                                   .where = cache.snapshot(commit) + "/" + path});
  return *found;
}

}  // namespace raedit::hub
