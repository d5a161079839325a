#include "data/tar_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"

namespace raedit::data {
namespace {

constexpr uint64_t kBlock = 512;
// Header, class and next header of a sample mostly come with one read.
constexpr uint64_t kWindow = 4096;
constexpr size_t kMaxNameBytes = 4096;
constexpr size_t kMaxRecordBytes = size_t{1} << 20;

struct Field {
  size_t offset, size;
};
constexpr Field kName{0, 100}, kSize{124, 12}, kChecksum{148, 8}, kMagic{257, 6}, kPrefix{345, 155};
constexpr size_t kType = 156;

std::string_view field(std::string_view block, Field f) {
  return block.substr(f.offset, f.size);
}

std::string_view until_zero(std::string_view text) {
  return text.substr(0, text.find('\0'));
}

// Octal digits among spaces and zero bytes, or GNU's base 256; nothing for negative and too large ones.
std::optional<uint64_t> number(std::string_view text) {
  uint64_t value = 0;
  if ((static_cast<unsigned char>(text[0]) & 0x80) != 0) {
    if (text[0] != '\x80') return std::nullopt;
    for (const char c : text.substr(1)) {
      if (value >> 55 != 0) return std::nullopt;
      value = value << 8 | static_cast<unsigned char>(c);
    }
    return value;
  }
  const size_t begin = std::min(text.find_first_not_of(' '), text.size());
  const size_t end = std::min(text.find_first_of(std::string_view(" \0", 2), begin), text.size());
  for (const char c : text.substr(begin, end - begin)) {
    if (c < '0' || c > '7') return std::nullopt;
    value = value << 3 | static_cast<uint64_t>(c - '0');  // 12 digits at most
  }
  return value;
}

// Some old programs added up signed bytes.
bool checksum_fits(std::string_view block) {
  const std::optional<uint64_t> stored = number(field(block, kChecksum));
  int64_t plain = 0, with_sign = 0;
  for (size_t i = 0; i < block.size(); ++i) {
    const bool own = i >= kChecksum.offset && i < kChecksum.offset + kChecksum.size;
    plain += own ? ' ' : static_cast<unsigned char>(block[i]);
    with_sign += own ? ' ' : static_cast<signed char>(block[i]);
  }
  return stored && (static_cast<int64_t>(*stored) == plain || static_cast<int64_t>(*stored) == with_sign);
}

int open_regular(const std::string& path, uint64_t& size) {
  // Non-blocking, so that a pipe in place of the file is an error and not a hang.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) raise_read_error("cannot open", path, errno);
  struct stat status {};
  const bool known = ::fstat(fd, &status) == 0;
  if (known && S_ISREG(status.st_mode)) {
    size = static_cast<uint64_t>(status.st_size);
    return fd;
  }
  const int error_number = known ? EINVAL : errno;
  ::close(fd);
  RAEDIT_CHECK(!known, {.code = ErrorCode::io, .what = "is not a regular file", .where = path});
  raise_read_error("cannot read", path, error_number);
}

// As much as there is, up to `size` bytes.
std::string read_at(int fd, const std::string& path, uint64_t offset, uint64_t size) {
  std::string content(size, '\0');
  size_t used = 0;
  while (used < content.size()) {
    const ssize_t got = ::pread(fd, content.data() + used, content.size() - used, static_cast<off_t>(offset + used));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) raise_read_error("cannot read", path, errno);
    if (got == 0) break;
    used += static_cast<size_t>(got);
  }
  content.resize(used);
  return content;
}

std::string read_exactly(int fd, const std::string& path, uint64_t offset, uint64_t size) {
  std::string content = read_at(fd, path, offset, size);
  RAEDIT_CHECK(content.size() == size, {.code = ErrorCode::io,
                                        .what = "file has become shorter while it was in use",
                                        .where = path,
                                        .found = fmt::format("{} bytes at offset {}", content.size(), offset),
                                        .expected = fmt::format("{} bytes", size)});
  return content;
}

// What a file begins with: the name of a compression, or nothing.
std::string_view compression_of(std::string_view start) {
  using namespace std::string_view_literals;
  constexpr std::array<std::pair<std::string_view, std::string_view>, 5> kMarks = {{{"\x1f\x8b"sv, "gzip"},
                                                                                    {"\x28\xb5\x2f\xfd"sv, "zstd"},
                                                                                    {"\3757zXZ"sv, "xz"},
                                                                                    {"BZh"sv, "bzip2"},
                                                                                    {"\x04\x22\x4d\x18"sv, "lz4"}}};
  for (const auto& [mark, name] : kMarks)
    if (start.starts_with(mark)) return name;
  return {};
}

}  // namespace

