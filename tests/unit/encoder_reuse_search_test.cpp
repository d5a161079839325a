// find_encoder_reuse: the solver beside all lists there are, the table of similarities beside a loop written out here,
// and both together on a small model.
#include "pipeline/encoder_reuse_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "diffusion/guidance.h"
#include "ops/moving.h"
#include "raedit/error.h"
#include "raedit/generator.h"
#include "test_device.h"
#include "unit/expect_error.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

using Steps = std::vector<int64_t>;

// ---- the solver

StepSimilarity table(int64_t steps, const std::function<double()>& value) {
  StepSimilarity similarity(steps);
  for (int64_t step = 0; step < steps; ++step)
    for (int64_t from = 0; from < step; ++from) similarity.at(step, from) = value();
  return similarity;
}

// By its definition.
double sum_of(const StepSimilarity& similarity, const Steps& list) {
  double sum = 0;
  for (int64_t step = 0; step < similarity.steps(); ++step)
    sum += similarity.at(step, *(std::upper_bound(list.begin(), list.end(), step) - 1));
  return sum;
}

// All lists of so many steps that begin with 0, in order.
std::vector<Steps> all_lists(int64_t steps, int64_t passes) {
  std::vector<Steps> lists;
  for (uint32_t mask = 1; mask < (1u << steps); mask += 2) {
    Steps list;
    for (int64_t step = 0; step < steps; ++step)
      if ((mask >> step & 1) != 0) list.push_back(step);
    if (static_cast<int64_t>(list.size()) == passes) lists.push_back(list);
  }
  std::sort(lists.begin(), lists.end());
  return lists;
}

Steps best_of_all(const StepSimilarity& similarity, int64_t passes) {
  const std::vector<Steps> lists = all_lists(similarity.steps(), passes);
  return *std::max_element(lists.begin(), lists.end(), [&](const Steps& a, const Steps& b) {
    return sum_of(similarity, a) < sum_of(similarity, b);
  });
}

void expect_best_of_all(const StepSimilarity& similarity) {
  for (int64_t passes = 1; passes <= similarity.steps(); ++passes) {
    SCOPED_TRACE(::testing::Message() << similarity.steps() << " steps, " << passes << " passes");
    const Steps found = best_steps(similarity, passes), expected = best_of_all(similarity, passes);
    EXPECT_EQ(found, expected);
    EXPECT_NEAR(mean_similarity(similarity, found) * static_cast<double>(similarity.steps()),
                sum_of(similarity, expected), 1e-12);
  }
}

TEST(BestSteps, AreThoseOfAllLists) {
  std::mt19937 engine(3);
  std::uniform_real_distribution<double> any(-1, 1);
  for (int64_t steps = 1; steps <= 10; ++steps)
    for (int round = 0; round < 5; ++round) expect_best_of_all(table(steps, [&] { return any(engine); }));
}

// Sums of quarters are exact, and many are equal.
TEST(BestSteps, OfEqualsTheFirst) {
  std::mt19937 engine(5);
  for (int64_t steps = 1; steps <= 9; ++steps)
    for (int round = 0; round < 5; ++round) expect_best_of_all(table(steps, [&] { return (engine() % 3) * 0.25; }));
  EXPECT_EQ(best_steps(table(6, [] { return 0.5; }), 3), (Steps{0, 1, 2}));
}

TEST(BestSteps, BeginWhereTokensTurn) {
  const Steps blocks{0, 0, 0, 0, 4, 4, 6, 6, 6, 6};  // where tokens that are alike begin
  StepSimilarity similarity(10);
  for (int64_t step = 0; step < 10; ++step)
    for (int64_t from = 0; from < step; ++from)
      similarity.at(step, from) = blocks[static_cast<size_t>(step)] == blocks[static_cast<size_t>(from)] ? 0.9 : 0.1;
  EXPECT_EQ(best_steps(similarity, 3), (Steps{0, 4, 6}));
  EXPECT_NEAR(mean_similarity(similarity, {0, 4, 6}), (3 + 7 * 0.9) / 10, 1e-12);
  EXPECT_NEAR(mean_similarity(similarity, {0}), (1 + 3 * 0.9 + 6 * 0.1) / 10, 1e-12);
}

