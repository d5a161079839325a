#include "hub/cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "core/check.h"
#include "hub/names.h"
#include "io/files.h"

namespace raedit::hub {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMaxRefBytes = 4096;

std::string folder_name(const std::string& repo) {
  std::string name = "models--" + repo;
  if (const size_t slash = name.find('/'); slash != name.npos) name.replace(slash, 1, "--");
  return name;
}

std::string parent_of(const std::string& path) {
  return path.substr(0, path.rfind('/'));
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find_first_of("\r\n"));
}

// The link as huggingface_hub writes it: from the file's own folder up to models--org--name and down to the blob.
std::string link_text(const std::string& path, const std::string& etag) {
  std::string text = "../../";
  for (const char c : path)
    if (c == '/') text += "../";
  return text + "blobs/" + etag;
}

}  // namespace

bool is_folder(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

std::vector<std::string> files_below(const std::string& folder) {
  std::vector<std::string> found;
  std::error_code error;
  fs::recursive_directory_iterator entries(folder, fs::directory_options::skip_permission_denied, error);
  while (!error && entries != fs::recursive_directory_iterator()) {
    std::error_code ignored;  // a broken link
    if (entries->is_regular_file(ignored)) found.push_back(entries->path().lexically_relative(folder).generic_string());
    entries.increment(error);
  }
  if (error) raise_read_error("cannot list", folder, error.value());
  std::sort(found.begin(), found.end());
  return found;
}

CacheFolder::CacheFolder(const std::string& cache_dir, const std::string& repo)
    : storage_(cache_dir + "/" + folder_name(repo)), locks_(cache_dir + "/.locks/" + folder_name(repo)) {}

std::optional<std::string> CacheFolder::commit_of(const std::string& revision) const {
  std::string commit = revision;
  if (!is_commit(revision)) {
    const std::string ref = storage_ + "/refs/" + revision;
    if (!is_file(ref)) return std::nullopt;
    commit = first_line(read_file(ref, kMaxRefBytes));
  }
  if (!is_commit(commit) || !is_folder(snapshot(commit))) return std::nullopt;
  return commit;
}

std::optional<std::string> CacheFolder::find(const std::string& commit, const std::string& path) const {
  std::string file = snapshot(commit) + "/" + path;
  if (!is_file(file)) return std::nullopt;
  return file;
}

std::vector<std::string> CacheFolder::files(const std::string& commit) const {
  return files_below(snapshot(commit));
}

void CacheFolder::create_folders() const {
  create_directories(storage_ + "/blobs");
  create_directories(storage_ + "/snapshots");
  create_directories(locks_);
}

void CacheFolder::link(const std::string& commit, const std::string& path, const std::string& etag) const {
  static std::atomic<uint64_t> counter{0};
  const std::string file = snapshot(commit) + "/" + path;
  create_directories(parent_of(file));
  // Made beside the blobs, so that nothing that is cut off here is ever seen in a snapshot.
  const std::string temporary = fmt::format("{}/blobs/.raedit-{}-{}.link", storage_, ::getpid(), counter.fetch_add(1));
  ::unlink(temporary.c_str());
  if (::symlink(link_text(path, etag).c_str(), temporary.c_str()) != 0) {
    if (errno != EPERM && errno != ENOTSUP && errno != ENOSYS) raise_write_error("cannot create a link", file, errno);
    // A file system without links: the content itself, as huggingface_hub does there.
    if (::rename(blob(etag).c_str(), file.c_str()) != 0) raise_write_error("cannot move the file", file, errno);
    return;
  }
  if (::rename(temporary.c_str(), file.c_str()) != 0) {
    const int error_number = errno;
    ::unlink(temporary.c_str());
    raise_write_error("cannot create a link", file, error_number);
  }
}

void CacheFolder::write_ref(const std::string& revision, const std::string& commit) const {
  if (revision == commit) return;
  const std::string ref = storage_ + "/refs/" + revision;
  if (is_file(ref) && read_file(ref, kMaxRefBytes) == commit) return;
  create_directories(parent_of(ref));
  write_file(ref, commit);
}

BlobLock::BlobLock(const CacheFolder& cache, const std::string& etag, const std::function<void()>& wait) {
  const std::string path = cache.locks_ + "/" + etag + ".lock";
  while (!try_once(path)) wait();
}

BlobLock::~BlobLock() {
  if (fd_ >= 0) ::close(fd_);  // which unlocks
}

bool BlobLock::try_once(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) raise_write_error("cannot open the lock", path, errno);
  const int refused = ::flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
  if (refused == EWOULDBLOCK || refused == EINTR) {
    ::close(fd);
    return false;
  }
  // A file system without locks refuses with something else: then two processes may both download, and what keeps the
  // result whole is that each checks what it wrote.
  struct stat held {};
  struct stat named {};
  const bool is_current = ::fstat(fd, &held) == 0 && ::stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
                          held.st_dev == named.st_dev;
  if (!is_current) {  // the holder before has removed it: the others lock a new file
    ::close(fd);
    return false;
  }
  fd_ = fd;
  return true;
}

}  // namespace raedit::hub
