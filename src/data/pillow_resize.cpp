#include "data/pillow_resize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/check.h"

namespace raedit::data {
namespace {

constexpr int kPrecisionBits = 32 - 8 - 2;  // 8 for the result, 2 for sums below 0 and above 255
constexpr int32_t kHalf = 1 << (kPrecisionBits - 1);
constexpr int64_t kMaxPixels = int64_t{1} << 27;

double support_of(PillowFilter filter) {
  switch (filter) {
    case PillowFilter::box: return 0.5;
    case PillowFilter::bilinear: return 1.0;
    case PillowFilter::bicubic: return 2.0;
    case PillowFilter::lanczos: return 3.0;
  }
  raise({.code = ErrorCode::invalid_argument,
         .what = "resizing filter is unknown",
         .found = fmt::to_string(static_cast<int>(filter)),
         .expected = "box, bilinear, bicubic or lanczos"});
}

double cubic(double x) {
  constexpr double kA = -0.5;
  if (x < 1.0) return ((kA + 2.0) * x - (kA + 3.0)) * x * x + 1.0;
  return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * kA : 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  const double angle = x * std::numbers::pi;
  return std::sin(angle) / angle;
}

double weight_at(PillowFilter filter, double x) {
  switch (filter) {
    case PillowFilter::box: return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
    case PillowFilter::bilinear: return std::max(0.0, 1.0 - std::abs(x));
    case PillowFilter::bicubic: return cubic(std::abs(x));
    case PillowFilter::lanczos: return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
  }
  return 0.0;
}

// What each place of one axis is made of: `count` places of the source from `first` on.
struct Window {
  int first = 0;
  int count = 0;
  size_t weights = 0;  // where its weights begin
};

struct Axis {
  std::vector<Window> windows;
  std::vector<int32_t> weights;  // in units of 2^-22
  const int32_t* weights_of(const Window& window) const { return weights.data() + window.weights; }
};

int32_t fixed_point(double weight) {
  const double scaled = weight * (1 << kPrecisionBits);
  return static_cast<int32_t>(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5);
}

Axis make_axis(int from, int to, PillowFilter filter) {
  const double scale = static_cast<double>(from) / to;
  const double filter_scale = std::max(scale, 1.0);
  const double support = support_of(filter) * filter_scale;
  const double inverse = 1.0 / filter_scale;
  Axis axis;
  std::vector<double> weights;
  for (int i = 0; i < to; ++i) {
    const double center = (i + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(center - support + 0.5));
    const int count = std::min(from, static_cast<int>(center + support + 0.5)) - first;
    weights.clear();
    double sum = 0.0;
    for (int j = 0; j < count; ++j) {
      weights.push_back(weight_at(filter, (j + first - center + 0.5) * inverse));
      sum += weights.back();
    }
    axis.windows.push_back({first, count, axis.weights.size()});
    for (const double weight : weights) axis.weights.push_back(fixed_point(sum != 0.0 ? weight / sum : weight));
  }
  return axis;
}

uint8_t clip8(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255));
}

Image blank(int width, int height) {
  return {width, height, std::vector<uint8_t>(static_cast<size_t>(width) * static_cast<size_t>(height) * 3)};
}

// Of the rows from `first_row` on.
Image resize_rows(const Image& image, const Axis& axis, int first_row, int rows) {
  Image out = blank(static_cast<int>(axis.windows.size()), rows);
  uint8_t* to = out.rgb.data();
  for (int y = 0; y < rows; ++y) {
    const uint8_t* row = image.rgb.data() + static_cast<size_t>(first_row + y) * static_cast<size_t>(image.width) * 3;
    for (const Window& window : axis.windows) {
      const int32_t* weights = axis.weights_of(window);
      const uint8_t* from = row + static_cast<size_t>(window.first) * 3;
      int32_t r = kHalf, g = kHalf, b = kHalf;
      for (int j = 0; j < window.count; ++j, from += 3) {
        r += from[0] * weights[j];
        g += from[1] * weights[j];
        b += from[2] * weights[j];
      }
      *to++ = clip8(r);
      *to++ = clip8(g);
      *to++ = clip8(b);
    }
  }
  return out;
}

// `image` begins with row `first_row` of the picture that `axis` counts in.
Image resize_columns(const Image& image, const Axis& axis, int first_row) {
  Image out = blank(image.width, static_cast<int>(axis.windows.size()));
  const size_t stride = static_cast<size_t>(image.width) * 3;
  std::vector<int32_t> sums(stride);
  uint8_t* to = out.rgb.data();
  for (const Window& window : axis.windows) {
    std::fill(sums.begin(), sums.end(), kHalf);
    const int32_t* weights = axis.weights_of(window);
    const uint8_t* from = image.rgb.data() + static_cast<size_t>(window.first - first_row) * stride;
    for (int j = 0; j < window.count; ++j, from += stride)
      for (size_t i = 0; i < stride; ++i) sums[i] += from[i] * weights[j];
    for (const int32_t sum : sums) *to++ = clip8(sum);
  }
  return out;
}

}  // namespace

void check_picture(const Image& image) {
  RAEDIT_CHECK(image.width > 0 && image.height > 0 &&
                   image.rgb.size() == static_cast<size_t>(image.width) * static_cast<size_t>(image.height) * 3,
               {.code = ErrorCode::invalid_argument,
                .what = "picture does not have three bytes for each pixel",
                .found = fmt::format("{} bytes for {} x {}", image.rgb.size(), image.width, image.height)});
}

Image pillow_resize(const Image& image, int width, int height, PillowFilter filter) {
  check_picture(image);
  // Between the passes the picture is as wide as the result and at most as high as the source.
  RAEDIT_CHECK(width > 0 && height > 0 && int64_t{width} * std::max(height, image.height) <= kMaxPixels,
               {.code = ErrorCode::invalid_argument,
                .what = "picture cannot be resized to that",
                .found = fmt::format("{} x {} from {} x {}", width, height, image.width, image.height),
                .expected = fmt::format("sides of 1 or more, up to {} pixels", kMaxPixels)});
  const bool across = width != image.width, down = height != image.height;
  if (!down) return across ? resize_rows(image, make_axis(image.width, width, filter), 0, height) : image;
  const Axis y_axis = make_axis(image.height, height, filter);
  if (!across) return resize_columns(image, y_axis, 0);
  const int first = y_axis.windows.front().first;
  const int rows = y_axis.windows.back().first + y_axis.windows.back().count - first;
  return resize_columns(resize_rows(image, make_axis(image.width, width, filter), first, rows), y_axis, first);
}

}  // namespace raedit::data
