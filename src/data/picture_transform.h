// From a picture of any size to the square that a model is trained on: torchvision's transforms on PIL pictures and
// the centre crop of guided-diffusion, with their rounding and their draws. Then comes to_tensor (raedit/image.h).
// Source: torchvision transforms/functional.py and transforms.py; openai/guided-diffusion image_datasets.py
// (center_crop_arr, used by bytetriper/RAE).
#pragma once

#include "data/pillow_resize.h"
#include "raedit/generator.h"
#include "raedit/image.h"

namespace raedit::data {

// All of these throw Error(invalid_argument) for a size below 1 and for a picture that is not one.

// Resize(size): the shorter side becomes `size`, the longer one size * long / short, rounded down.
Image resize_shorter_side(const Image& image, int size, PillowFilter filter = PillowFilter::bicubic);

// The part from (left, top) on. Throws Error(invalid_argument) where it is not within the picture.
Image crop(const Image& image, int left, int top, int width, int height);

// CenterCrop(size): half a pixel is rounded to even; black is added around smaller pictures.
Image center_crop(const Image& image, int size);

// RandomCrop(size): draws the top, then the left; nothing for a picture of just that size. Throws
// Error(invalid_argument) for smaller ones.
Image random_crop(const Image& image, int size, Generator& generator);

Image horizontal_flip(const Image& image);
// RandomHorizontalFlip(probability): one uniform number.
Image random_horizontal_flip(const Image& image, Generator& generator, double probability = 0.5);

// Halved with the box filter while both sides stay at or above `size`, then bicubic, then the middle.
Image adm_center_crop(const Image& image, int size);

}  // namespace raedit::data
