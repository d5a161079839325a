// FlowMatchEulerDiscreteScheduler and guidance. Numbers without a derivation beside them come from a run of the
// reference class (diffusers PR 13231).
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "diffusion/guidance.h"
#include "raedit/error.h"
#include "raedit/flow_match_euler_discrete.h"

namespace raedit {
namespace {

using Config = FlowMatchEulerDiscreteSchedulerConfig;
using Scheduler = FlowMatchEulerDiscreteScheduler;
using Floats = std::vector<float>;

const Floats kX = {-0.486780763f, -0.603821576f, -0.55809623f, 0.667524278f, -0.197415099f, 1.94278347f};
const Floats kV = {-1.40170205f, -0.762557149f, 0.631213427f, -0.899135172f, -0.557793438f, 0.69071877f};
const Floats kNoise = {0.222458586f, -0.666225255f, 0.684642196f, 0.57400161f, -0.582882702f, 0.767941535f};

Tensor tensor(const Floats& values, const Shape& shape = {2, 3}) {
  return Tensor::from(values, shape);
}

Floats joined(Floats a, const Floats& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Scheduler scheduler_of(const Config& config, std::optional<int64_t> steps, const SetTimestepsOptions& options = {}) {
  Scheduler scheduler(config);
  scheduler.set_timesteps(steps, options);
  return scheduler;
}

void expect_floats(const Floats& found, const Floats& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_FLOAT_EQ(found[i], expected[i]) << "at " << i;
}

template <class Call>
void expect_error(ErrorCode code, const std::vector<std::string>& parts, Call call) {
  try {
    call();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(), code) << message;
    for (const std::string& part : parts)
      EXPECT_NE(message.find(part), message.npos) << part << "\nnot in: " << message;
    return;
  }
  ADD_FAILURE() << "no error";
}

// ---- schedules

struct Case {
  const char* name;
  Config config;
  std::optional<int64_t> steps;
  SetTimestepsOptions options;
  Floats sigmas;
  Floats timesteps;
};

class Schedule : public testing::TestWithParam<Case> {};

TEST_P(Schedule, MatchesReference) {
  const Case& c = GetParam();
  const Scheduler scheduler = scheduler_of(c.config, c.steps, c.options);
  expect_floats(scheduler.sigmas(), c.sigmas);
  expect_floats(scheduler.timesteps(), c.timesteps);
  EXPECT_EQ(scheduler.num_inference_steps(), static_cast<int64_t>(c.timesteps.size()));
}

using D = std::vector<double>;
const Case kCases[] = {
    {"linear_dynamic",
     {.use_dynamic_shifting = true, .time_shift_type = TimeShiftType::linear},
     4,
     {.mu = 2.0},
     {1.0f, 0.80023998f, 0.500749648f, 0.00199800218f, 0.0f},
     {1000.0f, 800.23999f, 500.749634f, 1.99800217f}},
    {"exponential_dynamic_own_sigmas",
     {.use_dynamic_shifting = true},
     {},
     {.mu = 0.7, .sigmas = D{1.0, 0.7, 0.3, 0.1}},
     {1.0f, 0.824523091f, 0.463241965f, 0.182839826f, 0.0f},
     {1000.0f, 824.523071f, 463.241974f, 182.839828f}},
    {"inverted",
     {.shift = 3.0, .invert_sigmas = true},
     4,
     {},
     {0.0f, 0.142307699f, 0.397849441f, 0.991071403f, 1.0f},
     {0.0f, 142.307693f, 397.849426f, 991.071411f}},
    {"karras_after_terminal",
     {.shift = 3.0, .shift_terminal = 0.2, .use_karras_sigmas = true},
     4,
     {},
     {1.0f, 0.608675718f, 0.356700987f, 0.200000003f, 0.0f},
     {1000.0f, 608.67572f, 356.700989f, 200.0f}},
    {"exponential_own_sigmas",
     {.shift = 3.0, .use_exponential_sigmas = true},
     {},
     {.sigmas = D{0.9, 0.7, 0.3, 0.1}},
     {0.964285672f, 0.614870727f, 0.392068475f, 0.25f, 0.0f},
     {964.285645f, 614.870728f, 392.068481f, 250.0f}},
    {"karras_own_sigmas",
     {.shift = 3.0, .use_karras_sigmas = true},
     4,
     {.sigmas = D{0.9, 0.7, 0.3, 0.1}},
     {0.964285672f, 0.632506013f, 0.4038122f, 0.25f, 0.0f},
     {964.285645f, 632.506042f, 403.812195f, 250.0f}},
    {"karras_one_step", {.shift = 3.0, .use_karras_sigmas = true}, 1, {}, {1.0f, 0.0f}, {1000.0f}},
    {"own_timesteps",
     {.shift = 3.0},
     {},
     {.timesteps = D{900, 500, 100}},
     {0.964285672f, 0.75f, 0.25f, 0.0f},
     {964.285645f, 750.0f, 250.0f}},
    {"sigmas_win_over_timesteps",
     {.shift = 3.0},
     3,
     {.sigmas = D{0.9, 0.5, 0.1}, .timesteps = D{800, 700, 1}},
     {0.964285672f, 0.75f, 0.25f, 0.0f},
     {964.285645f, 750.0f, 250.0f}},
    {"hundred_train_timesteps",
     {.num_train_timesteps = 100, .shift = 0.5},
     4,
     {},
     {1.0f, 0.501886785f, 0.202416912f, 0.00251889159f, 0.0f},
     {100.0f, 50.1886787f, 20.2416916f, 0.251889169f}},
    {"terminal_own_sigmas",
     {.shift = 2.0, .shift_terminal = 0.15},
     {},
     {.sigmas = D{1.0, 0.6, 0.2}},
     {1.0f, 0.681249976f, 0.149999976f, 0.0f},
     {1000.0f, 681.25f, 149.999969f}},
    {"terminal_zero_is_none",
     {.shift = 2.0, .shift_terminal = 0.0},
     3,
     {},
     {1.0f, 0.66755408f, 0.00398803595f, 0.0f},
     {1000.0f, 667.554077f, 3.98803592f}},
};
INSTANTIATE_TEST_SUITE_P(Options, Schedule, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Scheduler, StartsWithTheScheduleOfTraining) {
  const Scheduler shifted(Config{.num_train_timesteps = 4, .shift = 3.0});
  expect_floats(shifted.sigmas(), {1.0f, 0.9f, 0.75f, 0.5f});
  expect_floats(shifted.timesteps(), {4.0f, 3.6f, 3.0f, 2.0f});
  EXPECT_EQ(shifted.sigma_max(), 1.0f);
  EXPECT_EQ(shifted.sigma_min(), 0.5f);
  EXPECT_FALSE(shifted.num_inference_steps() || shifted.step_index() || shifted.begin_index());

  const Scheduler dynamic(Config{.num_train_timesteps = 4, .shift = 3.0, .use_dynamic_shifting = true});
  expect_floats(dynamic.sigmas(), {1.0f, 0.75f, 0.5f, 0.25f});
}

TEST(Scheduler, SetShiftActsOnTheNextScheduleOnly) {
  Scheduler scheduler(Config{.shift = 2.0});
  const Floats before = scheduler.sigmas();
  scheduler.set_shift(5.0);
  EXPECT_EQ(scheduler.sigmas(), before);
  EXPECT_EQ(scheduler.shift(), 5.0);
  EXPECT_EQ(scheduler.config().shift, 2.0);
  scheduler.set_timesteps(3);
  expect_floats(scheduler.sigmas(), {1.0f, 0.833887577f, 0.00991080236f, 0.0f});
}

TEST(Scheduler, FollowsUpstreamsGrid) {
  const std::vector<double> grid = upstream_sigmas(10, 6.92820323);
  EXPECT_EQ(grid.front(), 1.0);
  EXPECT_NEAR(grid.back(), 0.0068874, 1e-6);  // sh(shift, 0.001): above 0
  EXPECT_EQ(upstream_sigmas(1, 3.0), D{1.0});
  Scheduler scheduler(Config{.shift = 6.92820323});
  scheduler.set_shift(1);
  scheduler.set_timesteps({}, {.sigmas = grid});
  for (size_t i = 0; i < grid.size(); ++i) EXPECT_EQ(scheduler.sigmas()[i], static_cast<float>(grid[i]));
  expect_error(ErrorCode::invalid_argument, {"num_points", "found 0"}, [] { upstream_sigmas(0, 1); });
  expect_error(ErrorCode::invalid_argument, {"shift", "above 0"}, [] { upstream_sigmas(5, 0); });
}

// ---- steps

Floats run_steps(Scheduler& scheduler, StepOptions options = {}, int steps = 4) {
  Context ctx;
  Tensor x = tensor(kX);
  for (int i = 0; i < steps; ++i) {
    const float t = scheduler.timesteps()[static_cast<size_t>(i)];
    x = scheduler.step(ctx, tensor(kV), t, x, options);
    EXPECT_EQ(scheduler.step_index(), i + 1);
  }
  return x.to_vector<float>();
}

TEST(SchedulerStep, Euler) {
  Scheduler scheduler = scheduler_of({.shift = 3.0}, 4);
  expect_floats(run_steps(scheduler, {}, 1),
                {-0.287307769f, -0.49530381f, -0.647922754f, 0.795478106f, -0.118036799f, 1.84448886f});
  scheduler.set_timesteps(4);
  expect_floats(run_steps(scheduler),
                {0.914921224f, 0.158735543f, -1.18930972f, 1.56665945f, 0.360378295f, 1.2520647f});
}

TEST(SchedulerStep, Stochastic) {
  Scheduler scheduler = scheduler_of({.shift = 3.0, .stochastic_sampling = true}, 4);
  expect_floats(run_steps(scheduler, {.noise = tensor(kNoise)}),
                {1.58436406f, 0.0998334736f, -0.0163031965f, 1.47838449f, -0.00346008968f, 0.143144965f});

  scheduler.set_timesteps(4);
  Context ctx;
  expect_error(ErrorCode::invalid_argument, {"stochastic_sampling", "neither generator nor noise"},
               [&] { scheduler.step(ctx, tensor(kV), 1000.0f, tensor(kX)); });
  EXPECT_FALSE(scheduler.step_index());  // as it was
}

TEST(SchedulerStep, StochasticDrawsFromTheGenerator) {
  const Scheduler fresh = scheduler_of({.shift = 3.0, .stochastic_sampling = true}, 4);
  Scheduler drawn = fresh;
  Scheduler given = fresh;
  Generator generator(11);
  const Floats found = run_steps(drawn, {.generator = &generator}, 1);
  EXPECT_EQ(found, run_steps(given, {.noise = Generator(11).randn({2, 3})}, 1));
  Scheduler again = fresh;
  EXPECT_NE(found, run_steps(again, {.generator = &generator}, 1));  // the generator has moved on
}

TEST(SchedulerStep, PerToken) {
  const Tensor x = tensor(joined(kX, kNoise), {2, 2, 3});
  const Tensor v = tensor(joined(kV, kX), {2, 2, 3});
  StepOptions options{.noise = tensor(joined(kNoise, kV), {2, 2, 3}),
                      .per_token_timesteps = tensor({1000.0f, 613.0f, 20.0f, 0.0f}, {2, 2})};
  Context ctx;
  Scheduler euler = scheduler_of({.shift = 3.0}, 4);
  expect_floats(euler.step(ctx, v, 1000.0f, x, options).to_vector<float>(),
                {-0.686253786f, -0.712339342f, -0.468269706f, 0.657769203f, -0.203466833f, 1.95027733f, 0.217069224f,
                 -0.672910392f, 0.67846328f, 0.57400161f, -0.582882702f, 0.767941535f});
  EXPECT_EQ(euler.step_index(), 1);
  Scheduler stochastic = scheduler_of({.shift = 3.0, .stochastic_sampling = true}, 4);
  expect_floats(stochastic.step(ctx, v, 1000.0f, x, options).to_vector<float>(),
                {0.321001351f, -0.548826993f, 0.417964399f, 0.830492139f, -0.293489039f, 1.06689811f, 0.217605829f,
                 -0.655116677f, 0.695227444f, 0.57400161f, -0.582882702f, 0.767941535f});
  EXPECT_EQ(euler.step(ctx, v.to(DType::bfloat16), 0.0f, x, options).dtype(), DType::float32);
  options.per_token_timesteps = tensor({1.0f, 2.0f}, {2, 1});
  expect_error(ErrorCode::invalid_argument, {"per_token_timesteps", "[2, 1]", "[B, N]"},
               [&] { euler.step(ctx, v, 0.0f, x, options); });
}

TEST(SchedulerStep, ResultHasTheVelocitysType) {
  Context ctx;
  Scheduler scheduler = scheduler_of({.shift = 3.0}, 4);
  const Tensor half = scheduler.step(ctx, tensor(kV).to(DType::bfloat16), 1000.0f, tensor(kX).to(DType::bfloat16));
  EXPECT_EQ(half.dtype(), DType::bfloat16);
  EXPECT_EQ(half.to_vector<float>(),
            (Floats{-0.287109375f, -0.49609375f, -0.6484375f, 0.796875f, -0.117675781f, 1.84375f}));
  const Tensor full = scheduler.step(ctx, tensor(kV), 0.0f, tensor(kX).to(DType::bfloat16));
  EXPECT_EQ(full.dtype(), DType::float32);
  expect_floats(full.to_vector<float>(),
                {-0.128134757f, -0.410603583f, -0.719895124f, 0.897735298f, -0.0547261238f, 1.76880503f});
}

TEST(SchedulerStep, TakesAnyStrides) {
  Context ctx;
  Scheduler scheduler = scheduler_of({.shift = 3.0}, 4);
  const Tensor x = tensor({kX[0], kX[3], kX[1], kX[4], kX[2], kX[5]}, {3, 2}).transpose(0, 1);
  expect_floats(scheduler.step(ctx, tensor(kV), 1000.0f, x).to_vector<float>(),
                {-0.287307769f, -0.49530381f, -0.647922754f, 0.795478106f, -0.118036799f, 1.84448886f});
}

TEST(SchedulerStep, BeginIndexWinsOverTheTimestep) {
  Context ctx;
  Scheduler scheduler = scheduler_of({.shift = 3.0}, 4);
  scheduler.set_begin_index(2);
  expect_floats(scheduler.step(ctx, tensor(kV), 1000.0f, tensor(kX)).to_vector<float>(),
                {0.344739676f, -0.151455939f, -0.9325459f, 1.20091105f, 0.133480206f, 1.53303397f});
  EXPECT_EQ(scheduler.step_index(), 3);
  scheduler.set_timesteps(4);
  EXPECT_FALSE(scheduler.step_index() || scheduler.begin_index());
  expect_error(ErrorCode::invalid_argument, {"begin_index is negative", "found -1"},
               [&] { scheduler.set_begin_index(-1); });
}

TEST(SchedulerStep, OfEqualTimestepsTheSecond) {
  Context ctx;
  Scheduler scheduler = scheduler_of({}, {}, {.sigmas = D{1.0, 0.5, 0.5, 0.25}});
  EXPECT_EQ(scheduler.index_for_timestep(500.0f), 2);
  EXPECT_EQ(scheduler.index_for_timestep(250.0f), 3);
  const Floats moved = scheduler.step(ctx, tensor(kV), 500.0f, tensor(kX)).to_vector<float>();
  EXPECT_EQ(scheduler.step_index(), 3);
  for (size_t i = 0; i < moved.size(); ++i) EXPECT_FLOAT_EQ(moved[i], kX[i] - 0.25f * kV[i]);
}

TEST(SchedulerStep, CopiesStepAlone) {
  Context ctx;
  Scheduler first = scheduler_of({}, 4);
  first.step(ctx, tensor(kV), 1000.0f, tensor(kX));
  Scheduler second = first;
  second.step(ctx, tensor(kV), 0.0f, tensor(kX));
  EXPECT_EQ(first.step_index(), 1);
  EXPECT_EQ(second.step_index(), 2);
}

template <class T>
concept SteppableBy = requires(Scheduler s, Context ctx, Tensor x, T t) {
  s.step(ctx, x, t, x);
};
static_assert(SteppableBy<float> && !SteppableBy<int> && !SteppableBy<int64_t> && !SteppableBy<size_t>,
              "an index is not a timestep");

TEST(SchedulerStep, Errors) {
  Context ctx;
  Scheduler scheduler = scheduler_of({.shift = 3.0}, 2);
  expect_error(ErrorCode::invalid_argument, {"not in the schedule", "999.5", "compared exactly"},
               [&] { scheduler.step(ctx, tensor(kV), 999.5f, tensor(kX)); });
  expect_error(ErrorCode::invalid_argument, {"model_output", "[3, 2]", "[2, 3]"}, [&] {
    scheduler.step(ctx, tensor(kV, {3, 2}), 1000.0f, tensor(kX));
  });
  expect_error(ErrorCode::invalid_argument, {"model_output", "nothing"},
               [&] { scheduler.step(ctx, Tensor(), 1000.0f, tensor(kX)); });
  expect_error(ErrorCode::invalid_argument, {"sample is missing"},
               [&] { scheduler.step(ctx, tensor(kV), 1000.0f, Tensor()); });
  EXPECT_FALSE(scheduler.step_index());
  run_steps(scheduler, {}, 2);
  expect_error(ErrorCode::invalid_argument, {"come to its end", "set_timesteps"},
               [&] { scheduler.step(ctx, tensor(kV), 0.0f, tensor(kX)); });
  EXPECT_EQ(scheduler.step_index(), 2);

  // The schedule of training has no final sigma to step to.
  Scheduler training;
  expect_error(ErrorCode::invalid_argument, {"come to its end"},
               [&] { training.step(ctx, tensor(kV), 1.0f, tensor(kX)); });
}

TEST(SchedulerScaleNoise, LooksUpEverySigma) {
  Context ctx;
  const Scheduler scheduler(Config{.shift = 3.0});
  const Floats timesteps = {scheduler.timesteps()[300], scheduler.timesteps()[900]};
  expect_floats(scheduler.scale_noise(ctx, tensor(kX), timesteps, tensor(kNoise)).to_vector<float>(),
                {0.133803621f, -0.658424795f, 0.529299855f, 0.644143581f, -0.293781996f, 1.649073f});
  const Tensor half =
      scheduler.scale_noise(ctx, tensor(kX).to(DType::bfloat16), timesteps, tensor(kNoise).to(DType::bfloat16));
  EXPECT_EQ(half.dtype(), DType::bfloat16);  // every product and sum rounded
  EXPECT_EQ(half.to_vector<float>(),
            (Floats{0.134765625f, -0.66015625f, 0.52734375f, 0.64453125f, -0.29296875f, 1.65625f}));
  // One timestep serves all.
  const Floats both =
      scheduler.scale_noise(ctx, tensor(kX), Floats{timesteps[0], timesteps[0]}, tensor(kNoise)).to_vector<float>();
  EXPECT_EQ(both, scheduler.scale_noise(ctx, tensor(kX), Floats{timesteps[0]}, tensor(kNoise)).to_vector<float>());
}

TEST(SchedulerScaleNoise, WithBeginIndexTheCurrentStepsSigma) {
  Context ctx;
  Scheduler scheduler = scheduler_of({.shift = 3.0}, 4);
  scheduler.set_begin_index(1);
  const Floats ignored = {1.0f, 2.0f};
  expect_floats(scheduler.scale_noise(ctx, tensor(kX), ignored, tensor(kNoise)).to_vector<float>(),
                {0.121528357f, -0.657344699f, 0.507790923f, 0.587310612f, -0.528027713f, 0.935130596f});
  scheduler.step(ctx, tensor(kV), 0.0f, tensor(kX));
  expect_floats(scheduler.scale_noise(ctx, tensor(kX), ignored, tensor(kNoise)).to_vector<float>(),
                {-0.0597119033f, -0.641397953f, 0.190219402f, 0.611209512f, -0.42952463f, 1.2353518f});
}

TEST(SchedulerScaleNoise, Errors) {
  Context ctx;
  const Scheduler scheduler;
  const Floats one = {1000.0f};
  expect_error(ErrorCode::invalid_argument, {"noise", "[3, 2]", "[2, 3]"}, [&] {
    scheduler.scale_noise(ctx, tensor(kX), one, tensor(kNoise, {3, 2}));
  });
  expect_error(ErrorCode::invalid_argument, {"differ in type", "bfloat16", "float32"},
               [&] { scheduler.scale_noise(ctx, tensor(kX), one, tensor(kNoise).to(DType::bfloat16)); });
  expect_error(ErrorCode::invalid_argument, {"timesteps", "found 3", "1 or 2"}, [&] {
    scheduler.scale_noise(ctx, tensor(kX), Floats{1, 2, 3}, tensor(kNoise));
  });
  expect_error(ErrorCode::invalid_argument, {"not in the schedule", "0.5"},
               [&] { scheduler.scale_noise(ctx, tensor(kX), Floats{0.5f}, tensor(kNoise)); });
  expect_error(ErrorCode::invalid_argument, {"float64", "float32 or bfloat16"},
               [&] { scheduler.scale_noise(ctx, tensor(kX).to(DType::float64), one, tensor(kNoise)); });
}

// ---- options

TEST(SchedulerErrors, Config) {
  expect_error(ErrorCode::invalid_argument, {"only one of", "false, true, true"},
               [] { Scheduler(Config{.use_karras_sigmas = true, .use_exponential_sigmas = true}); });
  expect_error(ErrorCode::invalid_argument, {"only one of", "true, false, true"},
               [] { Scheduler(Config{.use_karras_sigmas = true, .use_beta_sigmas = true}); });
  expect_error(ErrorCode::unsupported, {"beta sigmas", "use_karras_sigmas"},
               [] { Scheduler(Config{.use_beta_sigmas = true}); });
  expect_error(ErrorCode::invalid_argument, {"num_train_timesteps", "found 0"},
               [] { Scheduler(Config{.num_train_timesteps = 0}); });
  expect_error(ErrorCode::invalid_argument, {"num_train_timesteps"},
               [] { Scheduler(Config{.num_train_timesteps = int64_t{1} << 40}); });
  for (const double shift : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN()})
    expect_error(ErrorCode::invalid_argument, {"shift is out of range"}, [&] { Scheduler(Config{.shift = shift}); });
}

TEST(SchedulerErrors, SetTimesteps) {
  Scheduler scheduler = scheduler_of({}, 3);
  const Floats before = scheduler.sigmas();
  const auto fails = [&](const std::vector<std::string>& parts, std::optional<int64_t> n,
                         const SetTimestepsOptions& options) {
    expect_error(ErrorCode::invalid_argument, parts, [&] { scheduler.set_timesteps(n, options); });
  };
  fails({"num_inference_steps", "found 0"}, 0, {});
  fails({"num_inference_steps", "found -3"}, -3, {});
  fails({"number of steps is missing"}, {}, {});
  fails({"sigmas and timesteps should have the same length", "found 2", "expected 1"}, {},
        {.sigmas = D{1, 0.5}, .timesteps = D{900}});
  fails({"sigmas and num_inference_steps", "found 2", "expected 3"}, 3, {.sigmas = D{1, 0.5}});
  fails({"timesteps and num_inference_steps", "found 1", "expected 3"}, 3, {.timesteps = D{900}});
  fails({"number of steps", "found 0"}, {}, {.sigmas = D{}});
  fails({"sigmas[1] is not finite"}, {}, {.sigmas = D{1, std::numeric_limits<double>::infinity()}});
  EXPECT_EQ(scheduler.sigmas(), before);

  expect_error(ErrorCode::invalid_argument, {"mu must be passed when use_dynamic_shifting"},
               [] { scheduler_of({.use_dynamic_shifting = true}, 3); });
  expect_error(ErrorCode::invalid_argument, {"not finite", "2 steps or more"},
               [] { scheduler_of({.shift_terminal = 0.1}, 1); });
  expect_error(ErrorCode::invalid_argument, {"not finite", "exponential sigmas"}, [] {
    scheduler_of({.use_exponential_sigmas = true}, {}, {.sigmas = D{1, 0.5, 0}});
  });
  expect_error(ErrorCode::invalid_argument, {"shift is out of range", "set_shift"}, [&] { scheduler.set_shift(-2); });
}

// ---- scheduler_config.json

class SchedulerFile : public testing::Test {
 protected:
  SchedulerFile() {
    std::string pattern = testing::TempDir() + "raedit_scheduler_XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  ~SchedulerFile() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  Scheduler load(const std::string& text) {
    std::ofstream(folder_ + "/scheduler_config.json") << text;
    return Scheduler::from_pretrained(folder_);
  }
  std::string folder_;
};

TEST_F(SchedulerFile, EverythingComesBack) {
  const Config config{.num_train_timesteps = 321,
                      .shift = std::sqrt(3.0),
                      .use_dynamic_shifting = true,
                      .base_shift = std::nullopt,
                      .max_shift = 2.5,
                      .base_image_seq_len = 64,
                      .max_image_seq_len = 128,
                      .invert_sigmas = true,
                      .shift_terminal = 0.1,
                      .use_exponential_sigmas = true,
                      .time_shift_type = TimeShiftType::linear,
                      .stochastic_sampling = true};
  Scheduler(config).save_pretrained(folder_ + "/a/scheduler");
  EXPECT_EQ(Scheduler::from_pretrained(folder_ + "/a/scheduler").config(), config);
  Scheduler(Config{.use_karras_sigmas = true}).save_pretrained(folder_);
  EXPECT_EQ(Scheduler::from_config(folder_ + "/scheduler_config.json").config(), Config{.use_karras_sigmas = true});
}

TEST_F(SchedulerFile, HasDiffusersKeysAndOrder) {
  Scheduler(Config{.shift = 1.5}).save_pretrained(folder_);
  std::ifstream file(folder_ + "/scheduler_config.json");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  EXPECT_EQ(text, R"({
  "_class_name": "FlowMatchEulerDiscreteScheduler",
  "base_image_seq_len": 256,
  "base_shift": 0.5,
  "invert_sigmas": false,
  "max_image_seq_len": 4096,
  "max_shift": 1.15,
  "num_train_timesteps": 1000,
  "shift": 1.5,
  "shift_terminal": null,
  "stochastic_sampling": false,
  "time_shift_type": "exponential",
  "use_beta_sigmas": false,
  "use_dynamic_shifting": false,
  "use_exponential_sigmas": false,
  "use_karras_sigmas": false
}
)");
}