TEST(BestSteps, HaveARequiredOne) {
  std::mt19937 engine(7);
  std::uniform_real_distribution<double> any(-1, 1);
  for (int64_t required = 1; required < 7; ++required) {
    StepSimilarity similarity = table(7, [&] { return any(engine); });
    similarity.require(required);
    for (int64_t passes = 2; passes <= 7; ++passes) {
      const Steps found = best_steps(similarity, passes);
      EXPECT_TRUE(std::binary_search(found.begin(), found.end(), required));
      EXPECT_EQ(found, best_of_all(similarity, passes));
    }
  }
}

TEST(EvenSteps, AreEveryKthWhereSomeKGivesAsMany) {
  EXPECT_EQ(even_steps(8, 4), (Steps{0, 2, 4, 6}));
  EXPECT_EQ(even_steps(25, 9), (Steps{0, 3, 6, 9, 12, 15, 18, 21, 24}));
  EXPECT_EQ(even_steps(25, 7), (Steps{0, 4, 8, 12, 16, 20, 24}));
  EXPECT_EQ(even_steps(6, 1), (Steps{0}));
  EXPECT_EQ(even_steps(3, 3), (Steps{0, 1, 2}));
  EXPECT_EQ(even_steps(8, 5), (Steps{0, 1, 3, 4, 6}));  // no K gives five
}

// ---- on a model

constexpr int64_t kSteps = 6;  // at times 1, 0.74, 0.52, 0.32, 0.15, 0.0004

const RAEDiTPipeline& pipeline() {
  static const RAEDiTPipeline loaded =
      RAEDiTPipeline::from_pretrained(test::test_data("pipeline"), test::load_options());
  return loaded;
}

EncoderReuseSearch search(int64_t passes, double guidance = 1.0, double start = 0.0, double end = 1.0) {
  EncoderReuseSearch s;
  s.passes = passes;
  s.num_inference_steps = kSteps;
  s.pictures = 3;
  s.seed = 11;
  s.guidance_scale = guidance;
  s.guidance_start = start;
  s.guidance_end = end;
  return s;
}

RAEDiTPipelineArguments request(const EncoderReuseSearch& s, const EncoderReuse& reuse = {}) {
  RAEDiTPipelineArguments a;
  a.class_labels = {2, 0};
  a.guidance_scale = s.guidance_scale;
  a.guidance_start = s.guidance_start;
  a.guidance_end = s.guidance_end;
  a.guide_transformer = s.guide_transformer;
  a.num_inference_steps = s.num_inference_steps;
  a.encoder_reuse = reuse;
  a.output_type = OutputType::latent;
  return a;
}

// The encoder stream of every step of the pictures that the search draws, [1,N,D] each.
std::vector<std::vector<Tensor>> tokens_by_hand(const EncoderReuseSearch& s) {
  Context ctx = test::test_context();
  const RAEDiT2DModel& model = pipeline().transformer();
  const int64_t classes = model.config().num_classes;
  std::vector<std::vector<Tensor>> all;
  for (int64_t k = 0; k < s.pictures; ++k) {
    const Tensor label = Tensor::from(Steps{k * classes / s.pictures}, {1}), none = Tensor::from(Steps{classes}, {1});
    FlowMatchEulerDiscreteScheduler scheduler = pipeline().scheduler();
    scheduler.set_timesteps(s.num_inference_steps);
    Tensor x = Generator(s.seed + static_cast<uint64_t>(k)).randn({1, 128, 4, 4});
    all.emplace_back();
    for (const float timestep : scheduler.timesteps()) {
      const float t = timestep / 1000.0f;
      const Tensor time = Tensor::full({1}, t);
      const Tensor tokens = model.encoder_stream(ctx, x, model.condition(ctx, time, label));
      all.back().push_back(tokens.cpu().clone());
      Tensor v = model.decoder_stream(ctx, x, tokens, time);
      if (s.guidance_scale > 1 && guidance_active(t, s.guidance_start, s.guidance_end))
        v = classifier_free_guidance(ctx, v, model.forward(ctx, x, time, none), s.guidance_scale);
      x = scheduler.step(ctx, ops::cast(ctx, v, DType::float32), timestep, x);
    }
  }
  return all;
}

