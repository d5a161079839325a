// Tokens of the encoder stream that serve several steps of sampling: which steps compute them, and that the pipeline
// does what a loop written out here does, bit for bit on a processor.
#include <gtest/gtest.h>

#include <set>

#include "diffusion/guidance.h"
#include "ops/moving.h"
#include "parity/agreement.h"
#include "raedit/error.h"
#include "raedit/rae_dit_pipeline.h"
#include "test_device.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

constexpr int64_t kSteps = 6;  // at times 1, 0.74, 0.52, 0.32, 0.15, 0.0004
constexpr int64_t kEncoderBlocks = 2, kDecoderBlocks = 1;

RAEDiTPipeline load(DType dtype) {
  return RAEDiTPipeline::from_pretrained(test::test_data("pipeline"), test::load_options(dtype));
}

const RAEDiTPipeline& pipeline(DType dtype = DType::float32) {
  static const RAEDiTPipeline loaded[] = {load(DType::float32), load(DType::bfloat16)};
  return loaded[dtype == DType::float32 ? 0 : 1];
}

// The pipeline's transformer with other weights.
RAEDiT2DModel guide(DType dtype) {
  const test::ModelFolder folder("pipeline/transformer");
  folder.change_weights([](test::Weights& weights) {
    for (auto& [name, weight] : weights)
      for (int64_t i = 0; i < weight.numel(); ++i) weight.data<float>()[i] *= 0.8f;
  });
  return RAEDiT2DModel::from_pretrained(folder.path(), test::load_options(dtype));
}

RAEDiTPipelineArguments arguments(const EncoderReuse& reuse = {}, double guidance = 1.0, double start = 0.0,
                                  double end = 1.0) {
  return {.class_labels = {1, 2, 3},
          .guidance_scale = guidance,
          .guidance_start = start,
          .guidance_end = end,
          .seed = {},
          .latents = test::normal_tensor({3, 128, 4, 4}, 5),
          .num_inference_steps = kSteps,
          .encoder_reuse = reuse,
          .output_type = OutputType::latent};
}

Tensor generate(const RAEDiTPipelineArguments& a, DType dtype = DType::float32) {
  Context ctx = test::test_context();
  return pipeline(dtype)(ctx, a).latents;
}

// ---- the pipeline beside a loop

struct ByHand {
  Tensor latents;
  int64_t encoder_blocks = 0, decoder_blocks = 0;  // how many were seen
};

ByHand sample_by_hand(const RAEDiTPipeline& model, const RAEDiTPipelineArguments& a,
                      const std::set<int64_t>& computes) {
  Context ctx = test::test_context();
  ByHand result;
  const ForwardObserver count = [&](const std::string& name, const Tensor&) {
    if (!name.starts_with("block.")) return;
    ++(std::stoi(name.substr(6)) < kEncoderBlocks ? result.encoder_blocks : result.decoder_blocks);
  };
  const RAEDiT2DModel& main = model.transformer();
  const RAEDiT2DModel& other = a.guide_transformer != nullptr ? *a.guide_transformer : main;
  const auto batch = static_cast<int64_t>(a.class_labels.size());
  const Tensor labels = Tensor::from(a.class_labels, {batch});
  const std::vector<int64_t> none(a.class_labels.size(), main.config().num_classes);
  const Tensor other_labels = a.guide_transformer != nullptr ? labels : Tensor::from(none, {batch});
  FlowMatchEulerDiscreteScheduler scheduler = model.scheduler();
  scheduler.set_timesteps(a.num_inference_steps);
  Tensor x = a.latents, tokens, other_tokens;
  for (int64_t i = 0; i < a.num_inference_steps; ++i) {
    const float timestep = scheduler.timesteps()[static_cast<size_t>(i)];
    const float t = timestep / 1000.0f;
    const Tensor time = Tensor::full({batch}, t);
    const bool guided = a.guidance_scale > 1 && guidance_active(t, a.guidance_start, a.guidance_end);
    if (computes.contains(i)) {
      tokens = main.encoder_stream(ctx, x, main.condition(ctx, time, labels), count);
      other_tokens = guided ? other.encoder_stream(ctx, x, other.condition(ctx, time, other_labels), count) : Tensor();
    }
    Tensor v = main.decoder_stream(ctx, x, tokens, time, count);
    if (guided) {
      const Tensor w = other.decoder_stream(ctx, x, other_tokens, time, count);
      v = classifier_free_guidance(ctx, v, w, a.guidance_scale);
    }
    x = scheduler.step(ctx, ops::cast(ctx, v, DType::float32), timestep, x);
  }
  result.latents = x.clone();
  return result;
}

