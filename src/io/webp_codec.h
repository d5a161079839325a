#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "raedit/image.h"

namespace raedit {

// Bytes that begin like a WebP. Of an animation the first frame, on black.
Image decode_webp(std::string_view bytes, const std::string& where, int64_t max_pixels);

}  // namespace raedit
