// Moments against two passes in long double, and the autoencoder that they go into.
#include "train/latent_statistics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/json.h"
#include "io/safetensors.h"
#include "train/picture_folder.h"
#include "unit/expect_error.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

using namespace train;
using test::ModelFolder;
using test::PictureFolder;
using test::ScratchFolder;
using test::slurp;

constexpr double kTolerance = 1e-12;

// [examples, shape], normal around an offset that differs by element.
Tensor random_examples(int64_t examples, const Shape& shape, double offset, double spread, unsigned seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<int64_t> dims{examples};
  dims.insert(dims.end(), shape.begin(), shape.end());
  const Tensor tensor = Tensor::empty(Shape(dims), DType::float64);
  for (int64_t i = 0; i < tensor.numel(); ++i)
    tensor.data<double>()[i] = offset + static_cast<double>(i % shape.numel()) + spread * normal(engine);
  return tensor;
}

struct TwoPass {
  std::vector<double> mean, variance;
  explicit TwoPass(const Tensor& examples) {
    const std::vector<double> x = examples.to_vector<double>();
    const auto n = static_cast<size_t>(examples.dim(0)), numel = x.size() / n;
    for (size_t i = 0; i < numel; ++i) {
      long double sum = 0, squares = 0;
      for (size_t b = 0; b < n; ++b) sum += x[b * numel + i];
      const long double m = sum / static_cast<long double>(n);
      for (size_t b = 0; b < n; ++b) squares += (x[b * numel + i] - m) * (x[b * numel + i] - m);
      mean.push_back(static_cast<double>(m));
      variance.push_back(static_cast<double>(squares / static_cast<long double>(n)));
    }
  }
};

void expect_near(const Tensor& found, const std::vector<double>& expected, double relative) {
  const std::vector<double> values = found.to_vector<double>();
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_NEAR(values[i], expected[i], relative * std::max(1e-3, std::fabs(expected[i]))) << i;
}

RunningMoments moments_of(const Tensor& examples, const Shape& shape, int64_t batch = 5) {
  RunningMoments moments(shape);
  for (int64_t first = 0; first < examples.dim(0); first += batch)
    moments.add(examples.slice(0, first, std::min(first + batch, examples.dim(0))));
  return moments;
}

TEST(RunningMomentsTest, AgreeWithTwoPasses) {
  const Shape shape{3, 2, 2};
  const Tensor examples = random_examples(1001, shape, 0.3, 2.0, 1);
  const RunningMoments moments = moments_of(examples, shape);
  const TwoPass expected(examples);
  EXPECT_EQ(moments.count(), 1001);
  EXPECT_EQ(moments.mean().shape(), shape);
  expect_near(moments.mean(), expected.mean, kTolerance);
  expect_near(moments.variance(), expected.variance, kTolerance);
}

// Sums of squares would lose every digit: (1e6)^2 is 1e12, and the spread's square 1e-8.
TEST(RunningMomentsTest, SurviveAHugeOffset) {
  const Shape shape{4};
  const Tensor examples = random_examples(3000, shape, 1e6, 1e-4, 2);
  const RunningMoments moments = moments_of(examples, shape);
  const TwoPass expected(examples);
  expect_near(moments.mean(), expected.mean, 1e-14);
  const std::vector<double> variance = moments.variance().to_vector<double>();
  for (size_t i = 0; i < variance.size(); ++i) EXPECT_NEAR(variance[i] / expected.variance[i], 1.0, 1e-6) << i;
}

TEST(RunningMomentsTest, DoNotDependOnBatches) {
  const Shape shape{2, 3};
  const Tensor examples = random_examples(50, shape, -4, 1.5, 3);
  const RunningMoments ones = moments_of(examples, shape, 1), all = moments_of(examples, shape, 50);
  EXPECT_EQ(ones.mean().to_vector<double>(), all.mean().to_vector<double>());
  EXPECT_EQ(ones.variance().to_vector<double>(), all.variance().to_vector<double>());
}

TEST(RunningMomentsTest, MergeInAnyOrder) {
  const Shape shape{2, 3};
  const Tensor examples = random_examples(400, shape, 7, 3, 4);
  const TwoPass expected(examples);
  const std::vector<int64_t> cuts{0, 1, 90, 91, 250, 400};
  std::vector<RunningMoments> parts;
  for (size_t i = 0; i + 1 < cuts.size(); ++i)
    parts.push_back(moments_of(examples.slice(0, cuts[i], cuts[i + 1]), shape));
  std::vector<size_t> order{0, 1, 2, 3, 4};
  do {
    RunningMoments moments(shape);
    for (const size_t i : order) moments.merge(parts[i]);
    EXPECT_EQ(moments.count(), 400);
    expect_near(moments.mean(), expected.mean, kTolerance);
    expect_near(moments.variance(), expected.variance, kTolerance);
  } while (std::next_permutation(order.begin(), order.end()));
  RunningMoments pairs = parts[0], others = parts[2];  // a tree instead of a chain
  pairs.merge(parts[1]);
  others.merge(parts[3]);
  others.merge(parts[4]);
  pairs.merge(others);
  expect_near(pairs.variance(), expected.variance, kTolerance);
}