struct Case {
  const char* name;
  RAEDiTPipelineArguments arguments;
  std::set<int64_t> computes;
  int64_t guided_steps = 0;
  int64_t guided_passes = 0;  // of the steps that compute, how many are guided
};

std::vector<Case> cases() {
  return {{"every second step", arguments({.every = 2}), {0, 2, 4}},
          {"the first step alone", arguments({.every = 100}), {0}},
          {"a list", arguments({.steps = {0, 1, 4}}), {0, 1, 4}},
          {"guidance", arguments({.every = 3}, 2.5), {0, 3}, 6, 2},
          {"guidance ends", arguments({.every = 2}, 2.5, 0.4, 1.0), {0, 2, 4}, 3, 2},
          // Step 2 is the first that needs the other half; the last step needs the first half alone.
          {"guidance begins", arguments({.every = 3}, 2.5, 0.1, 0.6), {0, 2, 3}, 3, 2},
          {"guidance within", arguments({.every = 6}, 2.5, 0.3, 0.6), {0, 2}, 2, 1}};
}

void expect_same(const Case& c, DType dtype) {
  SCOPED_TRACE(c.name);
  const ByHand expected = sample_by_hand(pipeline(dtype), c.arguments, c.computes);
  EXPECT_EQ(expected.encoder_blocks, kEncoderBlocks * (static_cast<int64_t>(c.computes.size()) + c.guided_passes));
  EXPECT_EQ(expected.decoder_blocks, kDecoderBlocks * (kSteps + c.guided_steps));
  Context ctx = test::test_context();
  const auto found = pipeline(dtype)(ctx, c.arguments);
  EXPECT_EQ(found.encoder_passes, static_cast<int64_t>(c.computes.size()));
  testing::expect_same_rows("latents", found.latents, expected.latents);
  auto off = c.arguments;
  off.encoder_reuse = {};
  EXPECT_NE(found.latents.to_vector<float>(), generate(off, dtype).to_vector<float>());
}

TEST(EncoderReuse, IsALoopThatSkipsTheEncoder) {
  for (const Case& c : cases()) expect_same(c, DType::float32);
}

TEST(EncoderReuse, IsALoopThatSkipsTheEncoderInBfloat16) {
  RAEDIT_CPU_ONLY("bfloat16 halves that are one batch may be rounded elsewhere");
  for (const Case& c : cases()) expect_same(c, DType::bfloat16);
}

TEST(EncoderReuse, AGuideHasTokensOfItsOwn) {
  const RAEDiT2DModel weaker = guide(DType::float32);
  Case always{"guide", arguments({.every = 4}, 2.5), {0, 4}, 6, 2};
  Case within{"guide within", arguments({.every = 3}, 2.5, 0.1, 0.6), {0, 2, 3}, 3, 2};
  for (Case* c : {&always, &within}) {
    c->arguments.guide_transformer = &weaker;
    expect_same(*c, DType::float32);
    auto by_class = c->arguments;
    by_class.guide_transformer = nullptr;
    EXPECT_NE(generate(c->arguments).to_vector<float>(), generate(by_class).to_vector<float>());
  }
}

// ---- what changes nothing

TEST(EncoderReuse, EveryStepIsNoReuse) {
  Context ctx = test::test_context();
  for (const double guidance : {1.0, 2.5}) {
    const auto expected = pipeline()(ctx, arguments({}, guidance, 0.1, 0.6));
    EXPECT_EQ(expected.encoder_passes, kSteps);
    for (const EncoderReuse& all : {EncoderReuse{.every = 1}, EncoderReuse{.steps = {0, 1, 2, 3, 4, 5}}}) {
      const auto found = pipeline()(ctx, arguments(all, guidance, 0.1, 0.6));
      EXPECT_EQ(found.encoder_passes, kSteps);
      EXPECT_EQ(found.latents.to_vector<float>(), expected.latents.to_vector<float>());
    }
  }
}

TEST(EncoderReuse, IsExactWhereTheTokensAreThoseOfTheStep) {
  const RAEDiT2DModel& model = pipeline().transformer();
  Context ctx = test::test_context();
  const Tensor x = test::normal_tensor({2, 128, 4, 4}, 3), labels = Tensor::from(std::vector<int64_t>{1, 4}, {2});
  const Tensor time = Tensor::full({2}, 0.7f), later = Tensor::full({2}, 0.6f);
  const Tensor tokens = model.encoder_stream(ctx, x, model.condition(ctx, time, labels));
  EXPECT_EQ(model.decoder_stream(ctx, x, tokens, time).to_vector<float>(),
            model.forward(ctx, x, time, labels).to_vector<float>());
  // Each step adds its own time.
  EXPECT_NE(model.decoder_stream(ctx, x, tokens, later).to_vector<float>(),
            model.decoder_stream(ctx, x, tokens, time).to_vector<float>());
}

