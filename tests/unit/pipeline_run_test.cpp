// A pipeline at work: shared by threads, watched, stopped, and with no memory of the steps it took.
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <map>
#include <thread>

#include "parity/agreement.h"
#include "raedit/error.h"
#include "raedit/rae_dit_pipeline.h"
#include "tensor/arena.h"
#include "test_device.h"
#include "unit/expect_error.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

using Phase = Progress::Phase;

const RAEDiTPipeline& pipeline() {
  static const auto loaded = RAEDiTPipeline::from_pretrained(test::test_data("pipeline"), test::load_options());
  return loaded;
}

RAEDiTPipelineArguments arguments(uint64_t seed, double guidance = 1.0) {
  return {.class_labels = {1, 2, 3},
          .guidance_scale = guidance,
          .seed = seed,
          .num_inference_steps = 6,
          .output_type = OutputType::pt};
}

std::vector<float> generate(uint64_t seed, double guidance, int threads) {
  Context ctx = test::test_context(threads);
  return pipeline()(ctx, arguments(seed, guidance)).images.to_vector<float>();
}

// ---- one object, many threads

TEST(PipelineRun, ManyThreadsShareOnePipeline) {
  constexpr size_t kThreads = 4;
  std::vector<std::vector<float>> expected(kThreads), found(kThreads);
  for (size_t k = 0; k < kThreads; ++k) expected[k] = generate(k, k % 2 == 0 ? 1.0 : 2.5, 1);
  for (const int threads : {1, 2}) {
    std::vector<std::thread> workers;
    for (size_t k = 0; k < kThreads; ++k)
      workers.emplace_back([&, k] { found[k] = generate(k, k % 2 == 0 ? 1.0 : 2.5, threads); });
    for (std::thread& worker : workers) worker.join();
    for (size_t k = 0; k < kThreads; ++k) EXPECT_EQ(found[k], expected[k]) << k << " with " << threads;
  }
}

// The encoder is made ready at its first use: by one of them.
TEST(PipelineRun, ManyThreadsEncodeAtOnce) {
  const auto vae = AutoencoderRAE::from_pretrained(test::test_data("autoencoder/dinov2"), test::load_options());
  const auto other = AutoencoderRAE::from_pretrained(test::test_data("autoencoder/dinov2"), test::load_options());
  const Tensor pixels = test::normal_tensor({1, 3, 56, 56}, 1);
  std::vector<std::vector<float>> found(4);
  std::vector<std::thread> workers;
  for (auto& result : found)
    workers.emplace_back([&] {
      Context ctx = test::test_context(1);
      result = vae.encode(ctx, pixels).to_vector<float>();
    });
  for (std::thread& worker : workers) worker.join();
  Context ctx = test::test_context();
  const auto expected = other.encode(ctx, pixels).to_vector<float>();
  for (const auto& result : found) EXPECT_EQ(result, expected);
}

// ---- results that are none

TEST(PipelineRun, RefusesResultsThatAreNotFinite) {
  Context ctx = test::test_context();
  const auto expect_code = [&](const RAEDiTPipelineArguments& a, ErrorCode code) {
    try {
      pipeline()(ctx, a);
      FAIL() << "no Error";
    } catch (const Error& error) {
      EXPECT_STREQ(to_string(error.code()), to_string(code)) << error.what();
    }
  };
  expect_code(arguments(1, 1e308), ErrorCode::invalid_argument);
  expect_code(arguments(1, 1e38), ErrorCode::not_finite);
  RAEDiTPipelineArguments nan = arguments(1);
  nan.seed.reset();
  nan.latents = Tensor::full({3, 128, 4, 4}, std::numeric_limits<float>::quiet_NaN());
  expect_code(nan, ErrorCode::not_finite);
}