double cosine(const Tensor& a, const Tensor& b) {
  double ab = 0, aa = 0, bb = 0;
  const std::vector<float> x = a.to_vector<float>(), y = b.to_vector<float>();
  for (size_t i = 0; i < x.size(); ++i) ab += double{x[i]} * y[i], aa += double{x[i]} * x[i], bb += double{y[i]} * y[i];
  return ab / std::sqrt(aa * bb);
}

TEST(EncoderReuseSearch, SimilarityIsTheMeanCosineOfTokens) {
  for (const EncoderReuseSearch& s : {search(2), search(2, 20), search(2, 20, 0.1, 0.6)}) {
    SCOPED_TRACE(::testing::Message() << "guidance " << s.guidance_scale << " to " << s.guidance_end);
    const auto tokens = tokens_by_hand(s);
    Context ctx = test::test_context();
    const StepSimilarity found = measure_similarity(ctx, pipeline(), s);
    double least = 1;
    for (int64_t step = 0; step < kSteps; ++step)
      for (int64_t from = 0; from <= step; ++from) {
        double sum = 0;
        int64_t count = 0;
        for (const std::vector<Tensor>& of_picture : tokens) {
          const Tensor &a = of_picture[static_cast<size_t>(step)], &b = of_picture[static_cast<size_t>(from)];
          for (int64_t n = 0; n < a.dim(1); ++n, ++count) sum += cosine(a.select(1, n), b.select(1, n));
        }
        EXPECT_NEAR(found.at(step, from), sum / static_cast<double>(count), test::on_cpu() ? 1e-6 : 1e-5)
            << step << ", " << from;
        least = std::min(least, found.at(step, from));
      }
    EXPECT_LT(least, 0.99);  // else all tables would do
  }
}

TEST(EncoderReuseSearch, FindsTheBestListThatThePipelineTakes) {
  Context ctx = test::test_context();
  for (int64_t passes = 1; passes <= kSteps; ++passes) {
    SCOPED_TRACE(passes);
    const EncoderReuseSearch s = search(passes, 2.5);
    const EncoderReuseFound found = find_encoder_reuse(ctx, pipeline(), s);
    const StepSimilarity similarity = measure_similarity(ctx, pipeline(), s);
    EXPECT_EQ(found.reuse.steps, best_of_all(similarity, passes));
    EXPECT_EQ(found.even.steps, even_steps(kSteps, passes));
    EXPECT_EQ(found.similarity, mean_similarity(similarity, found.reuse.steps));
    EXPECT_EQ(found.even_similarity, mean_similarity(similarity, found.even.steps));
    EXPECT_GE(found.similarity, found.even_similarity);
    EXPECT_EQ(pipeline()(ctx, request(s, found.reuse)).encoder_passes, passes);
  }
}

// Guidance begins at step 2, whose other half nobody computed.
TEST(EncoderReuseSearch, CountsThePassThatGuidanceNeeds) {
  Context ctx = test::test_context();
  const EncoderReuseSearch s = search(3, 2.5, 0.0, 0.6);
  const EncoderReuseFound found = find_encoder_reuse(ctx, pipeline(), s);
  EXPECT_TRUE(std::binary_search(found.reuse.steps.begin(), found.reuse.steps.end(), 2));
  EXPECT_EQ(pipeline()(ctx, request(s, found.reuse)).encoder_passes, 3);
  EXPECT_EQ(find_encoder_reuse(ctx, pipeline(), search(2, 2.5, 0.0, 0.6)).reuse.steps, (Steps{0, 2}));
  // Every third step is 0 and 3.
  const EncoderReuseFound two = find_encoder_reuse(ctx, pipeline(), search(2, 2.5, 0.0, 0.6));
  EXPECT_EQ(two.even.steps, (Steps{0, 2, 3}));
  EXPECT_EQ(pipeline()(ctx, request(s, {.every = 3})).encoder_passes, 3);
  EXPECT_RAEDIT_ERROR(find_encoder_reuse(ctx, pipeline(), search(1, 2.5, 0.0, 0.6)), ErrorCode::invalid_argument,
                      "passes are too few", "found 1", "2 or more", "0, 2");
}

