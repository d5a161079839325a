// WebP through libwebp: the container by its demuxer, then the one frame that is wanted.
#include "io/webp_codec.h"

#include <fmt/format.h>
#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "core/check.h"
#include "io/picture_codec.h"

namespace raedit {
namespace {

struct DeleteDemuxer {
  void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
};
using Demuxer = std::unique_ptr<WebPDemuxer, DeleteDemuxer>;

class Frame {
 public:
  explicit Frame(const WebPDemuxer* demuxer) : found_(WebPDemuxGetFrame(demuxer, 1, &frame_) != 0) {}
  ~Frame() { WebPDemuxReleaseIterator(&frame_); }
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;
  explicit operator bool() const { return found_; }
  const WebPIterator* operator->() const { return &frame_; }

 private:
  WebPIterator frame_{};
  bool found_;
};

[[noreturn]] void fail(const std::string& where, const std::string& found) {
  raise({.code = ErrorCode::format,
         .what = "WebP image is damaged",
         .where = where,
         .found = found,
         .hint = "download or copy it again"});
}

Demuxer open(std::string_view bytes, const std::string& where) {
  const WebPData data{reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
  WebPDemuxState state = WEBP_DEMUX_PARSE_ERROR;
  Demuxer demuxer(WebPDemuxPartial(&data, &state));
  if (state == WEBP_DEMUX_PARSE_ERROR) fail(where, "its chunks contradict each other");
  if (state != WEBP_DEMUX_DONE) fail(where, "the file ends too early");
  RAEDIT_CHECK(demuxer != nullptr, {.code = ErrorCode::out_of_memory, .what = "no memory for libwebp", .where = where});
  return demuxer;
}

void check_status(VP8StatusCode status, const std::string& where) {
  if (status == VP8_STATUS_OK) return;
  RAEDIT_CHECK(status != VP8_STATUS_OUT_OF_MEMORY,
               {.code = ErrorCode::out_of_memory, .what = "no memory for libwebp", .where = where});
  const bool cut = status == VP8_STATUS_NOT_ENOUGH_DATA || status == VP8_STATUS_SUSPENDED;
  fail(where, cut ? "its pixels end too early" : fmt::format("its pixels do not decode, status {}", int{status}));
}

}  // namespace

Image decode_webp(std::string_view bytes, const std::string& where, int64_t max_pixels) {
  const Demuxer demuxer = open(bytes, where);
  const int64_t width = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH);
  const int64_t height = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT);
  check_image_size(width, height, max_pixels, where);
  const Frame frame(demuxer.get());
  if (!frame || width < 1 || height < 1) fail(where, "it has no frame");

  WebPDecoderConfig config;
  if (WebPInitDecoderConfig(&config) == 0)
    raise({.code = ErrorCode::internal, .what = "libwebp is not the one that was built with", .where = where});
  check_status(WebPGetFeatures(frame->fragment.bytes, frame->fragment.size, &config.input), where);
  const int64_t left = frame->x_offset, top = frame->y_offset;
  const bool fits = config.input.width == frame->width && config.input.height == frame->height && left >= 0 &&
                    top >= 0 && left + frame->width <= width && top + frame->height <= height;
  if (!fits) fail(where, "a frame has another size than the file says");

  // What the frame leaves free stays black: transparent black of which the alpha is dropped.
  Image image{static_cast<int>(width), static_cast<int>(height), {}};
  const size_t stride = static_cast<size_t>(width) * 3;
  image.rgb.resize(stride * static_cast<size_t>(height));
  const size_t begin = static_cast<size_t>(top) * stride + static_cast<size_t>(left) * 3;
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA = {image.rgb.data() + begin, static_cast<int>(stride), image.rgb.size() - begin};
  check_status(WebPDecode(frame->fragment.bytes, frame->fragment.size, &config), where);
  return image;
}

}  // namespace raedit
