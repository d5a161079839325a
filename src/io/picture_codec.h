// Pictures as bytes, of any kind that is read: told apart by how they begin, not by what a file is called.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "raedit/image.h"

namespace raedit {

inline constexpr int64_t kMaxImageSide = 32768;
inline constexpr int64_t kMaxImagePixels = int64_t{1} << 27;
inline constexpr size_t kMaxImageFileBytes = size_t{1} << 30;

// PNG, JPEG or WebP; load_image() says what becomes of it. `where` is what messages call it: a path, or
// "shard.tar: member". A picture of more than `max_pixels` is refused before memory is taken for it.
Image decode_image(std::string_view bytes, const std::string& where, int64_t max_pixels = kMaxImagePixels);

// Throws Error(unsupported) for a picture that is too large.
void check_image_size(int64_t width, int64_t height, int64_t max_pixels, const std::string& where);

}  // namespace raedit