TEST(EncoderReuseSearch, AGuideSteersToo) {
  Context ctx = test::test_context();
  EncoderReuseSearch s = search(2, 20);
  const StepSimilarity by_class = measure_similarity(ctx, pipeline(), s);
  s.guide_transformer = &pipeline().transformer();  // guides itself: as without guidance, to rounding
  const StepSimilarity by_itself = measure_similarity(ctx, pipeline(), s);
  const StepSimilarity without = measure_similarity(ctx, pipeline(), search(2));
  EXPECT_NEAR(by_itself.at(5, 0), without.at(5, 0), 1e-5);
  EXPECT_GT(std::abs(by_class.at(5, 0) - without.at(5, 0)), 1e-4);
}

TEST(EncoderReuseSearch, ThreadsAndRequestsBetweenChangeNothing) {
  RAEDIT_CPU_ONLY("threads are the processor's");
  Context one = test::test_context(1), two = test::test_context(2);
  const EncoderReuseSearch s = search(3, 2.5);
  const EncoderReuseFound first = find_encoder_reuse(one, pipeline(), s);
  pipeline()(two, request(s));
  const EncoderReuseFound second = find_encoder_reuse(two, pipeline(), s);
  EXPECT_EQ(first.reuse.steps, second.reuse.steps);
  EXPECT_EQ(first.similarity, second.similarity);
  EXPECT_EQ(first.even_similarity, second.even_similarity);
}

TEST(EncoderReuseSearch, ObservingSeesTheStepsThatComputeAndChangesNothing) {
  Context ctx = test::test_context();
  const EncoderReuseSearch s = search(1, 2.5, 0.1, 0.6);
  for (const EncoderReuse& reuse : {EncoderReuse{.every = 1}, EncoderReuse{.steps = {0, 2, 4}}}) {
    RAEDiTPipelineArguments arguments = request(s, reuse);
    const std::vector<float> expected = pipeline()(ctx, arguments).latents.to_vector<float>();
    Steps seen;
    arguments.observe_tokens = [&](int64_t step, const Tensor& tokens) {
      seen.push_back(step);
      EXPECT_EQ(tokens.shape(), (Shape{2, 16, 32}));
    };
    const std::vector<float> found = pipeline()(ctx, arguments).latents.to_vector<float>();
    EXPECT_EQ(seen, reuse.steps.empty() ? (Steps{0, 1, 2, 3, 4, 5}) : reuse.steps);
    for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], test::on_cpu() ? 0 : 1e-4);
  }
}

TEST(EncoderReuseSearch, RefusesWhatItCannotDo) {
  Context ctx = test::test_context();
  const auto refused = [&](const EncoderReuseSearch& s, const std::string& what, const std::string& expected) {
    EXPECT_RAEDIT_ERROR(find_encoder_reuse(ctx, pipeline(), s), ErrorCode::invalid_argument, what, expected);
  };
  refused(search(0), "passes is out of range (found 0", "1 to 6");
  refused(search(7), "passes is out of range (found 7", "1 to 6");
  EncoderReuseSearch s = search(2);
  s.pictures = 0;
  refused(s, "pictures is out of range (found 0", "1 to");
  s = search(2);
  s.num_inference_steps = 0;
  refused(s, "num_inference_steps is out of range (found 0", "1 to 10000");
  s.num_inference_steps = int64_t{1} << 40;
  refused(s, "num_inference_steps is out of range", "1 to 10000");
  refused(search(2, 0.5), "guidance_scale is out of range", "1 (no guidance) or more");
  refused(search(2, 2, 0.6, 0.4), "guidance interval", "guidance_start");
}

TEST(EncoderReuseSearch, ReportsEveryStepAndStops) {
  int64_t steps = 0;
  CancelToken token;
  Context ctx({.device = test::test_device(),
               .progress =
                   [&](const Progress&) {
                     if (++steps == kSteps + 2) token.cancel();
                   },
               .cancel = token});
  EXPECT_RAEDIT_ERROR(find_encoder_reuse(ctx, pipeline(), search(2)), ErrorCode::cancelled, "");
  EXPECT_EQ(steps, kSteps + 2);
}

}  // namespace
}  // namespace raedit
