// Pictures: 8-bit RGB in memory, PNG (and, to be read, JPEG and WebP) on disk, and the way from and to tensors.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "raedit/export.h"
#include "raedit/tensor.h"

namespace raedit {

// Row by row from the top, three bytes a pixel.
struct Image {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> rgb;

  friend bool operator==(const Image&, const Image&) = default;
};

// Keyword and text, both UTF-8, in the order of the file.
using PngText = std::vector<std::pair<std::string, std::string>>;

// Every PNG becomes 8-bit RGB as with Pillow's convert("RGB"): gray and palettes expanded, alpha dropped. Of 16-bit
// samples the upper byte is kept, for gray ones too (Pillow clips those to white). Throws Error(format) for what is not
// a whole, undamaged PNG, Error(unsupported) for sides over 32768 or more than 2^27 pixels.
RAEDIT_API Image load_png(const std::string& path);
// The file appears whole or not at all. Equal images and texts give equal bytes.
RAEDIT_API void save_png(const Image& image, const std::string& path, const PngText& text = {});
RAEDIT_API PngText load_png_text(const std::string& path);

// A PNG, JPEG or WebP, told apart by how the file begins, as 8-bit RGB: what Pillow's convert("RGB") makes of it, but
// for 16-bit PNG (above). The orientation and colour profile that a file may name are not applied; of an animated WebP
// it is the first frame. Throws as load_png() does, and Error(unsupported) for any other kind of file, naming it.
// Stricter than Pillow with a JPEG whose data do not decode: Error(format) instead of made-up pixels.
RAEDIT_API Image load_image(const std::string& path);

// [3, H, W] floating point in [0, 1], clamped, times 255, rounded half to even (as numpy does); NaN becomes 0.
RAEDIT_API Image to_image(const Tensor& chw);
// [3, H, W] float32 in [0, 1].
RAEDIT_API Tensor to_tensor(const Image& image);

// Row by row from the top left, `padding` black pixels between pictures; all must have one size. `columns` 0: as many
// as make the grid square or one wider.
RAEDIT_API Image make_grid(const std::vector<Image>& images, int columns = 0, int padding = 0);

}  // namespace raedit
