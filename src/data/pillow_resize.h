// Pillow's Image.resize of 8-bit RGB, byte for byte: upstream's training and torchvision see pictures through it.
// Source: Pillow src/libImaging/Resample.c (the formulas).
#pragma once

#include "raedit/image.h"

namespace raedit::data {

enum class PillowFilter { box, bilinear, bicubic, lanczos };

// Along x first, then along y, as Pillow 11.3 and 12.1 do; 12.2 takes y first in pictures more than a hundred times as
// high as wide, 13.0 in many that lose height, with other bytes. Throws Error(invalid_argument) for a picture that is
// not one, sides below 1 and results of more than 2^27 pixels.
Image pillow_resize(const Image& image, int width, int height, PillowFilter filter);

// Throws Error(invalid_argument) for a picture without pixels or with another number of bytes than its size asks for.
void check_picture(const Image& image);

}  // namespace raedit::data
