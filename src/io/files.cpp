#include "io/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "core/check.h"

namespace raedit {
namespace fs = std::filesystem;
namespace {

struct FileDescriptor {
  int fd;
  ~FileDescriptor() { ::close(fd); }
};

std::string describe(int error_number) {
  return std::generic_category().message(error_number);
}

const char* write_hint(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT: return "free some space or choose another place to write to";
    case EFBIG: return "the file-size limit of this process is too low (ulimit -f)";
    case EACCES:
    case EPERM: return "check who may write this file and its folder";
    case EROFS: return "the file system is read-only; choose another place";
    case EISDIR: return "this is a folder; name a file in it";
    case ENOENT: return "the folder does not exist; create it first";
    case ENOTDIR: return "a part of this path is a file, not a folder";
    case ENAMETOOLONG: return "choose a shorter name";
    default: return "";
  }
}

std::string folder_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

// Short whatever the file's own name is, so that a name of the maximum length can still be written.
std::string temporary_name(const std::string& folder) {
  static std::atomic<uint64_t> counter{0};
  return fmt::format("{}/.raedit-{}-{}.tmp", folder, ::getpid(), counter.fetch_add(1));
}

// Where a write through `path` would end: links are followed, those that point to nothing yet, too. One that leads in
// circles stays a link.
std::string behind_links(const std::string& path) {
  constexpr int kMostLinks = 40;  // as the kernel
  fs::path at(path);
  std::error_code error;
  for (int i = 0; i < kMostLinks; ++i) {
    const fs::path target = fs::read_symlink(at, error);
    if (error) break;
    at = target.is_absolute() ? target : at.parent_path() / target;
  }
  return at.string();
}

}  // namespace

void raise_read_error(const char* action, const std::string& path, int error_number) {
  const bool missing = error_number == ENOENT || error_number == ENOTDIR;
  raise({.code = missing ? ErrorCode::not_found : ErrorCode::io,
         .what = std::string(action) + ": " + describe(error_number),
         .where = path,
         .hint = missing                  ? "check the path"
                 : error_number == EACCES ? "check who may read this file"
                 : error_number == EISDIR ? "this is a folder; name a file in it"
                                          : ""});
}

void raise_write_error(const char* action, const std::string& path, int error_number) {
  raise({.code = ErrorCode::io,
         .what = std::string(action) + ": " + describe(error_number),
         .where = path,
         .hint = write_hint(error_number)});
}

std::string read_file(const std::string& path, size_t max_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) raise_read_error("cannot open", path, errno);
  const FileDescriptor guard{fd};

  // The size is not asked for: a pipe has none.
  std::string content;
  size_t used = 0;
  for (;;) {
    if (used == content.size()) content.resize(std::max<size_t>(size_t{1} << 14, used * 2));
    const ssize_t got = ::read(fd, content.data() + used, content.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) raise_read_error("cannot read", path, errno);
    if (got == 0) break;
    used += static_cast<size_t>(got);
    RAEDIT_CHECK(used <= max_bytes, {.code = ErrorCode::format,
                                     .what = "file is too large",
                                     .where = path,
                                     .found = fmt::format("more than {} bytes", max_bytes),
                                     .expected = fmt::format("at most {} bytes", max_bytes)});
  }
  content.resize(used);
  return content;
}

std::shared_ptr<MappedFile> MappedFile::open(const std::string& path) {
  // Non-blocking, so that a pipe in place of the file is an error and not a hang.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) raise_read_error("cannot open", path, errno);
  const FileDescriptor guard{fd};

  struct stat status {};
  if (::fstat(fd, &status) != 0) raise_read_error("cannot read", path, errno);
  if (S_ISDIR(status.st_mode)) raise_read_error("cannot read", path, EISDIR);
  RAEDIT_CHECK(S_ISREG(status.st_mode),
               {.code = ErrorCode::io, .what = "is not a regular file, so it cannot be mapped", .where = path});

  const size_t size = static_cast<size_t>(status.st_size);
  void* address = nullptr;
  if (size > 0) {
    address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED) raise_read_error("cannot map", path, errno);
  }
  return std::shared_ptr<MappedFile>(new MappedFile(path, static_cast<const std::byte*>(address), size));
}

