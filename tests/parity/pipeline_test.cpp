// RAEDiTPipeline against pictures that diffusers made, from given latents and from torch's CPU generators, with the
// fixture's tiny model and with the bundled one.
#include <gtest/gtest.h>

#include <cstdlib>

#include "io/safetensors.h"
#include "parity/agreement.h"
#include "raedit/error.h"
#include "raedit/rae_dit_pipeline.h"
#include "test_device.h"

namespace raedit {
namespace {

using testing::agreement;
using testing::expect_agrees;

constexpr double kFloat32 = 1e-5;
// The project's bounds for decoded pixels after full sampling.
constexpr double kPixelMax = 2e-5;
constexpr double kPixelMean = 2e-6;

void expect_pixels(const std::string& name, const Tensor& found, const Tensor& expected) {
  ASSERT_EQ(found.shape(), expected.shape()) << name;
  const auto result = agreement(found, expected);
  EXPECT_LE(result.max_absolute, kPixelMax) << name;
  EXPECT_LE(result.mean_absolute, kPixelMean) << name;
}

struct Case {
  const char* name;
  int64_t steps;
  double guidance;
  double start;
  double end;
};

class Pipeline : public ::testing::Test {
 protected:
  std::string folder = std::string(RAEDIT_TEST_DATA) + "/pipeline";
  SafetensorsFile io = SafetensorsFile::open(folder + "/io.safetensors");
  RAEDiTPipeline pipeline = RAEDiTPipeline::from_pretrained(folder, test::load_options());
  Context ctx = test::test_context();

  RAEDiTPipelineArguments arguments() {
    return {.class_labels = io.tensor("class_labels").to_vector<int64_t>(), .output_type = OutputType::pt};
  }
};

TEST_F(Pipeline, GivenLatentsAgree) {
  const Case cases[] = {
      {"steps1", 1, 1.0, 0.0, 1.0},   {"steps2_cfg2", 2, 2.0, 0.0, 1.0},   {"steps10_cfg3_interval", 10, 3.0, 0.1, 0.8},
      {"steps25", 25, 1.0, 0.0, 1.0}, {"steps25_cfg4", 25, 4.0, 0.0, 1.0}, {"steps50_cfg1p5", 50, 1.5, 0.0, 1.0}};
  for (const Case& c : cases) {
    RAEDiTPipelineArguments a = arguments();
    a.guidance_scale = c.guidance;
    a.guidance_start = c.start;
    a.guidance_end = c.end;
    a.num_inference_steps = c.steps;
    a.latents = io.tensor("latents");
    const auto output = pipeline(ctx, a);
    expect_agrees(std::string(c.name) + ".latent", output.latents, io.tensor(std::string(c.name) + ".latent"),
                  kFloat32);
    expect_pixels(std::string(c.name) + ".image", output.images, io.tensor(std::string(c.name) + ".image"));
  }
}

TEST_F(Pipeline, OneSeedAPictureAgrees) {
  RAEDiTPipelineArguments a = arguments();
  a.num_inference_steps = 5;
  a.seed = 42;
  expect_pixels("seeds_42_43_44", pipeline(ctx, a).images, io.tensor("seeds_42_43_44.image"));

  std::vector<Generator> generators{Generator(42), Generator(43), Generator(44)};
  a.seed.reset();
  a.generators = &generators;
  expect_pixels("generators 42, 43, 44", pipeline(ctx, a).images, io.tensor("seeds_42_43_44.image"));
}

TEST_F(Pipeline, OneGeneratorForTheBatchAgrees) {
  std::vector<Generator> generator{Generator(7)};
  RAEDiTPipelineArguments a = arguments();
  a.num_inference_steps = 5;
  a.generators = &generator;
  expect_pixels("seed_7_one_generator", pipeline(ctx, a).images, io.tensor("seed_7_one_generator.image"));

  generator = {Generator(7)};
  a.class_labels = {2};
  a.num_images_per_prompt = 2;
  expect_pixels("seed_7_repeat2", pipeline(ctx, a).images, io.tensor("seed_7_repeat2.image"));
}

// The same rounding, so a picture may differ only where float32 noise crosses a half.
TEST_F(Pipeline, EightBitPicturesAgree) {
  RAEDiTPipelineArguments a = arguments();
  a.num_inference_steps = 5;
  a.latents = io.tensor("latents");
  a.output_type = OutputType::pil;
  const auto output = pipeline(ctx, a);
  ASSERT_EQ(output.pictures.size(), 3u);
  const Tensor expected = io.tensor("pil_uint8");
  size_t different = 0;
  for (size_t k = 0; k < output.pictures.size(); ++k) {
    const auto bytes = expected.select(0, static_cast<int64_t>(k)).to_vector<uint8_t>();
    ASSERT_EQ(output.pictures[k].rgb.size(), bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i) {
      ASSERT_LE(std::abs(output.pictures[k].rgb[i] - bytes[i]), 1);
      different += output.pictures[k].rgb[i] != bytes[i];
    }
  }
  EXPECT_LE(different, 4u);
}

TEST_F(Pipeline, LabelsMapToIds) {
  EXPECT_EQ(pipeline.get_label_ids({"one", "first", "tench", "Tinca tinca"}), (std::vector<int64_t>{1, 1, 3, 3}));
  try {
    pipeline.get_label_ids({"tensh"});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_NE(std::string(error.what()).find("tench"), std::string::npos) << error.what();
  }
}

// A picture depends on its seed alone: not on the batch it is made in, nor on the number of threads.
TEST_F(Pipeline, PicturesDoNotDependOnTheirCompany) {
  RAEDIT_CPU_ONLY("the library's matrix product may choose another algorithm for another number of rows");
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    const auto model = RAEDiTPipeline::from_pretrained(folder, test::load_options(dtype));
    const std::vector<int64_t> labels{0, 1, 2, 3, 2, 1, 0, 3};
    Context one({.threads = 1});
    const auto together = model(one, {.class_labels = labels,
                                      .guidance_scale = 2.0,
                                      .seed = 5,
                                      .num_inference_steps = 3,
                                      .output_type = OutputType::pt});
    for (const int threads : {1, 2, 3}) {
      Context many({.threads = threads});
      for (size_t k = 0; k < labels.size(); ++k) {
        const auto alone = model(many, {.class_labels = {labels[k]},
                                        .guidance_scale = 2.0,
                                        .seed = 5 + k,
                                        .num_inference_steps = 3,
                                        .output_type = OutputType::pt});
        EXPECT_EQ(alone.images.to_vector<float>(),
                  together.images.slice(0, static_cast<int64_t>(k), static_cast<int64_t>(k) + 1).to_vector<float>())
            << name_of(dtype) << ", " << threads << " threads, picture " << k;
      }
    }
  }
}

class BundledModel : public ::testing::Test {
 protected:
  std::string folder = RAEDIT_SOURCE_DIR "/models/emoji64";
  SafetensorsFile reference = SafetensorsFile::open(RAEDIT_TEST_DATA "/emoji64/reference.safetensors");
  Context ctx = test::test_context();

