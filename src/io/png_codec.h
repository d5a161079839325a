#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "raedit/image.h"

namespace raedit {

// Throws Error(format) for what does not begin like a PNG, too.
Image decode_png(std::string_view bytes, const std::string& where, int64_t max_pixels);
// The image has been checked.
void write_png_file(const Image& image, const std::string& path, const PngText& text);

}  // namespace raedit