MappedFile::~MappedFile() {
  if (size_ > 0) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::drop_pages(size_t offset, size_t length) const {
  advise(offset, length, size_t{2} << 20, MADV_DONTNEED);
}

void MappedFile::prefetch(size_t offset, size_t length) const {
  advise(offset, length, static_cast<size_t>(::sysconf(_SC_PAGESIZE)), MADV_WILLNEED);
}

// Widened to multiples of `unit`. Advice only: a refusal costs time or memory, not correctness.
void MappedFile::advise(size_t offset, size_t length, size_t unit, int advice) const {
  if (offset >= size_ || length == 0) return;
  const auto start = reinterpret_cast<uintptr_t>(data_);
  const uintptr_t first = std::max(start, (start + offset) / unit * unit);
  const uintptr_t end = start + offset + std::min(length, size_ - offset);
  const uintptr_t last = std::min(start + size_, (end + unit - 1) / unit * unit);
  (void)::madvise(reinterpret_cast<void*>(first), last - first, advice);
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), final_(path_) {
  struct stat status {};
  const bool exists = ::stat(path_.c_str(), &status) == 0;
  if (exists && S_ISDIR(status.st_mode)) fail("cannot write", EISDIR);
  if (exists && !S_ISREG(status.st_mode)) {
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd_ < 0) fail("cannot open for writing", errno);
    return;
  }
  if (exists && ::faccessat(AT_FDCWD, path_.c_str(), W_OK, AT_EACCESS) != 0) fail("cannot write", errno);
  final_ = behind_links(path_);  // replaces what a link points to, not the link
  std::error_code error;
  if (fs::is_symlink(final_, error)) fail("cannot write", ELOOP);
  const std::string folder = folder_of(final_);
  do {
    temporary_ = temporary_name(folder);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (fd_ < 0 && errno == EEXIST);
  if (fd_ < 0) {
    const int error_number = errno;
    temporary_.clear();
    fail("cannot create", error_number);
  }
  // Who could not read the old file cannot read the new one. Some file systems have no modes and refuse.
  if (exists) (void)::fchmod(fd_, status.st_mode & 0777);
}

AtomicFile::~AtomicFile() {
  abandon();
}

void AtomicFile::abandon() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
}

void AtomicFile::fail(const char* action, int error_number) {
  abandon();
  raise_write_error(action, path_, error_number);
}

void AtomicFile::write(const void* data, size_t bytes) {
  RAEDIT_CHECK(fd_ >= 0, {.code = ErrorCode::internal, .what = "write after commit or failure", .where = path_});
  flushed_ = false;
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::write(fd_, next, std::min(bytes, size_t{1} << 30));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) fail("cannot write", done == 0 ? ENOSPC : errno);
    next += done;
    bytes -= static_cast<size_t>(done);
    bytes_written_ += static_cast<uint64_t>(done);
  }
}

void AtomicFile::flush() {
  RAEDIT_CHECK(fd_ >= 0, {.code = ErrorCode::internal, .what = "flush after commit or failure", .where = path_});
  // A pipe or terminal has nothing to flush and says EINVAL.
  if (::fsync(fd_) != 0 && !(temporary_.empty() && (errno == EINVAL || errno == EROFS || errno == ENOTSUP)))
    fail("cannot flush to disk", errno);
  flushed_ = true;
}

void AtomicFile::commit() {
  RAEDIT_CHECK(fd_ >= 0, {.code = ErrorCode::internal, .what = "commit after commit or failure", .where = path_});
  const bool direct = temporary_.empty();
  if (!flushed_) flush();
  const int closed = ::close(fd_);
  const int error_number = errno;
  fd_ = -1;
  if (closed != 0) fail("cannot close", error_number);
  if (direct) return;
  if (::rename(temporary_.c_str(), final_.c_str()) != 0) fail("cannot replace", errno);
  temporary_.clear();
  sync_folder(folder_of(final_));
}

void write_file(const std::string& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

void copy_file(const std::string& from, const std::string& to) {
  const std::shared_ptr<MappedFile> source = MappedFile::open(from);
  AtomicFile copy(to);
  copy.write(source->data(), source->size());
  copy.commit();
}

void sync_folder(const std::string& path) noexcept {
  const int folder = ::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  const FileDescriptor guard{folder};
  (void)::fsync(folder);
}

bool is_file(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

void create_directories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) raise_write_error("cannot create the folder", path, error.value());
}

}  // namespace raedit
