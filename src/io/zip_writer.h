// A zip whose records are stored as they are: what .npz and torch's checkpoints are. Wide sizes and offsets become
// zip64. Source: PKWARE APPNOTE 6.3.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "io/files.h"
#include "io/tensor_bytes.h"

namespace raedit {

// The file appears with commit(), whole or not at all. Names must be UTF-8, shorter than 64 KiB and each its own: the
// callers see to that.
class ZipWriter {
 public:
  // Hands a record's bytes to the sink, piece by piece.
  using Chunks = std::function<void(const ByteSink& sink)>;
  static constexpr uint32_t kZip64From = 0xffffffff;

  // Sizes and offsets from `zip64_from` on are written as zip64; only a test needs another limit.
  explicit ZipWriter(const std::string& path, uint64_t zip64_from = kZip64From);

  // The checksum stands before the data, so `chunks` is called twice and must give the same `bytes` bytes both times.
  void add(const std::string& name, uint64_t bytes, const Chunks& chunks);

  // The data begins at a multiple of `alignment`. Its checksum stands behind it, so `chunks` is called once. Header,
  // padding and checksum are as long as torch makes them, which reads some files by adding up these lengths. Returns
  // the checksum.
  uint32_t add_aligned(const std::string& name, uint64_t bytes, const Chunks& chunks, uint64_t alignment);
  uint32_t add_aligned(const std::string& name, std::string_view content, uint64_t alignment);

  void commit();

 private:
  struct Entry {
    std::string name;
    uint16_t flags = 0;
    uint32_t crc = 0;
    uint64_t bytes = 0;
    uint64_t offset = 0;
  };
  void write_local_header(const Entry& entry, std::string_view extra, bool wide);
  void write_central_directory();
  void check_length(const Entry& entry, uint64_t bytes) const;

  std::string path_;
  AtomicFile file_;
  uint64_t zip64_from_;
  std::vector<Entry> entries_;
};

}  // namespace raedit
