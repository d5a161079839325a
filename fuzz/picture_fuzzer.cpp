// Any bytes as a PNG, JPEG or WebP: the outcome is a picture of the size that was allowed, or an Error.
#include "io/picture_codec.h"
#include "raedit/error.h"

using namespace raedit;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int64_t kMaxPixels = 1 << 18;
  try {
    const Image image = decode_image({reinterpret_cast<const char*>(data), size}, "picture", kMaxPixels);
    const int64_t pixels = int64_t{image.width} * image.height;
    if (image.width < 1 || image.height < 1 || pixels > kMaxPixels) __builtin_trap();
    if (image.rgb.size() != static_cast<size_t>(pixels) * 3) __builtin_trap();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::format && error.code() != ErrorCode::unsupported) __builtin_trap();
  }
  return 0;
}
