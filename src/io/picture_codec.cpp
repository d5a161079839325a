#include "io/picture_codec.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "io/files.h"
#include "io/jpeg_codec.h"
#include "io/png_codec.h"
#include "io/webp_codec.h"

namespace raedit {
namespace {

using namespace std::string_view_literals;

constexpr auto kPng = "\x89PNG\r\n\x1a\n"sv, kJpeg = "\xff\xd8\xff"sv, kRiff = "RIFF"sv, kWebP = "WEBP"sv;
constexpr size_t kFormAt = 8;  // "RIFF", a length, "WEBP"

// What can be named, to be refused. ISO media files (AVIF, HEIC) begin with a length.
struct Kind {
  size_t at;
  std::string_view magic;
  const char* name;
};
constexpr Kind kOthers[] = {
    {0, "GIF87a"sv, "a GIF file"},
    {0, "GIF89a"sv, "a GIF file"},
    {0, "II*\0"sv, "a TIFF file"},
    {0, "MM\0*"sv, "a TIFF file"},
    {0, "II+\0"sv, "a TIFF file"},
    {0, "MM\0+"sv, "a TIFF file"},
    {4, "ftypavif"sv, "an AVIF file"},
    {4, "ftypavis"sv, "an AVIF file"},
    {4, "ftyphei"sv, "a HEIC file"},
    {4, "ftypmif1"sv, "a HEIC file"},
    {0, "\xff\x0a"sv, "a JPEG XL file"},
    {4, "JXL \r\n\x87\n"sv, "a JPEG XL file"},
    {4, "jP  \r\n"sv, "a JPEG 2000 file"},
    {0, "\xff\x4f\xff"sv, "a JPEG 2000 file"},
    {0, "8BPS"sv, "a Photoshop file"},
    {0, "\0\0\1\0"sv, "an ICO file"},
    {0, "BM"sv, "a BMP file"},
};
constexpr const char* kPortable[] = {"PBM", "PGM", "PPM", "PBM", "PGM", "PPM", "PAM"};  // P1 to P7

std::string name_of_other(std::string_view bytes) {
  for (const auto& [at, magic, name] : kOthers)
    if (bytes.size() >= at && bytes.substr(at).starts_with(magic)) return name;
  const bool portable = bytes.size() >= 3 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '7' &&
                        " \t\r\n#"sv.find(bytes[2]) != std::string_view::npos;
  if (portable) return fmt::format("a {} file", kPortable[bytes[1] - '1']);
  if (bytes.starts_with(kRiff) && bytes.size() >= kFormAt) return "a RIFF file that is not WebP";
  std::string hex;
  for (const char c : bytes.substr(0, 8)) hex += fmt::format(" {:02x}", static_cast<unsigned char>(c));
  return "a file that begins with" + hex;
}

}  // namespace

void check_image_size(int64_t width, int64_t height, int64_t max_pixels, const std::string& where) {
  RAEDIT_CHECK(width <= kMaxImageSide && height <= kMaxImageSide && width * height <= max_pixels,
               {.code = ErrorCode::unsupported,
                .what = "image is too large",
                .where = where,
                .found = fmt::format("{} x {}", width, height),
                .expected = fmt::format("sides up to {}, {} pixels", kMaxImageSide, max_pixels)});
}

Image decode_image(std::string_view bytes, const std::string& where, int64_t max_pixels) {
  if (bytes.starts_with(kPng)) return decode_png(bytes, where, max_pixels);
  if (bytes.starts_with(kJpeg)) return decode_jpeg(bytes, where, max_pixels);
  if (bytes.starts_with(kRiff) && bytes.substr(std::min(kFormAt, bytes.size())).starts_with(kWebP))
    return decode_webp(bytes, where, max_pixels);
  const bool cut = kPng.starts_with(bytes) || kJpeg.starts_with(bytes) || kRiff.starts_with(bytes) ||
                   (bytes.starts_with(kRiff) && kWebP.starts_with(bytes.substr(std::min(kFormAt, bytes.size()))));
  RAEDIT_CHECK(!cut, {.code = ErrorCode::format,
                      .what = bytes.empty() ? "image file is empty" : "image file is truncated",
                      .where = where,
                      .found = fmt::format("{} bytes", bytes.size()),
                      .hint = "download or copy it again"});
  raise({.code = ErrorCode::unsupported,
         .what = "kind of image that is not read",
         .where = where,
         .found = name_of_other(bytes),
         .expected = "PNG, JPEG or WebP"});
}

Image load_image(const std::string& path) {
  return decode_image(read_file(path, kMaxImageFileBytes), path);
}

}  // namespace raedit
