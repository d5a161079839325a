#include "hub/part_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <vector>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"

namespace raedit::hub {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 20;
constexpr size_t kSha256Digits = 64;
constexpr size_t kSha1Digits = 40;

}  // namespace

PartFile::PartFile(std::string path, std::string where, const FileMetadata& metadata, std::function<void()> poll)
    : path_(std::move(path)), where_(std::move(where)), metadata_(metadata), poll_(std::move(poll)) {
  if (is_hex(metadata_.etag) && metadata_.etag.size() == kSha256Digits) sha256_.emplace();
  open();
  try {
    take_up();
  } catch (...) {
    close();
    throw;
  }
}

PartFile::~PartFile() {
  close();
}

void PartFile::open() {
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
  if (fd_ < 0) fail("cannot open for writing", errno);
}

void PartFile::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void PartFile::take_up() {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) raise_read_error("cannot read", path_, errno);
  RAEDIT_CHECK(S_ISREG(status.st_mode), {.code = ErrorCode::io, .what = "is not a regular file", .where = path_});
  const uint64_t there = static_cast<uint64_t>(status.st_size);
  if (metadata_.size && there > *metadata_.size) return restart();
  std::vector<char> piece(kPieceBytes);
  while (sha256_ && size_ < there) {
    const ssize_t got = ::pread(fd_, piece.data(), piece.size(), static_cast<off_t>(size_));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) raise_read_error("cannot read", path_, errno);
    if (got == 0) break;  // shorter than a moment ago: go on from here
    sha256_->update(piece.data(), static_cast<size_t>(got));
    size_ += static_cast<uint64_t>(got);
    poll_();
  }
  if (!sha256_) size_ = there;
}

void PartFile::restart() {
  // A new file, not the old one cut to nothing: where locks do not work, the old one may just have become the blob of
  // somebody else.
  close();
  if (::unlink(path_.c_str()) != 0 && errno != ENOENT) fail("cannot delete", errno);
  open();
  size_ = 0;
  if (sha256_) sha256_.emplace();
}

void PartFile::write(const char* data, size_t bytes) {
  // Stop a server that sends on and on before the disk is full of it.
  if (metadata_.size && bytes > *metadata_.size - size_)
    refuse("the file is longer than the hub announced", fmt::format("more than {} bytes", *metadata_.size),
           fmt::format("{} bytes", *metadata_.size));
  while (bytes > 0) {
    // At its own offset: should two processes write despite the lock, they write the same.
    const ssize_t done = ::pwrite(fd_, data, bytes, static_cast<off_t>(size_));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) fail("cannot write", done == 0 ? ENOSPC : errno);
    if (sha256_) sha256_->update(data, static_cast<size_t>(done));
    data += done;
    bytes -= static_cast<size_t>(done);
    size_ += static_cast<uint64_t>(done);
  }
}

void PartFile::fail(const char* action, int error_number) const {
  const std::string needed = metadata_.size
                                 ? fmt::format("{} in all, {} more from here on", human_bytes(*metadata_.size),
                                               human_bytes(*metadata_.size - std::min(size_, *metadata_.size)))
                                 : "";
  const bool is_full = error_number == ENOSPC || error_number == EDQUOT || error_number == EFBIG;
  raise({.code = ErrorCode::io,
         .what = fmt::format("{}: {}", action, std::generic_category().message(error_number)),
         .where = path_,
         .found = is_full ? fmt::format("{} written", human_bytes(size_)) : "",
         .expected = is_full ? needed : "",
         .hint = error_number == EFBIG ? "the file-size limit of this process is too low (ulimit -f)"
                 : is_full ? "free some space, or set HF_HUB_CACHE to a folder on another disk; what is there "
                             "is kept and taken up again"
                           : "check who may write this folder, or set HF_HUB_CACHE to another one"});
}

void PartFile::check_space() const {
  struct statvfs disk {};
  if (!metadata_.size || ::fstatvfs(fd_, &disk) != 0) return;
  const uint64_t left = *metadata_.size - std::min(size_, *metadata_.size);
  const uint64_t room = static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
  RAEDIT_CHECK(left <= room, {.code = ErrorCode::io,
                              .what = "there is not enough space on the disk for " + where_,
                              .where = path_,
                              .found = human_bytes(room) + " free",
                              .expected = human_bytes(left),
                              .hint = "free some space, or set HF_HUB_CACHE to a folder on another disk"});
}

void PartFile::refuse(const char* what, const std::string& found, const std::string& expected) {
  ::unlink(path_.c_str());
  raise({.code = ErrorCode::io,
         .what = what,
         .where = where_,
         .found = found,
         .expected = expected,
         .hint = "what was downloaded of it has been deleted; run it again, and if it happens again, look for a proxy "
                 "that changes files"});
}

void PartFile::check_hash() {
  std::string found;
  if (sha256_) {
    found = sha256_->hex();
  } else if (is_hex(metadata_.etag) && metadata_.etag.size() == kSha1Digits) {
    found = git_blob_sha1_of_file(path_, [&](uint64_t, uint64_t) { return poll_(), true; });
  } else {
    return;  // not a hash of the content: the size has to do
  }
  if (found != metadata_.etag)
    refuse(sha256_ ? "the SHA-256 of what arrived is wrong" : "the git SHA-1 of what arrived is wrong", found,
           metadata_.etag);
}

void PartFile::finish(const std::string& final_path) {
  if (metadata_.size && !is_whole())
    refuse("the file is shorter than the hub announced", fmt::format("{} bytes", size_),
           fmt::format("{} bytes", *metadata_.size));
  check_hash();
  if (::fsync(fd_) != 0) fail("cannot flush to disk", errno);
  struct stat mine {};
  struct stat named {};
  const bool is_mine = ::fstat(fd_, &mine) == 0 && ::stat(path_.c_str(), &named) == 0 && mine.st_ino == named.st_ino &&
                       mine.st_dev == named.st_dev;
  RAEDIT_CHECK(is_mine, {.code = ErrorCode::io,
                         .what = "another process downloads the same file",
                         .where = path_,
                         .hint = "the file system of the cache does not support locks; run it again"});
  if (::rename(path_.c_str(), final_path.c_str()) != 0) fail("cannot rename", errno);
  close();
}

}  // namespace raedit::hub
