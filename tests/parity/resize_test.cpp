// Resizing against torch 2.11 on a CPU: F.interpolate(pixels / 255, mode=..., align_corners=False, antialias=...) of
// three random pictures.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "io/safetensors.h"
#include "ops/resample.h"
#include "test_device.h"

namespace raedit {
namespace {

struct Param {
  const char* picture;
  const char* name;
  int64_t side;
  ops::Filter filter;

  friend void PrintTo(const Param& param, std::ostream* out) { *out << param.picture << ' ' << param.name; }
};

// torch computes the source coordinate, up to the picture's side, in float32: two roundings of it per axis, and no
// filter is steeper than 3 between neighbours that differ by at most 1. Beside that, sums of taps that are at most
// 1.45^2 in size.
double bound(const Shape& picture) {
  constexpr double kUnit = 0x1p-24;
  const double coordinates = 2.0 * 3.0 * static_cast<double>(picture[2] + picture[3]);
  const double taps = 4.0 * std::max(1.0, static_cast<double>(std::max(picture[2], picture[3])) / 16.0);
  return kUnit * (coordinates + 1.45 * 1.45 * (2.0 * std::sqrt(taps) + 4.0));
}

class ResizeParity : public testing::TestWithParam<Param> {};

TEST_P(ResizeParity, IsTorch) {
  const auto file = SafetensorsFile::open(RAEDIT_TEST_DATA "/resize/resize.safetensors");
  const std::string picture = GetParam().picture;
  const Tensor pixels = file.tensor(picture + ".input").to(DType::float32);  // [H,W,3]
  const Tensor expected = file.tensor(picture + ".torch." + GetParam().name);

  const Tensor x = Tensor::empty({1, 3, pixels.dim(0), pixels.dim(1)}, DType::float32);
  x.select(0, 0).copy_from(pixels.transpose(1, 2).transpose(0, 1));
  for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] /= 255.0f;

  Context ctx = test::test_context();
  const Tensor found = ops::resample(ctx, x, GetParam().side, GetParam().side, GetParam().filter);
  ASSERT_EQ(found.shape(), expected.shape());
  const auto a = found.to_vector<double>(), b = expected.to_vector<double>();
  double worst = 0.0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::isnan(a[i]) ? INFINITY : std::abs(a[i] - b[i]));
  EXPECT_LE(worst, bound(x.shape()));
  RecordProperty("largest_share_of_bound", std::to_string(worst / bound(x.shape())));
}

INSTANTIATE_TEST_SUITE_P(All, ResizeParity,
                         testing::Values(Param{"0", "bicubic_28", 28, ops::Filter::bicubic},
                                         Param{"1", "bicubic_28", 28, ops::Filter::bicubic},
                                         Param{"2", "bicubic_28", 28, ops::Filter::bicubic},
                                         Param{"0", "bicubic_56", 56, ops::Filter::bicubic},
                                         Param{"1", "bicubic_56", 56, ops::Filter::bicubic},
                                         Param{"0", "bicubic_antialias_16", 16, ops::Filter::bicubic_antialias},
                                         Param{"1", "bicubic_antialias_16", 16, ops::Filter::bicubic_antialias},
                                         Param{"2", "bicubic_antialias_16", 16, ops::Filter::bicubic_antialias},
                                         Param{"0", "bilinear_40", 40, ops::Filter::bilinear},
                                         Param{"1", "bilinear_40", 40, ops::Filter::bilinear}),
                         [](const auto& info) { return std::string(info.param.name) + "_of_" + info.param.picture; });

}  // namespace
}  // namespace raedit
