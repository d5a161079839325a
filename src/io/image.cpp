#include "raedit/image.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "io/picture_codec.h"
#include "io/png_codec.h"

namespace raedit {
namespace {

void check_image(const Image& image) {
  const bool ok = image.width > 0 && image.height > 0 &&
                  image.rgb.size() == static_cast<size_t>(image.width) * static_cast<size_t>(image.height) * 3;
  RAEDIT_CHECK(ok, {.code = ErrorCode::invalid_argument,
                    .what = "image does not have three bytes for each pixel",
                    .found = fmt::format("{} bytes for {} x {}", image.rgb.size(), image.width, image.height)});
}

uint8_t to_byte(float value) {
  if (!(value > 0.0f)) return 0;  // NaN too
  return static_cast<uint8_t>(std::nearbyint(std::min(value, 1.0f) * 255.0f));
}

}  // namespace

void save_png(const Image& image, const std::string& path, const PngText& text) {
  check_image(image);
  write_png_file(image, path, text);
}

Image to_image(const Tensor& chw) {
  RAEDIT_CHECK(chw.defined() && chw.rank() == 3 && chw.dim(0) == 3 && is_floating(chw.dtype()),
               {.code = ErrorCode::invalid_argument,
                .what = "tensor is not an image",
                .found = chw.defined() ? fmt::format("{} {}", name_of(chw.dtype()), chw.shape().str()) : "nothing",
                .expected = "[3, H, W] floating point"});
  const int64_t H = chw.dim(1), W = chw.dim(2);
  RAEDIT_CHECK(H >= 1 && W >= 1 && H <= kMaxImageSide && W <= kMaxImageSide,
               {.code = ErrorCode::invalid_argument,
                .what = "image has an impossible size",
                .found = fmt::format("{} x {}", W, H),
                .expected = fmt::format("sides of 1 to {}", kMaxImageSide)});
  const Tensor values = chw.cpu().to(DType::float32).contiguous();
  const float* from = values.data<float>();
  const auto plane = static_cast<size_t>(H * W);
  Image image{static_cast<int>(W), static_cast<int>(H), std::vector<uint8_t>(plane * 3)};
  for (size_t c = 0; c < 3; ++c)
    for (size_t i = 0; i < plane; ++i) image.rgb[i * 3 + c] = to_byte(from[c * plane + i]);
  return image;
}

Tensor to_tensor(const Image& image) {
  check_image(image);
  Tensor chw = Tensor::empty({3, image.height, image.width}, DType::float32);
  float* to = chw.data<float>();
  const size_t plane = image.rgb.size() / 3;
  for (size_t c = 0; c < 3; ++c)
    for (size_t i = 0; i < plane; ++i) to[c * plane + i] = static_cast<float>(image.rgb[i * 3 + c]) / 255.0f;
  return chw;
}

Image make_grid(const std::vector<Image>& images, int columns, int padding) {
  RAEDIT_CHECK(!images.empty() && columns >= 0 && padding >= 0,
               {.code = ErrorCode::invalid_argument,
                .what = "no grid can be made",
                .found = fmt::format("{} images, {} columns, padding {}", images.size(), columns, padding)});
  const int width = images[0].width, height = images[0].height;
  for (const Image& image : images) {
    check_image(image);
    RAEDIT_CHECK(image.width == width && image.height == height,
                 {.code = ErrorCode::invalid_argument,
                  .what = "images of a grid differ in size",
                  .found = fmt::format("{} x {}", image.width, image.height),
                  .expected = fmt::format("{} x {}", width, height)});
  }
  const auto count = static_cast<int64_t>(images.size());
  const int64_t across =
      std::min(count, columns > 0 ? columns : static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(count)))));
  const int64_t down = (count + across - 1) / across;
  const int64_t grid_width = across * width + (across - 1) * padding;
  const int64_t grid_height = down * height + (down - 1) * padding;
  RAEDIT_CHECK(
      grid_width <= kMaxImageSide && grid_height <= kMaxImageSide && grid_width * grid_height <= kMaxImagePixels,
      {.code = ErrorCode::invalid_argument,
       .what = "grid is too large for one image",
       .found = fmt::format("{} x {}", grid_width, grid_height),
       .expected = fmt::format("sides up to {}, {} pixels", kMaxImageSide, kMaxImagePixels)});

  Image grid{static_cast<int>(grid_width), static_cast<int>(grid_height), {}};
  grid.rgb.resize(static_cast<size_t>(grid_width * grid_height) * 3);
  for (int64_t k = 0; k < count; ++k) {
    const int64_t left = k % across * (width + padding), top = k / across * (height + padding);
    for (int64_t row = 0; row < height; ++row)
      std::memcpy(&grid.rgb[static_cast<size_t>(((top + row) * grid_width + left) * 3)],
                  &images[static_cast<size_t>(k)].rgb[static_cast<size_t>(row * width * 3)],
                  static_cast<size_t>(width) * 3);
  }
  return grid;
}

}  // namespace raedit
