// What image.cpp and png_codec.cpp share.
#pragma once

#include <cstdint>
#include <string>

#include "raedit/image.h"

namespace raedit {

inline constexpr int64_t kMaxImageSide = 32768;
inline constexpr int64_t kMaxImagePixels = int64_t{1} << 27;

// The image has been checked.
void write_png_file(const Image& image, const std::string& path, const PngText& text);

}  // namespace raedit