TEST_F(SchedulerFile, MissingKeysAreDefaultsAndPrivateOnesPass) {
  EXPECT_EQ(load(R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.40.0"})").config(),
            Config{});
  EXPECT_EQ(load(R"({"shift": 2, "max_shift": null})").config(), (Config{.shift = 2.0, .max_shift = std::nullopt}));
}

TEST_F(SchedulerFile, Errors) {
  expect_error(ErrorCode::not_found, {"scheduler_config.json"}, [&] { Scheduler::from_pretrained(folder_); });
  expect_error(ErrorCode::format, {"scheduler_config.json", "shfit", "'shift'"}, [&] { load(R"({"shfit": 2.0})"); });
  expect_error(ErrorCode::format, {"time_shift_type", "cubic", "\"exponential\" or \"linear\""},
               [&] { load(R"({"time_shift_type": "cubic"})"); });
  expect_error(ErrorCode::format, {"_class_name", "DDIMScheduler", "FlowMatchEulerDiscreteScheduler"},
               [&] { load(R"({"_class_name": "DDIMScheduler"})"); });
  expect_error(ErrorCode::format, {"use_karras_sigmas", "true or false"}, [&] { load(R"({"use_karras_sigmas": 1})"); });
  expect_error(ErrorCode::format, {"shift"}, [&] { load(R"({"shift": null})"); });
  expect_error(ErrorCode::format, {"scheduler_config.json", "num_train_timesteps", "found 0"},
               [&] { load(R"({"num_train_timesteps": 0})"); });
  expect_error(ErrorCode::unsupported, {"scheduler_config.json", "beta"},
               [&] { load(R"({"use_beta_sigmas": true})"); });
}