TEST(RunningMomentsTest, OverAllButADimensionIsAsIfOfAllThoseNumbers) {
  const Shape shape{3, 2, 4};
  const Tensor examples = random_examples(60, shape, 1, 2, 5);
  const RunningMoments channels = moments_of(examples, shape).over_all_but(0);
  EXPECT_EQ(channels.mean().shape(), (Shape{3, 1, 1}));
  EXPECT_EQ(channels.count(), 60 * 8);
  const TwoPass expected(examples.reshape({60, 3, 8}).transpose(1, 2).contiguous().reshape({480, 3}));
  expect_near(channels.mean(), expected.mean, kTolerance);
  expect_near(channels.variance(), expected.variance, kTolerance);
  const TwoPass last(examples.reshape({360, 4}));
  expect_near(moments_of(examples, shape).over_all_but(2).variance(), last.variance, kTolerance);
}

TEST(RunningMomentsTest, RefuseWhatIsNoBatchOfTheirs) {
  RunningMoments moments({2, 2});
  EXPECT_RAEDIT_ERROR(moments.mean(), ErrorCode::invalid_argument, "of nothing");
  EXPECT_RAEDIT_ERROR(moments.add(Tensor::zeros({3, 4}, DType::float32)), ErrorCode::invalid_argument, "[3, 4]");
  EXPECT_RAEDIT_ERROR(moments.merge(RunningMoments({4})), ErrorCode::invalid_argument, "[4]", "[2, 2]");
  const Tensor good = random_examples(4, {2, 2}, 0, 1, 6);
  moments.add(good);
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const Tensor tensor = good.clone();
    tensor.data<double>()[9] = bad;
    EXPECT_RAEDIT_ERROR(moments.add(tensor), ErrorCode::not_finite, "not finite", "examples 4 to 7");
  }
  EXPECT_EQ(moments.count(), 4);
  expect_near(moments.variance(), TwoPass(good).variance, kTolerance);
}

class LatentStatisticsTest : public ::testing::Test {
 protected:
  LatentStatisticsTest() { transform_.crop = data::Crop::adm, transform_.resolution = 56; }

  RunningMoments measure(const AutoencoderRAE& vae, int64_t batch_size, bool flips) {
    EncodedPictures::Options options;
    options.batch_size = batch_size;
    options.flips = flips;
    options.loader.workers = 1;
    return measure_latents(ctx_, vae, data::open_picture_set(pictures_.path()), transform_, options);
  }

  PictureFolder pictures_{5};
  data::PictureTransform transform_;
  Context ctx_;
};

TEST_F(LatentStatisticsTest, ARawAutoencoderLeavesOutNothingButTheStatistics) {
  const ModelFolder model("autoencoder/dinov2");
  model.change_config([](Json& json) { json["scaling_factor"] = 0.5; });
  const AutoencoderRAE vae = AutoencoderRAE::from_pretrained(model.path());
  const AutoencoderRAE raw = open_raw_autoencoder(model.path(), {});
  const Tensor pixels = to_tensor(test::noise_image(56, 56, 9)).reshape({1, 3, 56, 56});
  const std::vector<float> z = raw.encode(ctx_, pixels).to_vector<float>();
  const test::Weights weights = test::read_weights(model.path());
  const std::vector<float> mean = weights.at("_latents_mean").to_vector<float>();
  const std::vector<float> std = weights.at("_latents_std").to_vector<float>();
  ASSERT_EQ(mean.size(), z.size());
  std::vector<float> expected;
  for (size_t i = 0; i < z.size(); ++i) expected.push_back((z[i] - mean[i]) / (std[i] + 1e-5f) * 0.5f);
  EXPECT_EQ(vae.encode(ctx_, pixels).to_vector<float>(), expected);
}

TEST_F(LatentStatisticsTest, AreThoseOfEveryPictureAndItsMirrorImage) {
  for (const std::string name : {"autoencoder/dinov2", "autoencoder/dinov2_tokens"}) {
    const ModelFolder model(name);
    const AutoencoderRAE raw = open_raw_autoencoder(model.path(), {});
    const auto set = data::open_picture_set(pictures_.path());
    std::vector<float> all;
    for (int64_t i = 0; i < set->size(); ++i)
      for (const bool flip : {false, true}) {
        const Tensor pixels = data::load_picture(*set, {.index = i, .seed = 0, .flip = flip}, transform_);
        const auto z = raw.encode(ctx_, pixels.reshape({1, 3, 56, 56})).to_vector<float>();
        all.insert(all.end(), z.begin(), z.end());
      }
    const TwoPass expected(Tensor::from(all, {10, static_cast<int64_t>(all.size()) / 10}));
    const RunningMoments moments = measure(raw, 2, true);
    EXPECT_EQ(moments.count(), 10);
    EXPECT_EQ(moments.shape(), raw.config().reshape_to_2d ? (Shape{128, 4, 4}) : (Shape{25, 64}));
    expect_near(moments.mean(), expected.mean, kTolerance);
    expect_near(moments.variance(), expected.variance, kTolerance);
    EXPECT_EQ(measure(raw, 5, true).variance().to_vector<double>(), moments.variance().to_vector<double>());
    EXPECT_EQ(measure(raw, 5, false).count(), 5);
  }
}

