// What there is of a file that is being downloaded. It has the name blobs/<etag>.incomplete, which nobody takes for a
// file, until its content has been checked against the etag.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "hub/client.h"
#include "io/hash.h"

namespace raedit::hub {

class PartFile {
 public:
  // Takes up what is there already, which is read for its hash; `poll` may throw.
  PartFile(std::string path, std::string where, const FileMetadata& metadata, std::function<void()> poll);
  ~PartFile();
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  uint64_t size() const { return size_; }
  bool is_whole() const { return metadata_.size && size_ == *metadata_.size; }
  void write(const char* data, size_t bytes);
  void restart();  // empty again

  // Throws Error(io) before a byte is asked for when the rest cannot fit.
  void check_space() const;
  // Size and hash are those of `metadata`, the content is on the disk and has its final name; or Error(io), and the
  // part is gone.
  void finish(const std::string& final_path);

 private:
  void open();
  void take_up();
  void close();
  [[noreturn]] void fail(const char* action, int error_number) const;
  [[noreturn]] void refuse(const char* what, const std::string& found, const std::string& expected);
  void check_hash();

  std::string path_;
  std::string where_;
  FileMetadata metadata_;
  std::function<void()> poll_;
  int fd_ = -1;
  uint64_t size_ = 0;
  std::optional<Sha256> sha256_;  // of all that is there, where the etag is one
};

}  // namespace raedit::hub
