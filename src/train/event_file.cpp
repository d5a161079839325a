#include "train/event_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cctype>
#include <chrono>
#include <filesystem>

#include "core/check.h"
#include "core/json.h"
#include "io/files.h"

namespace raedit::train {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0u);
    table[i] = crc;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

// Masked, because a CRC over data that holds its own CRC says little.
uint32_t masked_crc32c(std::string_view data) {
  uint32_t crc = ~0u;
  for (const char c : data) crc = crc >> 8 ^ kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  return std::rotr(~crc, 15) + 0xa282ead8u;
}

template <class T>
std::string little_endian(T value) {
  std::string bytes;
  for (size_t i = 0; i < sizeof(T); ++i) bytes += static_cast<char>(value >> 8 * i & 0xff);
  return bytes;
}

std::string record(std::string_view data) {
  const std::string length = little_endian<uint64_t>(data.size());
  std::string bytes = length + little_endian(masked_crc32c(length));
  bytes += data;
  return bytes + little_endian(masked_crc32c(data));
}

// Protobuf's wire format. A number that is 0 is left out, as other writers do; not so the float, which is a member of a
// oneof.
enum Wire : uint64_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7f) | 0x80);
  return bytes + static_cast<char>(value);
}

std::string key(uint64_t field, Wire wire) {
  return varint(field << 3 | wire);
}

std::string int_field(uint64_t field, int64_t value) {
  return value == 0 ? "" : key(field, kVarint) + varint(static_cast<uint64_t>(value));
}

std::string double_field(uint64_t field, double value) {
  return value == 0 ? "" : key(field, kFixed64) + little_endian(std::bit_cast<uint64_t>(value));
}

std::string float_field(uint64_t field, float value) {
  return key(field, kFixed32) + little_endian(std::bit_cast<uint32_t>(value));
}

std::string bytes_field(uint64_t field, std::string_view value) {
  return key(field, kBytes) + varint(value.size()).append(value);
}

// Event: wall_time 1, step 2, and one of file_version 3, summary 5, session_log 7.
// Summary: value 1. Summary.Value: tag 1, and one of simple_value 2, image 4. SessionLog: status 1.
// Summary.Image: height 1, width 2, colorspace 3, encoded_image_string 4.
constexpr int64_t kSessionStart = 1;
constexpr int64_t kRgb = 3;

std::string tag_field(const std::string& tag) {
  const bool utf8 = [&] {
    try {
      return !Json(tag).dump().empty();
    } catch (const Json::exception&) {
      return false;
    }
  }();
  RAEDIT_CHECK(utf8 && !tag.empty(), {.code = ErrorCode::invalid_argument,
                                      .what = "not a tag for TensorBoard",
                                      .found = tag.empty() ? "an empty text"
                                               : utf8      ? tag
                                                           : "bytes that are not UTF-8",
                                      .expected = "UTF-8 text"});
  return bytes_field(1, tag);
}

int64_t big_endian32(std::string_view bytes) {
  int64_t value = 0;
  for (const char c : bytes.substr(0, 4)) value = value << 8 | static_cast<unsigned char>(c);
  return value;
}

std::string host_name() {
  std::array<char, 256> buffer{};
  if (::gethostname(buffer.data(), buffer.size() - 1) != 0 || buffer[0] == '\0') return "localhost";
  std::string name = buffer.data();
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '.') c = '_';
  return name;
}

double system_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Zeros in front, because TensorBoard reads the files of a folder in the order of their names.
AppendFile new_file(const std::string& folder, double now) {
  create_directories(folder);
  const std::string stem = (std::filesystem::path(folder) / "events.out.tfevents").string();
  for (int count = 0;; ++count) {
    AppendFile file = AppendFile::create_new(
        fmt::format("{}.{:010d}.{}.{}.{}", stem, static_cast<int64_t>(now), host_name(), ::getpid(), count));
    if (file.is_open()) return file;
  }
}

}  // namespace

EventFile::EventFile(const std::string& folder, std::optional<int64_t> resume_step, Clock clock)
    : clock_(clock ? std::move(clock) : system_time), file_(new_file(folder, clock_())) {
  write_event(0, bytes_field(3, "brain.Event:2"));
  if (resume_step) write_event(*resume_step + 1, bytes_field(7, int_field(1, kSessionStart)));
}

void EventFile::write_event(int64_t step, std::string_view what) {
  file_.append(record((double_field(1, clock_()) + int_field(2, step)).append(what)));
}

void EventFile::add_scalar(int64_t step, const std::string& tag, float value) {
  add_scalars(step, {{tag, value}});
}

void EventFile::add_scalars(int64_t step, const Scalars& scalars) {
  if (scalars.empty()) return;
  std::string summary;
  for (const auto& [tag, value] : scalars) summary += bytes_field(1, tag_field(tag) + float_field(2, value));
  write_event(step, bytes_field(5, summary));
}

void EventFile::add_png(int64_t step, const std::string& tag, std::string_view png) {
  constexpr std::string_view kSignature = "\x89PNG\r\n\x1a\n";
  constexpr size_t kWidthAt = 16, kHeightAt = 20, kHeadBytes = 24;  // of the first chunk, IHDR
  RAEDIT_CHECK(png.size() >= kHeadBytes && png.starts_with(kSignature),
               {.code = ErrorCode::invalid_argument, .what = "not the bytes of a PNG file", .where = tag});
  const std::string image = int_field(1, big_endian32(png.substr(kHeightAt))) +
                            int_field(2, big_endian32(png.substr(kWidthAt))) + int_field(3, kRgb) + bytes_field(4, png);
  write_event(step, bytes_field(5, bytes_field(1, tag_field(tag) + bytes_field(4, image))));
}

}  // namespace raedit::train
