// Whole files: read, mapped, or written so that they appear complete or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace raedit {

// Throws for the current value of `error_number`: "PATH: ACTION: strerror; hint". Error(not_found) for a file that is
// to be read and does not exist, Error(io) for the rest.
[[noreturn]] void raise_read_error(const char* action, const std::string& path, int error_number);
[[noreturn]] void raise_write_error(const char* action, const std::string& path, int error_number);

// The whole file. Throws Error(format) when it is larger than `max_bytes`.
std::string read_file(const std::string& path, size_t max_bytes = size_t{64} << 20);

// A file mapped read-only. As with every mapping, the file must not be truncated by others while it is open.
class MappedFile {
 public:
  static std::shared_ptr<MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

  // Lets the pages of [offset, offset + length) leave the resident set, and their neighbours up to 2 MiB, which the
  // kernel may have mapped along with them. They come back when read again.
  void drop_pages(size_t offset, size_t length) const;
  // Has the disk bring them while we do something else.
  void prefetch(size_t offset, size_t length) const;

 private:
  void advise(size_t offset, size_t length, size_t unit, int advice) const;

  MappedFile(std::string path, const std::byte* data, size_t size) : path_(std::move(path)), data_(data), size_(size) {}

  std::string path_;
  const std::byte* data_;
  size_t size_;
};

// A file written under a temporary name in the same folder; commit() makes it appear under its own. Destroyed without
// commit(), it leaves nothing behind and an existing file untouched. A device or pipe (/dev/stdout) is written
// directly.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  uint64_t bytes_written() const { return bytes_written_; }
  // Brings everything to the disk, still under the temporary name. Of several files that belong together, flush all
  // before the first commit(): what can fail has then failed.
  void flush();
  // flush() unless that has been done, and the rename. Call it once, last.
  void commit();

 private:
  [[noreturn]] void fail(const char* action, int error_number);
  void abandon();

  std::string path_;       // as the caller named it
  std::string final_;      // with symbolic links resolved
  std::string temporary_;  // empty for a device
  int fd_ = -1;
  bool flushed_ = false;
  uint64_t bytes_written_ = 0;
};

// write + commit.
void write_file(const std::string& path, std::string_view content);

// `to` as a file of its own, links in `from` followed. `from` must be a regular file; of any size.
void copy_file(const std::string& from, const std::string& to);

// Makes what was created, renamed or removed in a folder survive a power cut. Silent where that cannot be done: the
// files themselves are whole.
void sync_folder(const std::string& path) noexcept;

// Whether there is a regular file, links followed.
bool is_file(const std::string& path);

// Makes the folder and those above it; one that exists is fine.
void create_directories(const std::string& path);

}  // namespace raedit