// ---- guidance

TEST(Guidance, MovesAwayFromTheUnconditional) {
  Context ctx;
  const Floats found = classifier_free_guidance(ctx, tensor(kX), tensor(kV), 3.7).to_vector<float>();
  for (size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i], kV[i] + 3.7f * (kX[i] - kV[i]));
}

TEST(Guidance, RoundsEveryStepInBfloat16) {
  Context ctx;
  const Tensor cond = tensor(kX).to(DType::bfloat16);
  const Tensor uncond = tensor(kV).to(DType::bfloat16);
  const Tensor found = classifier_free_guidance(ctx, cond, uncond, 3.7);
  ASSERT_EQ(found.dtype(), DType::bfloat16);
  const auto round = [](float value) { return static_cast<float>(bfloat16(value)); };
  const Floats c = cond.to_vector<float>();
  const Floats u = uncond.to_vector<float>();
  const Floats values = found.to_vector<float>();
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], round(u[i] + round(3.7f * round(c[i] - u[i])))) << i;
}

TEST(Guidance, IntervalIncludesItsEnds) {
  EXPECT_TRUE(guidance_active(1.0f, 0.0, 1.0));
  EXPECT_TRUE(guidance_active(0.0f, 0.0, 1.0));
  EXPECT_TRUE(guidance_active(0.5f, 0.5, 0.5));
  EXPECT_FALSE(guidance_active(std::nextafter(0.5f, 1.0f), 0.5, 0.5));
  EXPECT_FALSE(guidance_active(std::nextafter(0.5f, 0.0f), 0.5, 0.5));
  // float32(0.8) > 0.8 and float32(0.3) > 0.3, float32(0.7) < 0.7: all are inside for torch, which rounds the bounds.
  EXPECT_TRUE(guidance_active(0.8f, 0.3, 0.8));
  EXPECT_TRUE(guidance_active(0.7f, 0.7, 0.8));
  EXPECT_FALSE(guidance_active(std::nextafter(0.8f, 1.0f), 0.3, 0.8));
}

}  // namespace
}  // namespace raedit
