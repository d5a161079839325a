// Models with 8-bit matrices: how far their results lie from float32's, what calibration does for it, and what is
// refused.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <utility>

#include "expect_error.h"
#include "io/safetensors.h"
#include "models/internals.h"
#include "raedit/calibration.h"
#include "raedit/rae_dit_pipeline.h"
#include "test_device.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

using test::ScratchFolder;
using test::slurp;

LoadOptions eight_bits(const std::string& calibration = "", DType dtype = DType::float32) {
  return {.dtype = dtype, .quantization = Quantization::int8, .calibration = calibration};
}

std::string bundled() {
  return std::string(RAEDIT_SOURCE_DIR) + "/models/emoji64";
}

double relative_l2(const Tensor& found, const Tensor& expected) {
  const auto a = found.to_vector<double>(), b = expected.to_vector<double>();
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(error / size);
}

void scale(const Tensor& tensor, float by) {
  const Tensor scaled = tensor.contiguous().clone();
  for (int64_t i = 0; i < scaled.numel(); ++i) scaled.data<float>()[i] *= by;
  tensor.copy_from(scaled);
}

// The velocity at three times, of noise.
Tensor velocity(const RAEDiT2DModel& model) {
  Context ctx({.threads = 1});
  const auto& c = model.config();
  const Tensor x = test::normal_tensor({3, c.in_channels, c.sample_size, c.sample_size}, 5);
  const Tensor t = Tensor::from(std::vector<float>{0.9f, 0.5f, 0.1f}, {3});
  return model.forward(ctx, x, t, Tensor::from(std::vector<int64_t>{0, 1, 2}, {3})).to(DType::float32);
}

class QuantizedModel : public ::testing::Test {
 protected:
  void SetUp() override { RAEDIT_CPU_ONLY("8-bit products are the processor's"); }

  std::string calibrated(const std::string& folder) {
    const std::string path = scratch_ / "calibration.safetensors";
    Context ctx({.threads = 1});
    calibrate(ctx, RAEDiTPipeline::from_pretrained(folder), {.pictures = 4, .num_inference_steps = 5}, path);
    return path;
  }

  ScratchFolder scratch_;
};

TEST_F(QuantizedModel, IsNearFloat32) {
  const std::string folder = bundled() + "/transformer";
  const Tensor expected = velocity(RAEDiT2DModel::from_pretrained(folder));
  const double bfloat16 =
      relative_l2(velocity(RAEDiT2DModel::from_pretrained(folder, {.dtype = DType::bfloat16})), expected);
  const double plain = relative_l2(velocity(RAEDiT2DModel::from_pretrained(folder, eight_bits())), expected);
  const double calibration =
      relative_l2(velocity(RAEDiT2DModel::from_pretrained(folder, eight_bits(calibrated(bundled())))), expected);
  const double both =
      relative_l2(velocity(RAEDiT2DModel::from_pretrained(folder, eight_bits("", DType::bfloat16))), expected);
  RecordProperty("bfloat16", std::to_string(bfloat16));
  RecordProperty("int8", std::to_string(plain));
  RecordProperty("int8_calibrated", std::to_string(calibration));
  RecordProperty("int8_of_bfloat16", std::to_string(both));
  EXPECT_GT(plain, 1e-3);  // it is not float32 in disguise
  EXPECT_LT(plain, 0.05);
  EXPECT_LT(both, 0.05);
  EXPECT_LT(calibration, 1.05 * plain);  // channels are alike here: nothing to win, nothing to lose
}

// Two channels of every norm 60 times as large, and their columns of what reads them as much smaller: the same
// function, and what SmoothQuant is for.
TEST_F(QuantizedModel, CalibrationSharesOutliers) {
  const test::ModelFolder folder("pipeline");
  const std::string transformer = folder / "transformer";
  test::Weights weights = test::read_weights(transformer);
  for (auto& [name, tensor] : weights) {
    for (const int64_t channel : {3, 17}) {
      if (name.starts_with("blocks.") && name.find(".norm") != name.npos && name.ends_with("weight"))
        scale(tensor.slice(0, channel, channel + 1), 60.0f);
      if (name.ends_with("to_q.weight") || name.ends_with("to_k.weight") || name.ends_with("to_v.weight") ||
          name.ends_with("net.0.proj.weight"))
        scale(tensor.slice(1, channel, channel + 1), 1 / 60.0f);
    }
  }
  test::write_weights(transformer, weights);
  const Tensor expected = velocity(RAEDiT2DModel::from_pretrained(transformer));
  const auto error = [&](const std::string& calibration) {
    return relative_l2(velocity(RAEDiT2DModel::from_pretrained(transformer, eight_bits(calibration))), expected);
  };
  const double plain = error(""), smooth = error(calibrated(folder.path()));
  RecordProperty("int8", std::to_string(plain));
  RecordProperty("int8_calibrated", std::to_string(smooth));
  EXPECT_LT(smooth, 0.6 * plain);
}

