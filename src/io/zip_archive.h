// A zip file to read from, through libzip. Stored entries are found in the mapping of the file, not copied. Source:
// PKWARE APPNOTE 6.3.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "io/files.h"
#include "raedit/tensor.h"

struct zip;

namespace raedit {

struct ZipEntry {
  std::string name;
  uint64_t index = 0;
  uint64_t bytes = 0;  // unpacked
  uint32_t crc = 0;
  bool stored = true;
  uint64_t offset = 0;  // of a stored entry's bytes in the file
};

class ZipArchive {
 public:
  // Throws Error(format) naming the offset of what is missing or does not fit, and for an entry that unpacks to far
  // more than it holds; Error(unsupported) for an encrypted entry and for compressions other than deflate.
  static std::unique_ptr<ZipArchive> open(std::shared_ptr<const MappedFile> file);
  ~ZipArchive();
  ZipArchive(const ZipArchive&) = delete;
  ZipArchive& operator=(const ZipArchive&) = delete;

  const std::vector<ZipEntry>& entries() const { return entries_; }
  const ZipEntry* find(std::string_view name) const;

  // Throws Error(format) when the bytes of a stored entry are not those that were written.
  void check_crc(const ZipEntry& entry) const;
  // Of a packed entry: its content, checked. Any thread.
  std::shared_ptr<Storage> inflate(const ZipEntry& entry) const;
  // Of either kind, copied where it is packed. For small ones.
  std::string read(const ZipEntry& entry) const;

 private:
  struct Source;
  explicit ZipArchive(std::shared_ptr<const MappedFile> file);
  void open_directory();
  void read_entry(uint64_t index);
  uint64_t offset_of(const ZipEntry& entry);
  [[noreturn]] void fail(const std::string& what, const std::string& found = "") const;

  std::shared_ptr<const MappedFile> file_;
  std::unique_ptr<Source> source_;
  ::zip* zip_ = nullptr;
  mutable std::mutex mutex_;  // libzip's handle is for one thread at a time
  std::vector<ZipEntry> entries_;
  std::map<std::string_view, size_t> index_;  // looks into entries_
};

}  // namespace raedit