// The file may be replaced while a model that was read from it is at work.
TEST(PipelineRun, DrawsOnAfterItsFilesAreGone) {
  const test::ModelFolder folder("pipeline");
  const auto loaded = RAEDiTPipeline::from_pretrained(folder.path(), test::load_options());
  Context ctx = test::test_context();
  const auto before = loaded(ctx, arguments(3, 2.0)).images.to_vector<float>();
  for (const char* part : {"transformer", "vae"})
    std::filesystem::resize_file(folder.path() + "/" + part + "/diffusion_pytorch_model.safetensors", 0);
  EXPECT_EQ(loaded(ctx, arguments(3, 2.0)).images.to_vector<float>(), before);
}

// ---- noise at every step

TEST(PipelineRun, StochasticSamplingDrawsFromThePicturesOwnGenerator) {
  FlowMatchEulerDiscreteSchedulerConfig config = pipeline().scheduler().config();
  config.stochastic_sampling = true;
  const RAEDiTPipeline noisy(pipeline().transformer(), pipeline().vae(), FlowMatchEulerDiscreteScheduler(config));
  Context ctx = test::test_context();
  const auto together = noisy(ctx, arguments(9)).latents;
  EXPECT_NE(together.to_vector<float>(), pipeline()(ctx, arguments(9)).latents.to_vector<float>());
  RAEDiTPipelineArguments second = arguments(10);
  second.class_labels = {2};
  testing::expect_same_rows("latents", noisy(ctx, second).latents, together.slice(0, 1, 2));
}

// ---- what a picture depends on

TEST(PipelineRun, APictureDependsOnItsSeedAlone) {
  Context ctx = test::test_context();
  const auto all = pipeline()(ctx, arguments(7));
  for (int64_t k = 0; k < 3; ++k) {
    auto alone = arguments(7 + static_cast<uint64_t>(k));
    alone.class_labels = {k + 1};
    testing::expect_same_rows(std::to_string(k), pipeline()(ctx, alone).images, all.images.slice(0, k, k + 1));
  }
}

// Modulations are made for all steps at once, for two of them, and for each step in its forward: 2, 24 and 80 rows a
// guided step.
TEST(PipelineRun, APictureDoesNotNoticeForHowManyStepsModulationsAreMade) {
  Context ctx = test::test_context();
  auto run = arguments(7, 2.0);
  run.guidance_start = 0.2;
  run.guidance_end = 0.8;
  run.class_labels = {2};
  run.output_type = OutputType::latent;
  const Tensor alone = pipeline()(ctx, run).latents;
  for (const int64_t count : {12, 40}) {
    run.num_images_per_prompt = count;
    const Tensor together = pipeline()(ctx, run).latents;
    testing::expect_same_rows(std::to_string(count), alone, together.slice(0, 0, 1));
  }
}

TEST(PipelineRun, GeneratorsAdvance) {
  Context ctx = test::test_context();
  auto drawn = arguments(0);
  drawn.seed.reset();
  std::vector<Generator> generators = {Generator(7), Generator(8), Generator(9)};
  drawn.generators = &generators;
  const auto first = pipeline()(ctx, drawn);
  EXPECT_EQ(first.images.to_vector<float>(), generate(7, 1.0, 1));
  EXPECT_NE(pipeline()(ctx, drawn).images.to_vector<float>(), first.images.to_vector<float>());
}

// A bfloat16 model starts from bfloat16 noise, drawn the way that its generators draw it.
TEST(PipelineRun, GeneratorsDrawInTheModelsType) {
  const auto model = RAEDiTPipeline::from_pretrained(test::test_data("pipeline"), test::load_options(DType::bfloat16));
  Context ctx = test::test_context();
  for (const Bfloat16Draws draws : {Bfloat16Draws::rounded, Bfloat16Draws::native}) {
    auto run = arguments(0);
    run.seed.reset();
    std::vector<Generator> generators = {Generator(7, draws)};
    run.generators = &generators;
    const auto drawn = model(ctx, run);
    run.generators = nullptr;
    run.latents = Generator(7, draws).randn({3, 128, 4, 4}, DType::bfloat16);
    EXPECT_EQ(drawn.latents.to_vector<float>(), model(ctx, run).latents.to_vector<float>());
  }
}

