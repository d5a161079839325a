// PNG through libpng. Its errors are longjmps: the functions that call setjmp keep nothing with a destructor of their
// own and leave every buffer to the object that outlives the jump.
#include "io/png_codec.h"

#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <new>
#include <vector>

#include "core/check.h"
#include "core/json.h"
#include "io/files.h"
#include "io/picture_codec.h"

namespace raedit {
namespace {

constexpr size_t kSignatureBytes = 8;

// A few KiB of zTXt unpack to as many MiB, and libpng keeps a thousand such chunks: both are bounded.
constexpr png_alloc_size_t kMostChunkBytes = png_alloc_size_t{8} << 20;
constexpr png_uint_32 kMostTexts = 32;

enum class Texts { skipped, kept };

// libpng hands over the message and expects not to return.
[[noreturn]] void on_error(png_structp png, png_const_charp message) {
  *static_cast<std::string*>(png_get_error_ptr(png)) = message;
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

std::string latin1_to_utf8(const char* text, size_t length) {
  std::string utf8;
  for (size_t i = 0; i < length; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte < 0x80) {
      utf8 += text[i];
    } else {
      utf8 += static_cast<char>(0xc0 | byte >> 6);
      utf8 += static_cast<char>(0x80 | (byte & 0x3f));
    }
  }
  return utf8;
}

class PngReader {
 public:
  // Both must outlive it.
  PngReader(std::string_view content, const std::string& where, Texts texts)
      : path_(where), content_(content), texts_(texts) {
    const auto* bytes = reinterpret_cast<png_const_bytep>(content_.data());
    RAEDIT_CHECK(content_.size() >= kSignatureBytes && png_sig_cmp(bytes, 0, kSignatureBytes) == 0,
                 {.code = ErrorCode::format, .what = "is not a PNG image", .where = path_});
    check_chunks();
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, &message_, on_error, on_warning);
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      raise({.code = ErrorCode::out_of_memory, .what = "no memory for libpng", .where = path_});
    }
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  Image read(int64_t max_pixels = kMaxImagePixels) {
    if (!read_info()) fail();
    const int64_t width = png_get_image_width(png_, info_), height = png_get_image_height(png_, info_);
    check_image_size(width, height, max_pixels, path_);
    Image image{static_cast<int>(width), static_cast<int>(height), {}};
    const size_t row_bytes = static_cast<size_t>(width) * 3;
    image.rgb.resize(row_bytes * static_cast<size_t>(height));
    for (int64_t row = 0; row < height; ++row) rows_.push_back(image.rgb.data() + static_cast<size_t>(row) * row_bytes);
    row_bytes_ = row_bytes;
    if (!read_pixels()) fail();
    return image;
  }

  PngText text() const {
    PngText result;
    png_textp items = nullptr;
    const int count = png_get_text(png_, info_, &items, nullptr);
    for (int i = 0; i < count; ++i) {
      const png_text& item = items[i];
      const bool utf8 = item.compression >= PNG_ITXT_COMPRESSION_NONE;
      const char* text = item.text != nullptr ? item.text : "";
      const size_t length = utf8 ? item.itxt_length : item.text_length;
      result.emplace_back(latin1_to_utf8(item.key, std::strlen(item.key)),
                          utf8 ? std::string(text, length) : latin1_to_utf8(text, length));
    }
    return result;
  }

 private:
  static void on_read(png_structp png, png_bytep to, size_t bytes) {
    auto* self = static_cast<PngReader*>(png_get_io_ptr(png));
    if (bytes > self->content_.size() - self->position_) png_error(png, "the file ends too early");
    std::memcpy(to, self->content_.data() + self->position_, bytes);
    self->position_ += bytes;
  }

  // libpng takes memory for a chunk by the length that the chunk claims, before it looks how long the file is.
  void check_chunks() {
    constexpr size_t kAround = 12;  // length, type, checksum
    size_t at = kSignatureBytes;
    while (content_.size() - at >= kAround) {
      const size_t length = png_get_uint_32(reinterpret_cast<png_const_bytep>(content_.data()) + at);
      if (length > content_.size() - at - kAround) break;
      if (content_.compare(at + 4, 4, "IEND") == 0) return;
      at += kAround + length;
    }
    message_ = "the file ends too early";
    fail();
  }

  bool read_info() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_read_fn(png_, this, on_read);
    // The size is ours to check, with a message of ours.
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    png_set_chunk_malloc_max(png_, kMostChunkBytes);
    png_set_chunk_cache_max(png_, kMostTexts);
    // Nothing of colour profiles and what else is not pixels is used: it is not even unpacked.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    constexpr png_byte kTextChunks[] = "tEXt\0zTXt\0iTXt";
    if (texts_ == Texts::kept) png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_AS_DEFAULT, kTextChunks, 3);
    png_read_info(png_, info_);
    return true;
  }

  bool read_pixels() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_strip_16(png_);
    png_set_palette_to_rgb(png_);
    png_set_expand_gray_1_2_4_to_8(png_);
    png_set_gray_to_rgb(png_);
    png_set_strip_alpha(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    if (png_get_rowbytes(png_, info_) != row_bytes_) png_error(png_, "rows have an unexpected length");
    png_read_image(png_, rows_.data());
    png_read_end(png_, info_);
    return true;
  }

  [[noreturn]] void fail() const {
    raise({.code = ErrorCode::format,
           .what = "PNG image is damaged",
           .where = path_,
           .found = message_,
           .hint = "download or copy it again"});
  }

  const std::string& path_;
  std::string_view content_;
  Texts texts_;
  std::string message_;
  size_t position_ = 0;
  size_t row_bytes_ = 0;
  std::vector<png_bytep> rows_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