TEST_F(LatentStatisticsTest, RandomCropsHaveNone) {
  const ModelFolder model("autoencoder/dinov2");
  transform_.crop = data::Crop::random;
  EXPECT_RAEDIT_ERROR(measure(open_raw_autoencoder(model.path(), {}), 2, false), ErrorCode::invalid_argument,
                      "random crops");
}

TEST(LatentsStdTest, FollowsTheConventionOfConversions) {
  const Tensor variance = Tensor::from(std::vector<double>{0.0, 4.0, 0.25}, {3, 1, 1});
  const Tensor std = latents_std_of(variance, LatentsStd::diffusers);
  EXPECT_EQ(std.shape(), (Shape{3, 1, 1}));
  EXPECT_EQ(std.to_vector<float>(),
            (std::vector<float>{static_cast<float>(std::sqrt(1e-5)), static_cast<float>(std::sqrt(4.00001)),
                                static_cast<float>(std::sqrt(0.25001))}));
  EXPECT_EQ(latents_std_of(variance, LatentsStd::upstream).to_vector<float>()[1],
            static_cast<float>(std::sqrt(4.00001) - 1e-5));
  EXPECT_RAEDIT_ERROR(latents_std_of(Tensor::full({1}, -1.0f), LatentsStd::upstream), ErrorCode::invalid_argument,
                      "no variance");
}

TEST_F(LatentStatisticsTest, TheNewAutoencoderNormalisesAndIsElseTheSame) {
  const ModelFolder model("autoencoder/dinov2");
  const ScratchFolder scratch;
  test::spit(model / "README.md", "card");
  const std::string large(size_t{65} << 20, 'x');  // more than read_file takes
  test::spit(model / "decoder.onnx", large);
  const RunningMoments moments = measure(open_raw_autoencoder(model.path(), {}), 4, true);
  const Tensor std = latents_std_of(moments.variance(), LatentsStd::upstream);
  save_with_statistics(model.path(), scratch / "new", moments.mean(), std);

  const RunningMoments normal = measure(AutoencoderRAE::from_pretrained(scratch / "new"), 4, true);
  const std::vector<double> variance = moments.variance().to_vector<double>();
  const std::vector<double> mean = normal.mean().to_vector<double>(), one = normal.variance().to_vector<double>();
  for (size_t i = 0; i < mean.size(); ++i) {
    EXPECT_NEAR(mean[i], 0.0, 1e-5);
    EXPECT_NEAR(one[i], variance[i] / (variance[i] + 1e-5), 1e-5);
  }
  test::Weights before = test::read_weights(model.path()), after = test::read_weights(scratch / "new");
  EXPECT_EQ(after.at("_latents_std").to_vector<float>(), std.to_vector<float>());
  EXPECT_EQ(after.at("_latents_mean").to_vector<float>(), moments.mean().to(DType::float32).to_vector<float>());
  ASSERT_EQ(before.size(), after.size());
  for (auto& [name, tensor] : before) {
    if (name.starts_with("_latents_")) continue;
    EXPECT_EQ(after.at(name).dtype(), tensor.dtype()) << name;
    EXPECT_EQ(test::bytes_of(after.at(name)), test::bytes_of(tensor)) << name;
  }
  Json old_config = test::read_json(model / "config.json"), config = test::read_json(scratch / "new/config.json");
  EXPECT_EQ(config["latents_std"], test::nested_lists(std));
  for (Json* json : {&old_config, &config}) json->erase("latents_mean"), json->erase("latents_std");
  EXPECT_EQ(config, old_config);
  EXPECT_EQ(slurp(scratch / "new/README.md"), "card");
  EXPECT_TRUE(slurp(scratch / "new/decoder.onnx") == large);
}

TEST_F(LatentStatisticsTest, ChannelStatisticsKeepTheirShapeAndAFailedSaveLeavesNothing) {
  const ModelFolder model("autoencoder/dinov2");
  const ScratchFolder scratch;
  const Tensor mean = test::normal_tensor({128, 1, 1}, 1), std = Tensor::full({128, 1, 1}, 2.0f);
  save_with_statistics(model.path(), scratch / "new", mean, std);
  EXPECT_EQ(AutoencoderRAE::from_pretrained(scratch / "new").config().latents_mean_shape, (Shape{128, 1, 1}));
  const auto before = scratch.names();
  EXPECT_RAEDIT_ERROR(save_with_statistics(model.path(), scratch / "new", mean, std), ErrorCode::invalid_argument,
                      "new or an empty one");
  EXPECT_RAEDIT_ERROR(save_with_statistics(model.path(), scratch / "bad", test::normal_tensor({7, 1, 1}, 1), std),
                      ErrorCode::format, "do not fit");
  EXPECT_EQ(scratch.names(), before);
}

}  // namespace
}  // namespace raedit
