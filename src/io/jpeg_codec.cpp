// JPEG through libjpeg-turbo, with the settings that Pillow leaves as they are: the accurate integer DCT and smooth
// upsampling of colour. Errors are longjmps, as in png_codec.cpp: the functions that call setjmp keep nothing with a
// destructor of their own.
// Source of the CMYK formula and of its inversion: Pillow, src/libImaging/Convert.c and JpegImagePlugin.py.
#include "io/jpeg_codec.h"

#include <fmt/format.h>

#include <array>
#include <csetjmp>
#include <cstdio>  // jpeglib.h needs it
#include <vector>

#include <jpeglib.h>
// After jpeglib.h, which says what codes there are.
#include <jerror.h>

#include "core/check.h"
#include "io/picture_codec.h"

namespace raedit {
namespace {

// Each scan goes over the whole picture, and a file of some kilobytes can hold thousands of empty ones.
constexpr int kMaxScans = 500;

struct ErrorManager {
  jpeg_error_mgr base;
  std::jmp_buf jump;
  std::array<char, JMSG_LENGTH_MAX> message;
  int code;
};

// libjpeg expects this not to return.
[[noreturn]] void on_error(j_common_ptr jpeg) {
  auto* errors = reinterpret_cast<ErrorManager*>(jpeg->err);
  errors->code = jpeg->err->msg_code;
  jpeg->err->format_message(jpeg, errors->message.data());
  std::longjmp(errors->jump, 1);
}

// After these warnings libjpeg goes on with pixels that it has made up.
bool is_damage(int code) {
  switch (code) {
    case JWRN_ARITH_BAD_CODE:
    case JWRN_BOGUS_PROGRESSION:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_JPEG_EOF:
    case JWRN_MUST_RESYNC: return true;
    default: return false;
  }
}

// A JPEG as others may read it, but not one of 8-bit DCT.
bool is_unsupported(int code) {
  switch (code) {
    case JERR_ARITH_NOTIMPL:
    case JERR_BAD_PRECISION:
    case JERR_CONVERSION_NOTIMPL:
    case JERR_FRACT_SAMPLE_NOTIMPL:
    case JERR_IMAGE_TOO_BIG:
    case JERR_SOF_UNSUPPORTED: return true;
    default: return false;
  }
}

void on_message(j_common_ptr jpeg, int level) {
  if (level < 0 && is_damage(jpeg->err->msg_code)) on_error(jpeg);
}

void print_nothing(j_common_ptr) {}

void on_progress(j_common_ptr jpeg) {
  if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number <= kMaxScans) return;
  auto* errors = reinterpret_cast<ErrorManager*>(jpeg->err);
  fmt::format_to_n(errors->message.data(), errors->message.size(), "more than {} scans", kMaxScans);
  std::longjmp(errors->jump, 1);
}

// a * b / 255, rounded, without a division.
int multiply(int a, int b) {
  const int product = a * b + 128;
  return (product + (product >> 8)) >> 8;
}

// Adobe's programs write inverted inks, and nobody writes others.
void inverted_cmyk_to_rgb(const uint8_t* cmyk, uint8_t* rgb, size_t width) {
  for (size_t i = 0; i < width; ++i) {
    const int white = cmyk[i * 4 + 3];  // 255 - black
    for (size_t c = 0; c < 3; ++c)
      rgb[i * 3 + c] = static_cast<uint8_t>(white - multiply(255 - cmyk[i * 4 + c], white));
  }
}

class JpegReader {
 public:
  JpegReader(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {
    jpeg_.err = jpeg_std_error(&errors_.base);
    errors_.base.error_exit = on_error;
    errors_.base.emit_message = on_message;
    errors_.base.output_message = print_nothing;
    progress_.progress_monitor = on_progress;
  }
  ~JpegReader() { jpeg_destroy_decompress(&jpeg_); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  Image read(int64_t max_pixels) {
    if (!read_header()) fail();
    check_image_size(jpeg_.image_width, jpeg_.image_height, max_pixels, where_);
    const int components = jpeg_.num_components;
    RAEDIT_CHECK(components == 1 || components == 3 || components == 4,
                 {.code = ErrorCode::unsupported,
                  .what = "JPEG image has colours that are not read",
                  .where = where_,
                  .found = fmt::format("{} components", components),
                  .expected = "gray, RGB, YCbCr, CMYK or YCCK"});
    Image image{static_cast<int>(jpeg_.image_width), static_cast<int>(jpeg_.image_height), {}};
    width_ = jpeg_.image_width;
    image.rgb.resize(width_ * jpeg_.image_height * 3);
    rgb_ = image.rgb.data();
    if (components == 4) cmyk_row_.resize(width_ * 4);
    if (!read_pixels()) fail();
    return image;
  }

 private:
  bool read_header() {
    if (setjmp(errors_.jump) != 0) return false;
    jpeg_create_decompress(&jpeg_);
    jpeg_.progress = &progress_;
    jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(bytes_.data()), bytes_.size());
    jpeg_read_header(&jpeg_, TRUE);
    return true;
  }

  bool read_pixels() {
    if (setjmp(errors_.jump) != 0) return false;
    const bool cmyk = !cmyk_row_.empty();
    jpeg_.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&jpeg_);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      uint8_t* to = rgb_ + width_ * 3 * jpeg_.output_scanline;
      JSAMPROW row = cmyk ? cmyk_row_.data() : to;
      jpeg_read_scanlines(&jpeg_, &row, 1);
      if (cmyk) inverted_cmyk_to_rgb(row, to, width_);
    }
    jpeg_finish_decompress(&jpeg_);  // a file without its end is one that lost it
    return true;
  }

  [[noreturn]] void fail() const {
    const std::string message = errors_.message.data();
    if (errors_.code == JERR_OUT_OF_MEMORY)
      raise({.code = ErrorCode::out_of_memory, .what = "no memory for libjpeg", .where = where_, .found = message});
    if (is_unsupported(errors_.code))
      raise({.code = ErrorCode::unsupported,
             .what = "JPEG image of a kind that is not read",
             .where = where_,
             .found = message,
             .expected = "8-bit Huffman or arithmetic DCT"});
    raise({.code = ErrorCode::format,
           .what = "JPEG image is damaged",
           .where = where_,
           .found = message,
           .hint = "download or copy it again"});
  }

  std::string_view bytes_;
  const std::string& where_;
  ErrorManager errors_{};
  jpeg_progress_mgr progress_{};
  jpeg_decompress_struct jpeg_{};
  std::vector<uint8_t> cmyk_row_;
  uint8_t* rgb_ = nullptr;
  size_t width_ = 0;
};

}  // namespace

Image decode_jpeg(std::string_view bytes, const std::string& where, int64_t max_pixels) {
  return JpegReader(bytes, where).read(max_pixels);
}

}  // namespace raedit
