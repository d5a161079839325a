#include "data/picture_transform.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace raedit::data {
namespace {

void check_size(const Image& image, int size) {
  check_picture(image);
  RAEDIT_CHECK(size >= 1 && size <= 32768, {.code = ErrorCode::invalid_argument,
                                            .what = "size of the pictures is wrong",
                                            .found = fmt::to_string(size),
                                            .expected = "1 to 32768"});
}

int checked_side(double side, const Image& image) {
  RAEDIT_CHECK(side <= 1 << 27, {.code = ErrorCode::invalid_argument,
                                 .what = "picture is too long for its width",
                                 .found = fmt::format("{} x {}", image.width, image.height)});
  return static_cast<int>(side);
}

int round_half_even(double value) {
  return static_cast<int>(std::nearbyint(value));
}

// Pixels outside the picture are black.
Image cut(const Image& image, int left, int top, int width, int height) {
  Image out{width, height, std::vector<uint8_t>(static_cast<size_t>(width) * static_cast<size_t>(height) * 3)};
  const int x_begin = std::max(left, 0), x_end = std::min(left + width, image.width);
  const int y_begin = std::max(top, 0), y_end = std::min(top + height, image.height);
  for (int y = y_begin; y < y_end; ++y) {
    const auto from = image.rgb.begin() + (int64_t{y} * image.width + x_begin) * 3;
    std::copy(from, from + int64_t{x_end - x_begin} * 3,
              out.rgb.begin() + (int64_t{y - top} * width + x_begin - left) * 3);
  }
  return out;
}

// Below 0 where the picture is smaller: then torchvision pads first, with the smaller half in front.
int center_origin(int side, int size) {
  return side < size ? -((size - side) / 2) : round_half_even((side - size) / 2.0);
}

}  // namespace

Image resize_shorter_side(const Image& image, int size, PillowFilter filter) {
  check_size(image, size);
  const int64_t shorter = std::min(image.width, image.height), longer = std::max(image.width, image.height);
  const int long_side = checked_side(static_cast<double>(size * longer / shorter), image);
  const bool upright = image.width <= image.height;
  return pillow_resize(image, upright ? size : long_side, upright ? long_side : size, filter);
}

Image crop(const Image& image, int left, int top, int width, int height) {
  check_picture(image);
  RAEDIT_CHECK(
      left >= 0 && top >= 0 && width >= 1 && height >= 1 && width <= image.width - left && height <= image.height - top,
      {.code = ErrorCode::invalid_argument,
       .what = "crop is not within the picture",
       .found = fmt::format("{} x {} from ({}, {}) on", width, height, left, top),
       .expected = fmt::format("a part of {} x {}", image.width, image.height)});
  return cut(image, left, top, width, height);
}

Image center_crop(const Image& image, int size) {
  check_size(image, size);
  return cut(image, center_origin(image.width, size), center_origin(image.height, size), size, size);
}

Image random_crop(const Image& image, int size, Generator& generator) {
  check_size(image, size);
  RAEDIT_CHECK(image.width >= size && image.height >= size, {.code = ErrorCode::invalid_argument,
                                                             .what = "picture is smaller than the crop",
                                                             .found = fmt::format("{} x {}", image.width, image.height),
                                                             .expected = fmt::format("sides of {} or more", size)});
  if (image.width == size && image.height == size) return image;
  const auto below = [&](int count) { return static_cast<int>(generator.random() % static_cast<uint32_t>(count)); };
  const int top = below(image.height - size + 1);
  const int left = below(image.width - size + 1);
  return crop(image, left, top, size, size);
}

Image horizontal_flip(const Image& image) {
  check_picture(image);
  Image out = image;
  const size_t width = static_cast<size_t>(image.width), height = static_cast<size_t>(image.height);
  for (size_t y = 0; y < height; ++y)
    for (size_t x = 0; x < width; ++x)
      std::copy_n(image.rgb.data() + (y * width + x) * 3, 3, out.rgb.data() + (y * width + width - 1 - x) * 3);
  return out;
}

Image random_horizontal_flip(const Image& image, Generator& generator, double probability) {
  RAEDIT_CHECK(probability >= 0.0 && probability <= 1.0, {.code = ErrorCode::invalid_argument,
                                                          .what = "probability of a flip is wrong",
                                                          .found = fmt::to_string(probability),
                                                          .expected = "0 to 1"});
  check_picture(image);
  const float drawn = generator.rand({1}).data<float>()[0];
  return drawn < static_cast<float>(probability) ? horizontal_flip(image) : image;
}

Image adm_center_crop(const Image& image, int size) {
  check_size(image, size);
  Image picture = image;
  while (std::min(picture.width, picture.height) >= 2 * size)
    picture = pillow_resize(picture, picture.width / 2, picture.height / 2, PillowFilter::box);
  const double scale = static_cast<double>(size) / std::min(picture.width, picture.height);
  const int width = checked_side(std::nearbyint(picture.width * scale), image);
  const int height = checked_side(std::nearbyint(picture.height * scale), image);
  picture = pillow_resize(picture, width, height, PillowFilter::bicubic);
  return crop(picture, (width - size) / 2, (height - size) / 2, size, size);
}

}  // namespace raedit::data