TEST_F(QuantizedModel, DrawsTheSamePicture) {
  const auto draw = [](const LoadOptions& options) {
    Context ctx({.threads = 1});
    const auto pipeline = RAEDiTPipeline::from_pretrained(bundled(), options);
    return pipeline(ctx,
                    {.class_labels = {3, 40}, .seed = 42, .num_inference_steps = 10, .output_type = OutputType::pt})
        .images.to_vector<float>();
  };
  const auto expected = draw({}), plain = draw(eight_bits()), calibrated_too = draw(eight_bits(calibrated(bundled())));
  const auto mean_difference = [&](const std::vector<float>& found) {
    double sum = 0;
    for (size_t i = 0; i < found.size(); ++i) sum += std::abs(found[i] - expected[i]);
    return sum / static_cast<double>(found.size());
  };
  RecordProperty("int8", std::to_string(mean_difference(plain)));
  RecordProperty("int8_calibrated", std::to_string(mean_difference(calibrated_too)));
  EXPECT_LT(mean_difference(plain), 0.03);
  EXPECT_LT(mean_difference(calibrated_too), 0.03);
}

// The matrix of a SwiGLU is packed for the product that ends in it.
TEST_F(QuantizedModel, MultipliesIntoSwiglu) {
  const auto model = RAEDiT2DModel::from_pretrained(bundled() + "/transformer", eight_bits());
  Context ctx({.threads = 1});
  int64_t found = 0;
  nn::for_each_parameter(models::Internals::of(model), [&](const std::string& name, const nn::Parameter& p) {
    if (!p.swiglu) return;
    const Tensor x = test::normal_tensor({3, p.packed->k}, 1),
                 out = Tensor::empty({3, p.packed->n / 2}, DType::float32);
    EXPECT_TRUE(ctx.kernels().linear_swiglu(x, *p.packed, Tensor(), out)) << name;
    ++found;
  });
  EXPECT_GT(found, 0);
}

// Only matrices of blocks are quantized, all of them, in every part of a pipeline.
TEST_F(QuantizedModel, KeepsWhatIsNoBlockInItsType) {
  const auto model = RAEDiT2DModel::from_pretrained(bundled() + "/transformer", eight_bits("", DType::bfloat16));
  int64_t in_eight_bits = 0, others = 0;
  nn::for_each_parameter(models::Internals::of(model), [&](const std::string& name, const nn::Parameter& p) {
    if (p.packed == nullptr) return;
    const bool block = name.starts_with("blocks.");
    EXPECT_EQ(p.packed->dtype, block ? DType::int8 : DType::bfloat16) << name;
    ++(block ? in_eight_bits : others);
  });
  EXPECT_GT(in_eight_bits, 10);
  EXPECT_GT(others, 4);
}

TEST_F(QuantizedModel, EncodesAndDecodes) {
  for (const char* encoder : {"dinov2", "siglip2", "mae"}) {
    const std::string folder = test::test_data(std::string("autoencoder/") + encoder);
    const auto vae = AutoencoderRAE::from_pretrained(folder),
               small = AutoencoderRAE::from_pretrained(folder, eight_bits());
    Context ctx({.threads = 1});
    const int64_t side = vae.config().encoder_input_size;
    const Tensor pixels = test::normal_tensor({2, 3, side, side}, 3), z = vae.encode(ctx, pixels);
    const double error = relative_l2(small.encode(ctx, pixels), z);
    EXPECT_GT(error, 1e-4) << encoder;
    EXPECT_LT(error, 0.1) << encoder;
    EXPECT_LT(relative_l2(small.decode(ctx, z), vae.decode(ctx, z)), 0.1) << encoder;
  }
}

