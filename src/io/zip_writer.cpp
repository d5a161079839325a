#include "io/zip_writer.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "io/crc32.h"

namespace raedit {
namespace {

// Little-endian fields of a zip record.
class Record {
 public:
  Record& u16(uint64_t value) { return field(value, 2); }
  Record& u32(uint64_t value) { return field(value, 4); }
  Record& u64(uint64_t value) { return field(value, 8); }
  Record& text(std::string_view value) {
    bytes_ += value;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  Record& field(uint64_t value, int width) {
    for (int i = 0; i < width; ++i) bytes_ += static_cast<char>(value >> (8 * i) & 0xff);
    return *this;
  }
  std::string bytes_;
};

constexpr uint32_t kFull32 = 0xffffffff;  // "see the zip64 record"
constexpr uint16_t kVersion = 20, kVersion64 = 45;
constexpr uint16_t kDosTime = 0, kDosDate = 0x21;  // 1980-01-01: equal content, equal bytes
constexpr uint16_t kUtf8 = 0x0800, kChecksumBehind = 0x0008;
constexpr uint16_t kZip64Extra = 0x0001, kPaddingExtra = 0x4246;
constexpr uint64_t kLocalHeaderBytes = 30;

}  // namespace

ZipWriter::ZipWriter(const std::string& path, uint64_t zip64_from)
    : path_(path), file_(path), zip64_from_(std::min<uint64_t>(zip64_from, kZip64From)) {}

void ZipWriter::check_length(const Entry& entry, uint64_t bytes) const {
  RAEDIT_CHECK(bytes == entry.bytes, {.code = ErrorCode::internal,
                                      .what = fmt::format("record '{}' is not as long as announced", entry.name),
                                      .where = path_,
                                      .found = fmt::format("{} bytes", bytes),
                                      .expected = fmt::format("{} bytes", entry.bytes)});
}

void ZipWriter::write_local_header(const Entry& entry, std::string_view extra, bool wide) {
  // What stands behind the data is zero here.
  const bool behind = (entry.flags & kChecksumBehind) != 0;
  const uint64_t size = wide ? kFull32 : behind ? 0 : entry.bytes;
  const bool zip64 = wide || entry.offset >= zip64_from_;
  Record local;
  local.u32(0x04034b50).u16(wide || (behind && zip64) ? kVersion64 : kVersion).u16(entry.flags).u16(0);
  local.u16(kDosTime).u16(kDosDate).u32(behind ? 0 : entry.crc).u32(size).u32(size);
  local.u16(entry.name.size()).u16(extra.size()).text(entry.name).text(extra);
  file_.write(local.bytes());
}

void ZipWriter::add(const std::string& name, uint64_t bytes, const Chunks& chunks) {
  Entry entry{name, kUtf8, 0, bytes, file_.bytes_written()};
  chunks([&](const void* data, size_t length) { entry.crc = crc32(entry.crc, data, length); });

  const bool wide = bytes >= zip64_from_;
  Record extra;
  if (wide) extra.u16(kZip64Extra).u16(16).u64(bytes).u64(bytes);
  write_local_header(entry, extra.bytes(), wide);
  const uint64_t begin = file_.bytes_written();
  chunks([&](const void* data, size_t length) { file_.write(data, length); });
  check_length(entry, file_.bytes_written() - begin);
  entries_.push_back(std::move(entry));
}

uint32_t ZipWriter::add_aligned(const std::string& name, uint64_t bytes, const Chunks& chunks, uint64_t alignment) {
  Entry entry{name, bytes > 0 ? uint16_t{kUtf8 | kChecksumBehind} : kUtf8, 0, bytes, file_.bytes_written()};
  const bool wide = bytes >= zip64_from_, far = entry.offset >= zip64_from_;
  Record extra;
  if (wide || far) extra.u16(kZip64Extra).u16((wide ? 16 : 0) + (far ? 8 : 0));
  if (wide) extra.u64(0).u64(0);
  if (far) extra.u64(entry.offset);
  const uint64_t unpadded = entry.offset + kLocalHeaderBytes + name.size() + extra.bytes().size() + 4;
  const uint64_t padding = (alignment - unpadded % alignment) % alignment;
  extra.u16(kPaddingExtra).u16(padding).text(std::string(padding, '\0'));
  write_local_header(entry, extra.bytes(), wide);

  const uint64_t begin = file_.bytes_written();
  chunks([&](const void* data, size_t length) {
    constexpr size_t kPiece = size_t{1} << 20;  // written while the checksum still has it in the cache
    for (size_t at = 0; at < length; at += kPiece) {
      const std::byte* piece = static_cast<const std::byte*>(data) + at;
      const size_t piece_bytes = std::min(kPiece, length - at);
      entry.crc = crc32(entry.crc, piece, piece_bytes);
      file_.write(piece, piece_bytes);
    }
  });
  check_length(entry, file_.bytes_written() - begin);
  Record behind;
  if (bytes > 0) behind.u32(0x08074b50).u32(entry.crc);
  if (bytes > 0 && (wide || far)) behind.u64(bytes).u64(bytes);
  if (bytes > 0 && !wide && !far) behind.u32(bytes).u32(bytes);
  file_.write(behind.bytes());
  entries_.push_back(std::move(entry));
  return entries_.back().crc;
}

uint32_t ZipWriter::add_aligned(const std::string& name, std::string_view content, uint64_t alignment) {
  return add_aligned(
      name, content.size(), [&](const ByteSink& sink) { sink(content.data(), content.size()); }, alignment);
}

void ZipWriter::write_central_directory() {
  const uint64_t begin = file_.bytes_written();
  for (const Entry& entry : entries_) {
    const bool wide = entry.bytes >= zip64_from_, far = entry.offset >= zip64_from_;
    Record extra;
    if (wide || far) extra.u16(kZip64Extra).u16((wide ? 16 : 0) + (far ? 8 : 0));
    if (wide) extra.u64(entry.bytes).u64(entry.bytes);
    if (far) extra.u64(entry.offset);
    const uint16_t version = wide || far ? kVersion64 : kVersion;
    Record record;
    record.u32(0x02014b50).u16(version).u16(version).u16(entry.flags).u16(0).u16(kDosTime).u16(kDosDate);
    record.u32(entry.crc).u32(wide ? kFull32 : entry.bytes).u32(wide ? kFull32 : entry.bytes);
    record.u16(entry.name.size()).u16(extra.bytes().size());
    record.u16(0).u16(0).u16(0).u32(0);  // no comment, first disk, no attributes
    record.u32(far ? kFull32 : entry.offset).text(entry.name).text(extra.bytes());
    file_.write(record.bytes());
  }
  const uint64_t end = file_.bytes_written(), count = entries_.size();
  Record tail;
  const bool wide = begin >= zip64_from_ || end - begin >= zip64_from_ || count >= 0xffff;
  if (wide) {
    tail.u32(0x06064b50).u64(44).u16(kVersion64).u16(kVersion64).u32(0).u32(0);
    tail.u64(count).u64(count).u64(end - begin).u64(begin);
    tail.u32(0x07064b50).u32(0).u64(end).u32(1);
  }
  tail.u32(0x06054b50).u16(0).u16(0).u16(wide ? 0xffff : count).u16(wide ? 0xffff : count);
  tail.u32(wide ? kFull32 : end - begin).u32(wide ? kFull32 : begin).u16(0);
  file_.write(tail.bytes());
}

void ZipWriter::commit() {
  write_central_directory();
  file_.commit();
}

}  // namespace raedit