std::string read_range(const std::string& path, uint64_t offset, uint64_t size) {
  uint64_t file_size = 0;
  const int fd = open_regular(path, file_size);
  struct Closed {
    int fd;
    ~Closed() { ::close(fd); }
  } const guard{fd};
  return read_exactly(fd, path, offset, size);
}

TarReader::TarReader(std::string path) : path_(std::move(path)) {
  fd_ = open_regular(path_, end_);
  try {
    window_ = read_at(fd_, path_, 0, kWindow);
    const std::string_view compression = window_.size() < kBlock || !checksum_fits(window_.substr(0, kBlock))
                                             ? compression_of(window_)
                                             : std::string_view();
    RAEDIT_CHECK(compression.empty(), {.code = ErrorCode::unsupported,
                                       .what = "shards that are compressed cannot be read",
                                       .where = path_,
                                       .found = std::string(compression),
                                       .expected = "a plain .tar, of which pictures are read where they lie",
                                       .hint = "unpack it: JPEG, PNG and WebP hardly get smaller"});
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

TarReader::~TarReader() {
  ::close(fd_);
}

void TarReader::fail(const std::string& what, const std::string& found) const {
  raise({.code = ErrorCode::format,
         .what = fmt::format("damaged tar archive at byte {}: {}", at_, what),
         .where = path_,
         .found = found,
         .hint = "copy or download it again"});
}

std::string_view TarReader::header(uint64_t offset) {
  if (offset > end_ || end_ - offset < kBlock) fail("it ends too early", fmt::format("{} bytes", end_));
  if (offset < window_offset_ || offset + kBlock > window_offset_ + window_.size()) {
    window_ = read_at(fd_, path_, offset, kWindow);
    window_offset_ = offset;
    if (window_.size() < kBlock) fail("it ends too early");
  }
  return std::string_view(window_).substr(offset - window_offset_, kBlock);
}

std::string TarReader::extension(uint64_t size, size_t max_bytes, const char* what) const {
  if (size > max_bytes) fail(fmt::format("a {} of more than {} bytes", what, max_bytes), fmt::format("{} bytes", size));
  return read_exactly(fd_, path_, at_ + kBlock, size);
}

// Each record is "LENGTH KEY=VALUE\n", where LENGTH counts all of it.
void TarReader::read_records(uint64_t size, Records& records) const {
  const std::string content = extension(size, kMaxRecordBytes, "pax header");
  std::string_view rest = content;
  while (!rest.empty() && rest[0] != '\0') {
    const size_t space = rest.find(' ');
    const std::optional<size_t> length = space == rest.npos ? std::nullopt : number_of<size_t>(rest.substr(0, space));
    if (!length || *length <= space + 1 || *length > rest.size() || rest[*length - 1] != '\n')
      fail("a pax record is wrong", fmt::format("length '{}'", rest.substr(0, std::min<size_t>(space, 20))));
    const std::string_view record = rest.substr(space + 1, *length - space - 2);
    const size_t equals = record.find('=');
    if (equals == record.npos) fail("a pax record is wrong", "no '='");
    const std::string_view key = record.substr(0, equals), value = record.substr(equals + 1);
    if (key.starts_with("GNU.sparse."))
      raise({.code = ErrorCode::unsupported, .what = "sparse files in a tar archive cannot be read", .where = path_});
    if (key == "path" || key == "size") records[std::string(key)] = value;
    rest.remove_prefix(*length);
  }
}

// What stands in the header and was said of it before. False for what is no regular file.
bool TarReader::take(std::string_view block, uint64_t header_size, TarMember& member) {
  const auto record = [&](std::string_view key) -> std::string {
    for (const Records* records : {&local_, &global_})
      if (const auto found = records->find(key); found != records->end()) return found->second;
    return {};
  };
  const char type = block[kType];
  member.name = record("path");
  if (member.name.empty()) member.name = long_name_;
  if (member.name.empty()) {
    const std::string_view prefix = until_zero(field(block, kPrefix));
    if (field(block, kMagic) == std::string_view("ustar\0", 6) && !prefix.empty())
      member.name = std::string(prefix) + "/";
    member.name += until_zero(field(block, kName));
  }
  if (member.name.size() > kMaxNameBytes || member.name.find('\0') != member.name.npos)
    fail("the name of a member is wrong", fmt::format("{} bytes", member.name.size()));
  member.size = header_size;
  if (const std::string size = record("size"); !size.empty()) {
    const std::optional<uint64_t> value = number_of<uint64_t>(size);
    if (!value) fail("the size of a member is wrong", "'" + size.substr(0, 20) + "'");
    member.size = *value;
  }
  // Links, folders and devices have no bytes, whatever their header says.
  if (type >= '1' && type <= '6') member.size = 0;
  local_.clear();
  long_name_.clear();
  const bool old_folder = type == '\0' && member.name.ends_with('/');
  return (type == '0' || type == '\0' || type == '7') && !old_folder && !member.name.empty();
}

bool TarReader::next(TarMember& member) {
  for (;;) {
    const std::string_view block = header(at_);
    if (block.find_first_not_of('\0') == block.npos) return false;
    if (!checksum_fits(block)) fail("the checksum of a header is wrong");
    const std::optional<uint64_t> header_size = number(field(block, kSize));
    if (!header_size) fail("the size of a member is wrong");
    const char type = block[kType];
    if (type == 'S')
      raise({.code = ErrorCode::unsupported, .what = "sparse files in a tar archive cannot be read", .where = path_});
    uint64_t size = *header_size;
    bool is_file = false;
    const uint64_t room = end_ - at_ - kBlock;
    const bool about_next = type == 'x' || type == 'X' || type == 'g' || type == 'L';
    if (about_next && size > room) fail("it ends too early", fmt::format("a header of {} bytes", size));
    if (type == 'x' || type == 'X') {
      read_records(size, local_);
    } else if (type == 'g') {
      read_records(size, global_);
    } else if (type == 'L') {
      long_name_ = until_zero(extension(size, kMaxNameBytes + 1, "name"));
    } else if (type != 'K') {
      is_file = take(block, size, member);
      size = member.size;
    }
    if (size > room) fail("it ends too early", fmt::format("{} bytes where {} are announced", room, size));
    member.offset = at_ + kBlock;
    // The last member of a file that was cut may lack its padding; the next header is then missing, too.
    at_ = member.offset + (size + kBlock - 1) / kBlock * kBlock;
    if (is_file) return true;
  }
}

std::string TarReader::read(const TarMember& member, size_t max_bytes) const {
  RAEDIT_CHECK(member.size <= max_bytes, {.code = ErrorCode::format,
                                          .what = "member of a tar archive is too large",
                                          .where = path_ + ": " + member.name,
                                          .found = fmt::format("{} bytes", member.size),
                                          .expected = fmt::format("at most {} bytes", max_bytes)});
  if (member.offset >= window_offset_ && member.offset + member.size <= window_offset_ + window_.size())
    return window_.substr(member.offset - window_offset_, member.size);
  return read_exactly(fd_, path_, member.offset, member.size);
}

}  // namespace raedit::data
