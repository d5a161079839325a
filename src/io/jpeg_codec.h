#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "raedit/image.h"

namespace raedit {

// Bytes that begin like a JPEG.
Image decode_jpeg(std::string_view bytes, const std::string& where, int64_t max_pixels);

}  // namespace raedit