TEST(EncoderReuse, APictureDependsOnItsSeedAlone) {
  auto all = arguments({.every = 3}, 2.5, 0.1, 0.6);
  all.latents = {};
  all.seed = 7;
  const Tensor together = generate(all);
  for (int64_t k = 0; k < 3; ++k) {
    auto alone = all;
    alone.seed = 7 + static_cast<uint64_t>(k);
    alone.class_labels = {k + 1};
    testing::expect_same_rows(std::to_string(k), generate(alone), together.slice(0, k, k + 1));
  }
}

// One Context through requests of all kinds, twice: nothing that it keeps (graphs, scratch memory) is in their way.
TEST(EncoderReuse, RequestsDoNotDisturbEachOther) {
  std::vector<Case> requests = cases();
  requests.push_back({"off", arguments({}, 2.5, 0.1, 0.6), {}});
  Context ctx = test::test_context();
  for (int round = 0; round < 3; ++round)
    for (const Case& c : requests) {
      const Tensor found = pipeline()(ctx, c.arguments).latents;
      testing::expect_same_rows(c.name, found, generate(c.arguments));
    }
}

// ---- progress, cancel, mistakes

TEST(EncoderReuse, StepsAreReportedAndStoppedAtAsEver) {
  std::vector<int64_t> steps;
  CancelToken token;
  Context ctx({.device = test::test_device(),
               .progress =
                   [&](const Progress& p) {
                     EXPECT_EQ(p.total, kSteps);
                     steps.push_back(p.step);
                     if (steps.size() == 8) token.cancel();
                   },
               .cancel = token});
  pipeline()(ctx, arguments({.every = 3}));
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  test::expect_error(ErrorCode::cancelled, {}, [&] { pipeline()(ctx, arguments({.every = 3})); });
  EXPECT_EQ(steps.size(), 8u);
}

TEST(EncoderReuse, RefusesWhatIsNoSchedule) {
  Context ctx = test::test_context();
  const auto refused = [&](const EncoderReuse& reuse, const std::vector<std::string>& parts) {
    test::expect_error(ErrorCode::invalid_argument, parts, [&] { pipeline()(ctx, arguments(reuse)); });
  };
  refused({.every = 0}, {"encoder_reuse is out of range", "found 0"});
  refused({.every = -2}, {"encoder_reuse is out of range", "found -2"});
  refused({.steps = {1, 2}}, {"must be 0", "found 1"});
  refused({.steps = {-1, 0}}, {"must be 0", "found -1"});
  refused({.steps = {0, 3, 2}}, {"must ascend", "2 after 3"});
  refused({.steps = {0, 2, 2}}, {"must ascend", "2 after 2"});
  refused({.steps = {0, 6}}, {"does not have", "found 6", "0 to 5"});
  refused({.every = 2, .steps = {0, 3}}, {"both"});
}

TEST(EncoderReuse, StreamsRefuseWhatDoesNotFit) {
  const RAEDiT2DModel& model = pipeline().transformer();
  Context ctx = test::test_context();
  const Tensor x = test::normal_tensor({2, 128, 4, 4}, 3), time = Tensor::full({2}, 0.5f);
  const Tensor labels = Tensor::from(std::vector<int64_t>{1, 2}, {2});
  const RAEDiTConditioning conditioning = model.condition(ctx, time, labels);
  const Tensor tokens = model.encoder_stream(ctx, x, conditioning);
  const auto refused = [](const std::vector<std::string>& parts, const auto& call) {
    test::expect_error(ErrorCode::invalid_argument, parts, call);
  };
  refused({"tokens", "[1, 16, 32]", "[2, 16, 32]"}, [&] { model.decoder_stream(ctx, x, tokens.slice(0, 0, 1), time); });
  refused({"tokens", "nothing"}, [&] { model.decoder_stream(ctx, x, Tensor(), time); });
  refused({"timestep"}, [&] { model.decoder_stream(ctx, x, tokens, time.slice(0, 0, 1)); });
  refused({"hidden_states"}, [&] { model.encoder_stream(ctx, x.slice(1, 0, 64), conditioning); });
  refused({"conditioning"}, [&] { model.encoder_stream(ctx, x, conditioning.slice(0, 1)); });
}

}  // namespace
}  // namespace raedit
