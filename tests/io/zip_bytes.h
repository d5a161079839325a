// A small zip reader that follows PKWARE's description and shares nothing with the writer: every checksum and every
// repeated field is compared.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace raedit::test {

struct ZipRecord {
  std::string name;
  std::string content;
  uint64_t header = 0;  // offset of the local header
  uint64_t data = 0;    // offset of the content
  uint64_t end = 0;     // offset of what follows, behind a checksum that stands behind the content
  bool zip64 = false;   // the central directory has a zip64 record for it
  bool operator<(const ZipRecord& other) const { return name < other.name; }
};

inline uint64_t field(const std::string& bytes, size_t at, size_t width) {
  uint64_t value = 0;
  for (size_t i = 0; i < width; ++i) value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes.at(at + i))) << (8 * i);
  return value;
}

inline uint32_t crc_bit_by_bit(const std::string& bytes) {
  uint32_t crc = 0xffffffff;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

// The 64-bit value of a field that says "look into the zip64 record"; advances in that record.
inline uint64_t widened(const std::string& bytes, uint64_t value, size_t& extra) {
  if (value != 0xffffffff) return value;
  extra += 8;
  return field(bytes, extra - 8, 8);
}

// The content, and what its local header and the checksum behind it say.
inline void read_local(const std::string& bytes, uint64_t size, uint64_t crc, uint64_t flags, ZipRecord& record) {
  const uint64_t at = record.header;
  EXPECT_EQ(field(bytes, at, 4), 0x04034b50u);
  EXPECT_EQ(field(bytes, at + 6, 2), flags);
  EXPECT_EQ(field(bytes, at + 8, 2), 0u);  // stored
  const size_t name_length = field(bytes, at + 26, 2), extra_length = field(bytes, at + 28, 2);
  EXPECT_EQ(bytes.substr(at + 30, name_length), record.name);
  record.data = at + 30 + name_length + extra_length;
  record.content = bytes.substr(record.data, size);
  record.end = record.data + size;
  EXPECT_EQ(record.content.size(), size);
  EXPECT_EQ(crc_bit_by_bit(record.content), crc);

  size_t extra = at + 30 + name_length;
  const bool wide = extra_length > 0 && field(bytes, extra, 2) == 1;
  extra += 4;
  const bool behind = (flags & 8) != 0;
  EXPECT_EQ(field(bytes, at + 14, 4), behind ? 0 : crc);
  EXPECT_EQ(widened(bytes, field(bytes, at + 22, 4), extra), behind ? 0 : size);
  EXPECT_EQ(widened(bytes, field(bytes, at + 18, 4), extra), behind ? 0 : size);
  if (!behind) return;
  const size_t width = wide ? 8 : 4;
  EXPECT_EQ(field(bytes, record.end, 4), 0x08074b50u);
  EXPECT_EQ(field(bytes, record.end + 4, 4), crc);
  EXPECT_EQ(field(bytes, record.end + 8, width), size);
  EXPECT_EQ(field(bytes, record.end + 8 + width, width), size);
  record.end += 8 + 2 * width;
}

// In the order of the central directory.
inline std::vector<ZipRecord> parse_zip(const std::string& bytes) {
  const size_t tail = bytes.size() - 22;
  EXPECT_EQ(field(bytes, tail, 4), 0x06054b50u);
  uint64_t count = field(bytes, tail + 10, 2), at = field(bytes, tail + 16, 4);
  if (at == 0xffffffff) {
    EXPECT_EQ(field(bytes, tail - 20, 4), 0x07064b50u);
    const uint64_t wide = field(bytes, tail - 12, 8);
    EXPECT_EQ(field(bytes, wide, 4), 0x06064b50u);
    EXPECT_EQ(wide + 56, tail - 20);
    count = field(bytes, wide + 32, 8);
    at = field(bytes, wide + 48, 8);
    EXPECT_EQ(at + field(bytes, wide + 40, 8), wide);
  } else {
    EXPECT_EQ(at + field(bytes, tail + 12, 4), tail);
  }
  std::vector<ZipRecord> records;
  for (; count > 0; --count) {
    EXPECT_EQ(field(bytes, at, 4), 0x02014b50u);
    const size_t name_length = field(bytes, at + 28, 2), extra_length = field(bytes, at + 30, 2);
    ZipRecord record;
    record.name = bytes.substr(at + 46, name_length);
    record.zip64 = extra_length > 0 && field(bytes, at + 46 + name_length, 2) == 1;
    size_t extra = at + 46 + name_length + 4;
    const uint64_t size = widened(bytes, field(bytes, at + 24, 4), extra);
    EXPECT_EQ(widened(bytes, field(bytes, at + 20, 4), extra), size);
    record.header = widened(bytes, field(bytes, at + 42, 4), extra);
    read_local(bytes, size, field(bytes, at + 16, 4), field(bytes, at + 8, 2), record);
    records.push_back(record);
    at += 46 + name_length + extra_length;
  }
  return records;
}

}  // namespace raedit::test