class PngEncoder {
 public:
  PngEncoder(const Image& image, const std::string& path, const PngText& text) : image_(image), path_(path) {
    for (const auto& [key, value] : text) add_text(key, value);
    for (size_t row = 0; row < static_cast<size_t>(image.height); ++row)
      rows_.push_back(const_cast<png_bytep>(image.rgb.data()) + row * static_cast<size_t>(image.width) * 3);
    png_ = png_create_write_struct(PNG_LIBPNG_VER_STRING, &message_, on_error, on_warning);
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_write_struct(&png_, nullptr);
      raise({.code = ErrorCode::out_of_memory, .what = "no memory for libpng", .where = path_});
    }
  }
  ~PngEncoder() { png_destroy_write_struct(&png_, &info_); }
  PngEncoder(const PngEncoder&) = delete;
  PngEncoder& operator=(const PngEncoder&) = delete;

  const std::string& encode() {
    RAEDIT_CHECK(
        encode_all(),
        {.code = ErrorCode::internal, .what = "PNG image cannot be encoded", .where = path_, .found = message_});
    return content_;
  }

 private:
  // The PNG specification's keyword: 1 to 79 characters, spaces single and inside. The text: no NUL.
  void add_text(const std::string& key, const std::string& value) {
    const bool printable = std::all_of(key.begin(), key.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
    const bool spaces_ok = !key.starts_with(' ') && !key.ends_with(' ') && key.find("  ") == key.npos;
    RAEDIT_CHECK(!key.empty() && key.size() <= 79 && printable && spaces_ok && value.find('\0') == value.npos,
                 {.code = ErrorCode::invalid_argument,
                  .what = "text does not fit into a PNG image",
                  .where = path_,
                  .found = "keyword '" + key + "'",
                  .expected = "a keyword of 1 to 79 ASCII characters and a text without NUL"});
    const bool ascii =
        std::all_of(value.begin(), value.end(), [](char c) { return (c >= 0x20 && c < 0x7f) || c == '\n'; });
    if (!ascii) check_utf8(key, value);
    png_text item{};
    item.compression = ascii ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
    item.key = const_cast<char*>(key.c_str());
    item.text = const_cast<char*>(value.c_str());
    (ascii ? item.text_length : item.itxt_length) = value.size();
    text_.push_back(item);
  }

  void check_utf8(const std::string& key, const std::string& value) const {
    try {
      (void)Json(value).dump();
    } catch (const Json::exception&) {
      raise({.code = ErrorCode::invalid_argument, .what = "text '" + key + "' is not UTF-8", .where = path_});
    }
  }

  static void on_write(png_structp png, png_bytep from, size_t bytes) {
    auto* self = static_cast<PngEncoder*>(png_get_io_ptr(png));
    try {
      self->content_.append(reinterpret_cast<const char*>(from), bytes);
      return;
    } catch (const std::bad_alloc&) {  // must not pass through libpng
    }
    png_error(png, "out of memory");
  }

  bool encode_all() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_write_fn(png_, this, on_write, nullptr);
    png_set_IHDR(png_, info_, static_cast<png_uint_32>(image_.width), static_cast<png_uint_32>(image_.height), 8,
                 PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (!text_.empty()) png_set_text(png_, info_, text_.data(), static_cast<int>(text_.size()));
    png_write_info(png_, info_);
    png_write_image(png_, rows_.data());
    png_write_end(png_, info_);
    return true;
  }

  const Image& image_;
  std::string path_;
  std::string content_;
  std::string message_;
  std::vector<png_text> text_;  // looks into the caller's strings
  std::vector<png_bytep> rows_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

}  // namespace

Image decode_png(std::string_view bytes, const std::string& where, int64_t max_pixels) {
  return PngReader(bytes, where, Texts::skipped).read(max_pixels);
}

Image load_png(const std::string& path) {
  return decode_png(read_file(path, kMaxImageFileBytes), path, kMaxImagePixels);
}

PngText load_png_text(const std::string& path) {
  const std::string content = read_file(path, kMaxImageFileBytes);
  PngReader reader(content, path, Texts::kept);
  (void)reader.read();  // text may stand after the pixels, and a damaged file has none to trust
  return reader.text();
}

void write_png_file(const Image& image, const std::string& path, const PngText& text) {
  write_file(path, PngEncoder(image, path, text).encode());
}

}  // namespace raedit