// torch's CUDA numbers reach the pictures: each its own generator, or one for the batch, as with the CPU's.
TEST(PipelineRun, SeedsDrawFromTheNamedStream) {
  const RandomStream stream =
      RandomStream::from_name("torch-cuda:sm=3,threads=1024");  // a wave is 3072 of 6144 numbers
  Context ctx = test::test_context();
  auto seeded = arguments(7);
  seeded.stream = stream;
  std::vector<Generator> generators;
  for (uint64_t k = 7; k < 10; ++k) generators.emplace_back(k, stream);
  auto drawn = arguments(0);
  drawn.seed.reset();
  drawn.generators = &generators;
  const auto pictures = pipeline()(ctx, seeded).images.to_vector<float>();
  EXPECT_EQ(pictures, pipeline()(ctx, drawn).images.to_vector<float>());
  EXPECT_NE(pictures, generate(7, 1.0, 1));

  std::vector<Generator> one = {Generator(7, stream)};
  drawn.generators = &one;
  auto given = arguments(0);
  given.seed.reset();
  given.latents = Generator(7, stream).randn({3, 128, 4, 4});
  EXPECT_EQ(pipeline()(ctx, drawn).latents.to_vector<float>(), pipeline()(ctx, given).latents.to_vector<float>());
  given.stream = stream;
  EXPECT_RAEDIT_ERROR(pipeline()(ctx, given), ErrorCode::invalid_argument, "no seed draws here");
}

TEST(PipelineRun, LabelsRepeatInPlace) {
  Context ctx = test::test_context();
  auto twice = arguments(5);
  twice.num_images_per_prompt = 2;
  auto spelled = arguments(5);
  spelled.class_labels = {1, 1, 2, 2, 3, 3};
  const auto a = pipeline()(ctx, twice), b = pipeline()(ctx, spelled);
  ASSERT_EQ(a.images.dim(0), 6);
  EXPECT_EQ(a.images.to_vector<float>(), b.images.to_vector<float>());
}

// ---- progress and cancel

