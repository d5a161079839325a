#include "train/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "io/files.h"

namespace raedit::train {

AppendFile AppendFile::create_new(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
  if (fd < 0 && errno != EEXIST) raise_write_error("cannot create", path, errno);
  return AppendFile(path, fd);
}

AppendFile AppendFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd < 0) raise_write_error("cannot open for writing", path, errno);
  AppendFile file(path, fd);
  file.size_ = ::lseek(fd, 0, SEEK_END);
  if (file.size_ < 0) raise_write_error("cannot append", path, errno);
  return file;
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

AppendFile::~AppendFile() {
  if (fd_ >= 0) ::close(fd_);
}

void AppendFile::append(std::string_view record) {
  if (fd_ < 0) fail(EBADF);
  const auto bytes = static_cast<int64_t>(record.size());
  while (!record.empty()) {
    const ssize_t done = ::write(fd_, record.data(), record.size());
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) fail(done == 0 ? ENOSPC : errno);
    record.remove_prefix(static_cast<size_t>(done));
  }
  size_ += bytes;
}

void AppendFile::fail(int error_number) {
  // A later record must not stand behind half of this one.
  if (fd_ >= 0 && ::ftruncate(fd_, size_) != 0) ::close(std::exchange(fd_, -1));
  raise_write_error("cannot append", path_, error_number);
}

}  // namespace raedit::train
