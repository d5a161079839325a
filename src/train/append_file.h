// A file that only grows, by whole records: what a killed or failed run leaves behind can still be read.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace raedit::train {

class AppendFile {
 public:
  // Not open when a file of that name exists; Error(io) for everything else that goes wrong.
  static AppendFile create_new(const std::string& path);
  // One that exists is continued at its end.
  static AppendFile open(const std::string& path);
  ~AppendFile();
  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&&) = delete;

  bool is_open() const { return fd_ >= 0; }
  const std::string& path() const { return path_; }

  // The record is with the kernel when this returns: it outlives this process. Error(io) when it does not fit; the
  // file then ends with the record before it.
  void append(std::string_view record);

 private:
  AppendFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  [[noreturn]] void fail(int error_number);

  std::string path_;
  int fd_ = -1;
  int64_t size_ = 0;
};

}  // namespace raedit::train