TEST_F(QuantizedModel, SavesWhatItWasMadeFrom) {
  const std::string folder = test::test_data("transformer/base");
  RAEDiT2DModel::from_pretrained(folder).save_pretrained(scratch_ / "plain");
  RAEDiT2DModel::from_pretrained(folder, eight_bits()).save_pretrained(scratch_ / "small");
  const std::string file = "/diffusion_pytorch_model.safetensors";
  EXPECT_EQ(slurp((scratch_ / "small") + file), slurp((scratch_ / "plain") + file));
}

TEST_F(QuantizedModel, RefusesCalibrationsThatAreNotItsOwn) {
  const std::string tiny = test::test_data("pipeline"), own = calibrated(tiny);
  const std::string transformer = tiny + "/transformer";
  EXPECT_NO_THROW(RAEDiTPipeline::from_pretrained(tiny, eight_bits(own)));
  EXPECT_RAEDIT_ERROR(RAEDiTPipeline::from_pretrained(bundled(), eight_bits(own)), ErrorCode::format,
                      "of another model", own, "raedit calibrate");
  // The same shapes, other numbers.
  test::ModelFolder other("pipeline");
  const std::string weights = other / "transformer";
  test::Weights changed = test::read_weights(weights);
  for (auto& [name, tensor] : changed)
    if (name.starts_with("blocks.")) tensor.copy_from(test::normal_tensor(tensor.shape(), 9));
  test::write_weights(weights, changed);
  EXPECT_RAEDIT_ERROR(RAEDiT2DModel::from_pretrained(weights, eight_bits(own)), ErrorCode::format, "of another model");
  // A file without this part, a file of something else, no file.
  const std::string partial = scratch_ / "partial.safetensors";
  write_safetensors(partial, NamedTensors{}, {{"format", "raedit calibration"}, {"version", "2"}});
  EXPECT_RAEDIT_ERROR(RAEDiT2DModel::from_pretrained(transformer, eight_bits(partial)), ErrorCode::format,
                      "of another model", "no transformer");
  EXPECT_RAEDIT_ERROR(
      RAEDiT2DModel::from_pretrained(transformer, eight_bits(transformer + "/diffusion_pytorch_model.safetensors")),
      ErrorCode::format, "no calibration", "raedit calibrate");
  EXPECT_RAEDIT_ERROR(RAEDiT2DModel::from_pretrained(transformer, eight_bits("nowhere.safetensors")),
                      ErrorCode::not_found, "nowhere.safetensors");
  LoadOptions without = eight_bits(own);
  without.quantization = Quantization::none;
  EXPECT_RAEDIT_ERROR(RAEDiT2DModel::from_pretrained(transformer, without), ErrorCode::invalid_argument, "8-bit");
}

TEST_F(QuantizedModel, RefusesCalibrationsOfOtherVersions) {
  const std::string transformer = test::test_data("pipeline") + "/transformer";
  for (const char* version : {"1", "3"}) {
    const std::string path = scratch_ / "other.safetensors";
    SafetensorsMetadata metadata{{"format", "raedit calibration"}, {"version", version}};
    if (version[0] == '1') metadata.erase("version");  // as the first one was written
    write_safetensors(path, NamedTensors{}, metadata);
    EXPECT_RAEDIT_ERROR(RAEDiT2DModel::from_pretrained(transformer, eight_bits(path)), ErrorCode::format,
                        "another version", path, std::string("found version ") + version, "raedit calibrate");
  }
}

// One other number in any of the matrices, of a model that is the same but for it.
TEST_F(QuantizedModel, ACalibrationKnowsEveryMatrix) {
  const std::string own = calibrated(test::test_data("pipeline"));
  const test::ModelFolder folder("pipeline");
  const std::string transformer = folder / "transformer";
  int64_t matrices = 0;
  const auto model = RAEDiT2DModel::from_pretrained(transformer, eight_bits(own));
  nn::for_each_parameter(models::Internals::of(model), [&](const std::string& name, const nn::Parameter& p) {
    if (!p.eight_bits) return;
    test::Weights weights = test::read_weights(transformer);
    float& number = weights.at(name).data<float>()[++matrices % p.shape.numel()];
    const float before = std::exchange(number, number + 1);
    test::write_weights(transformer, weights);
    EXPECT_RAEDIT_ERROR(RAEDiT2DModel::from_pretrained(transformer, eight_bits(own)), ErrorCode::format,
                        "of another model", "'transformer." + name + "'", own, transformer, "raedit calibrate");
    number = before;
    test::write_weights(transformer, weights);
  });
  EXPECT_GT(matrices, 10);
  EXPECT_NO_THROW(RAEDiT2DModel::from_pretrained(transformer, eight_bits(own)));
}