TEST(PipelineRun, ReportsEveryStepAndPicture) {
  std::map<Phase, std::vector<int64_t>> steps;
  double last = 0;
  Context ctx({.device = test::test_device(), .progress = [&](const Progress& p) {
                 steps[p.phase].push_back(p.step);
                 EXPECT_EQ(p.total, p.phase == Phase::sample ? 6 : 3);
                 if (p.step == 1) last = 0;
                 EXPECT_GE(p.seconds, last);
                 last = p.seconds;
               }});
  pipeline()(ctx, arguments(1, 2.0));
  EXPECT_EQ(steps[Phase::sample], (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(steps[Phase::decode], (std::vector<int64_t>{1, 2, 3}));

  steps.clear();
  auto latents = arguments(1);
  latents.output_type = OutputType::latent;
  EXPECT_FALSE(pipeline()(ctx, latents).images.defined());
  EXPECT_EQ(steps[Phase::sample].size(), 6u);
  EXPECT_TRUE(steps[Phase::decode].empty());
}

// Runs with a token that is used after `after` reports; the number of reports seen.
int reports_until_cancelled(int after) {
  int reports = 0;
  CancelToken token;
  if (after == 0) token.cancel();
  Context ctx({.device = test::test_device(),
               .progress =
                   [&](const Progress&) {
                     if (++reports == after) token.cancel();
                   },
               .cancel = token});
  test::expect_error(ErrorCode::cancelled, {}, [&] { pipeline()(ctx, arguments(1)); });
  return reports;
}

TEST(PipelineRun, StopsAtTheNextStepOrPicture) {
  EXPECT_EQ(reports_until_cancelled(0), 0);
  EXPECT_EQ(reports_until_cancelled(1), 1);
  EXPECT_EQ(reports_until_cancelled(4), 4);
  EXPECT_EQ(reports_until_cancelled(7), 7);  // one picture decoded, two to come
}

TEST(PipelineRun, IsWholeAfterACancel) {
  const auto expected = generate(1, 1.0, 1);
  reports_until_cancelled(3);
  EXPECT_EQ(generate(1, 1.0, 1), expected);
}

// ---- memory: without a tape nothing is kept

TEST(PipelineRun, StepsAndRunsTakeNoMoreMemoryThanTheFirst) {
  constexpr size_t kSlack = 64 << 10;  // they no longer find the arena empty
  std::vector<size_t> in_use, reserved, peak;
  const auto note = [&](const Arena& arena) {
    in_use.push_back(arena.bytes_in_use());
    reserved.push_back(arena.reserved_bytes());
    peak.push_back(arena.peak_bytes());
  };
  Context* watched = nullptr;
  Context ctx({.device = test::test_device(), .progress = [&](const Progress& p) {
                 if (p.phase == Phase::sample) note(watched->arena());
               }});
  watched = &ctx;
  for (const double guidance : {1.0, 2.0}) {
    in_use.clear(), reserved.clear(), peak.clear();
    auto run = arguments(1, guidance);
    run.output_type = OutputType::latent;
    run.num_inference_steps = 30;
    pipeline()(ctx, run);
    ASSERT_EQ(in_use.size(), 30u);
    // The second step holds the first one's result too; from then on nothing may grow, nor when modulations are made
    // for the next 10 or 15 steps.
    for (size_t i = 2; i < in_use.size(); ++i) {
      EXPECT_EQ(in_use[i], in_use[1]) << i;
      EXPECT_LE(reserved[i], reserved[1] + (i < 10 ? 0 : kSlack)) << i;
      EXPECT_LE(peak[i], peak[1] + (i < 10 ? 0 : kSlack)) << i;
      if (i < 20) continue;
      EXPECT_EQ(reserved[i], reserved[19]) << i;
      EXPECT_EQ(peak[i], peak[19]) << i;
    }
  }
  EXPECT_EQ(ctx.arena().bytes_in_use(), 0u);
  const size_t held = ctx.arena().reserved_bytes();
  for (int i = 0; i < 3; ++i) pipeline()(ctx, arguments(static_cast<uint64_t>(i), 2.0));
  const size_t after = ctx.arena().reserved_bytes();
  for (int i = 0; i < 3; ++i) pipeline()(ctx, arguments(static_cast<uint64_t>(i), 2.0));
  EXPECT_EQ(ctx.arena().reserved_bytes(), after);
  EXPECT_GE(after, held);
  EXPECT_EQ(ctx.arena().bytes_in_use(), 0u);
}

TEST(PipelineRun, ForwardsGetTheSameAddressesAgain) {
  const RAEDiT2DModel& model = pipeline().transformer();
  const auto& c = model.config();
  const Tensor latents = test::normal_tensor({2, c.in_channels, c.sample_size, c.sample_size}, 1);
  const Tensor labels = Tensor::from(std::vector<int64_t>{1, 2}, {2});
  const Tensor time = Tensor::full({2}, 0.5f);
  Context ctx = test::test_context();
  const auto addresses = [&] {
    std::vector<const std::byte*> seen;
    const Tensor sample = model.forward(ctx, latents, time, labels, {},
                                        [&](const std::string&, const Tensor& value) { seen.push_back(value.raw()); });
    seen.push_back(sample.raw());
    return seen;
  };
  const auto first = addresses();
  EXPECT_GE(first.size(), 4u);
  EXPECT_EQ(addresses(), first);
  EXPECT_EQ(addresses(), first);
}

}  // namespace
}  // namespace raedit
