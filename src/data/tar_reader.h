// The regular files of a tar archive, one after the other, by their headers; nothing is extracted.
// Source: POSIX.1-2017 pax (ustar and extended headers); the GNU tar manual, "Basic Tar Format" (types L and K,
// base-256 numbers).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace raedit::data {

struct TarMember {
  std::string name;
  uint64_t offset = 0;  // of its bytes in the archive
  uint64_t size = 0;
};

class TarReader {
 public:
  // Throws Error(not_found), Error(io); Error(unsupported) for a compressed archive.
  explicit TarReader(std::string path);
  ~TarReader();
  TarReader(const TarReader&) = delete;
  TarReader& operator=(const TarReader&) = delete;

  // False behind the last one. Throws Error(format) naming the offset for what no tar program writes and for an archive
  // that ends too early, Error(unsupported) for sparse files.
  bool next(TarMember& member);

  // Throws Error(format) for one of more than `max_bytes`.
  std::string read(const TarMember& member, size_t max_bytes) const;

 private:
  using Records = std::map<std::string, std::string, std::less<>>;

  std::string_view header(uint64_t offset);
  std::string extension(uint64_t size, size_t max_bytes, const char* what) const;
  void read_records(uint64_t size, Records& records) const;
  bool take(std::string_view block, uint64_t header_size, TarMember& member);
  [[noreturn]] void fail(const std::string& what, const std::string& found = "") const;

  std::string path_;
  int fd_ = -1;
  uint64_t end_ = 0;  // of the file
  uint64_t at_ = 0;   // of the header that is read, then of the next one
  std::string window_;
  uint64_t window_offset_ = 0;
  Records global_, local_;  // pax: of all members from here on, of the next one
  std::string long_name_;   // GNU: of the next one
};

// Bytes [offset, offset + size) of a file. Throws Error(io) where it has become shorter.
std::string read_range(const std::string& path, uint64_t offset, uint64_t size);

}  // namespace raedit::data