  RAEDiTPipelineOutput generate(const RAEDiTPipeline& pipeline) {
    return pipeline(ctx, {.class_labels = reference.tensor("class_labels").to_vector<int64_t>(),
                          .latents = reference.tensor("latents"),
                          .num_inference_steps = 25,
                          .output_type = OutputType::pt});
  }
};

TEST_F(BundledModel, AgreesInFloat32) {
  const auto pipeline = RAEDiTPipeline::from_pretrained(folder, test::load_options());
  const auto output = generate(pipeline);
  expect_agrees("latents", output.latents, reference.tensor("cfg1_steps25.latent"), kFloat32);
  expect_pixels("images", output.images, reference.tensor("cfg1_steps25.image"));
  const Tensor encoded = pipeline.vae().encode(ctx, reference.tensor("pixels"));
  expect_agrees("encoded", encoded, reference.tensor("encoded"), kFloat32);
  expect_pixels("reconstructed", pipeline.vae().decode(ctx, reference.tensor("encoded")),
                reference.tensor("reconstructed"));
}

TEST_F(BundledModel, Bfloat16IsCloseToFloat32) {
  const auto pipeline = RAEDiTPipeline::from_pretrained(folder, test::load_options(DType::bfloat16));
  const auto result = agreement(generate(pipeline).images, reference.tensor("cfg1_steps25.image"));
  EXPECT_GT(result.mean_absolute, 0.0);
  EXPECT_LT(result.mean_absolute, 0.01);
  RecordProperty("mean_difference", std::to_string(result.mean_absolute));
}

}  // namespace
}  // namespace raedit