// The encoder is looked at when somebody encodes.
TEST_F(QuantizedModel, ACalibrationKnowsTheMatricesOfBothHalves) {
  const std::string own = calibrated(test::test_data("pipeline"));
  const test::ModelFolder folder("pipeline");
  const std::string vae = folder / "vae";
  const auto change = [&](const std::string& start) {
    test::Weights weights = test::read_weights(vae);
    const auto model = AutoencoderRAE::from_pretrained(vae, eight_bits());
    std::string changed;
    nn::for_each_parameter(models::Internals::of(model).parameters, [&](const std::string& name, const auto& p) {
      if (p.eight_bits && name.starts_with(start)) changed = name;
    });
    weights.at(changed).data<float>()[0] += 1;
    test::write_weights(vae, weights);
  };
  Context ctx({.threads = 1});
  const Tensor pixels = test::normal_tensor({1, 3, 32, 32}, 3);
  EXPECT_NO_THROW(AutoencoderRAE::from_pretrained(vae, eight_bits(own)).encode(ctx, pixels));
  change("encoder.");
  const auto model = AutoencoderRAE::from_pretrained(vae, eight_bits(own));
  EXPECT_RAEDIT_ERROR(model.encode(ctx, pixels), ErrorCode::format, "of another model", "'vae.encoder.", own);
  change("decoder.");
  EXPECT_RAEDIT_ERROR(AutoencoderRAE::from_pretrained(vae, eight_bits(own)), ErrorCode::format, "of another model",
                      "'vae.decoder.", own);
}

TEST_F(QuantizedModel, ACalibrationIsThatOfACopyInBfloat16) {
  const std::string tiny = test::test_data("pipeline"), own = calibrated(tiny), copy = scratch_ / "copy";
  RAEDiTPipeline::from_pretrained(tiny, {.dtype = DType::bfloat16}).save_pretrained(copy);
  Context ctx({.threads = 1});
  const auto pipeline = RAEDiTPipeline::from_pretrained(copy, eight_bits(own));
  EXPECT_NO_THROW(pipeline.vae().encode(ctx, test::normal_tensor({1, 3, 32, 32}, 3)));
}

TEST_F(QuantizedModel, CalibrationStopsBehindItsPicturesToo) {
  CancelToken cancel;
  ContextOptions options;
  options.threads = 1;
  options.cancel = cancel;
  options.progress = [&](const Progress& p) {
    if (p.phase == Progress::Phase::decode && p.step == p.total) cancel.cancel();
  };
  Context ctx(options);
  const auto pipeline = RAEDiTPipeline::from_pretrained(test::test_data("pipeline"));
  EXPECT_RAEDIT_ERROR(calibrate(ctx, pipeline, {.pictures = 2, .num_inference_steps = 2}, scratch_ / "x.safetensors"),
                      ErrorCode::cancelled, "cancelled");
  EXPECT_FALSE(std::filesystem::exists(scratch_ / "x.safetensors"));
  EXPECT_FALSE(ctx.input_observer());
}

TEST_F(QuantizedModel, CalibrationNeedsAPicture) {
  Context ctx({.threads = 1});
  const auto pipeline = RAEDiTPipeline::from_pretrained(test::test_data("pipeline"));
  EXPECT_RAEDIT_ERROR(calibrate(ctx, pipeline, {.pictures = 0}, scratch_ / "x.safetensors"),
                      ErrorCode::invalid_argument, "picture");
  EXPECT_FALSE(std::filesystem::exists(scratch_ / "x.safetensors"));
  EXPECT_FALSE(ctx.input_observer());
}

}  // namespace
}  // namespace raedit
