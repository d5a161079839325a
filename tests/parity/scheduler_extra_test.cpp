// Every schedule, step and scale_noise of tests/parity/data/extra/scheduler.safetensors, each made as the file itself
// says (metadata "cases", written by tools/dump_reference.py).
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "core/json.h"
#include "io/safetensors.h"
#include "parity/agreement.h"
#include "raedit/error.h"
#include "raedit/flow_match_euler_discrete.h"

namespace raedit {
namespace {

using Config = FlowMatchEulerDiscreteSchedulerConfig;
using Scheduler = FlowMatchEulerDiscreteScheduler;
using testing::agreement;

constexpr double kFloat32 = 1e-6;

class SchedulerExtra : public ::testing::Test {
 protected:
  SafetensorsFile file = SafetensorsFile::open(RAEDIT_TEST_DATA "/extra/scheduler.safetensors");
  Json cases = parse_json(file.metadata().at("cases"), "cases");
  Context ctx;

  Tensor tensor(const std::string& name) const { return file.tensor(name); }

  // The reference rounds every product and sum of a bfloat16 step, raedit the result alone: half a unit in the last
  // place of each of three roundings.
  void expect_close(const std::string& name, const Tensor& found, const Tensor& expected) const {
    ASSERT_EQ(found.dtype(), expected.dtype()) << name;
    ASSERT_EQ(found.shape(), expected.shape()) << name;
    const double bound = found.dtype() == DType::bfloat16 ? 3.0 / 512.0 : kFloat32;
    EXPECT_LE(agreement(found, expected).relative(), bound) << name;
  }
};

Config config_of(const Json& json) {
  JsonReader reader(json, "config");
  Config c;
  c.num_train_timesteps = reader.int64("num_train_timesteps", c.num_train_timesteps);
  c.shift = reader.number("shift", c.shift);
  c.use_dynamic_shifting = reader.boolean("use_dynamic_shifting", false);
  c.invert_sigmas = reader.boolean("invert_sigmas", false);
  c.shift_terminal = reader.optional_number("shift_terminal");
  c.use_karras_sigmas = reader.boolean("use_karras_sigmas", false);
  c.use_exponential_sigmas = reader.boolean("use_exponential_sigmas", false);
  c.use_beta_sigmas = reader.boolean("use_beta_sigmas", false);
  c.stochastic_sampling = reader.boolean("stochastic_sampling", false);
  if (reader.string("time_shift_type", "exponential") == "linear") c.time_shift_type = TimeShiftType::linear;
  reader.finish();
  return c;
}

std::optional<std::vector<double>> numbers(const Json& json, const char* key) {
  if (!json.contains(key) || json[key].is_null()) return std::nullopt;
  return json[key].get<std::vector<double>>();
}

void set_timesteps(Scheduler& scheduler, const Json& arguments) {
  JsonReader reader(arguments, "set_timesteps");
  SetTimestepsOptions options{.mu = reader.optional_number("mu"),
                              .sigmas = numbers(arguments, "sigmas"),
                              .timesteps = numbers(arguments, "timesteps")};
  scheduler.set_timesteps(reader.optional_int64("num_inference_steps"), options);
}

// Of two numbers of one sign: neighbours of a float are one apart.
int64_t ulps(float a, float b) {
  return std::abs(int64_t{std::bit_cast<int32_t>(a)} - int64_t{std::bit_cast<int32_t>(b)});
}

void expect_one_ulp(const std::string& name, const std::vector<float>& found, const Tensor& expected) {
  const std::vector<float> wanted = expected.to_vector<float>();
  ASSERT_EQ(found.size(), wanted.size()) << name;
  for (size_t i = 0; i < wanted.size(); ++i)
    EXPECT_LE(ulps(found[i], wanted[i]), 1) << name << "[" << i << "]: " << found[i] << " for " << wanted[i];
}

TEST_F(SchedulerExtra, EverySchedule) {
  int compared = 0, refused = 0;
  for (const auto& [name, how] : cases.items()) {
    if (!file.contains(name + ".sigmas")) continue;
    const Config config = config_of(how["config"]);
    if (config.use_beta_sigmas) {  // known, and refused
      EXPECT_THROW(Scheduler{config}, Error) << name;
      ++refused;
      continue;
    }
    Scheduler scheduler(config);
    if (how.contains("before")) {
      if (how["before"].contains("set_shift")) scheduler.set_shift(how["before"]["set_shift"]);
      if (how["before"].contains("set_timesteps"))
        scheduler.set_timesteps(how["before"]["set_timesteps"].get<int64_t>());
      set_timesteps(scheduler, how["set_timesteps"]);
    } else {
      EXPECT_FLOAT_EQ(scheduler.sigma_min(), how["sigma_min"].get<float>()) << name;
      EXPECT_FLOAT_EQ(scheduler.sigma_max(), how["sigma_max"].get<float>()) << name;
    }
    expect_one_ulp(name + ".sigmas", scheduler.sigmas(), tensor(name + ".sigmas"));
    expect_one_ulp(name + ".timesteps", scheduler.timesteps(), tensor(name + ".timesteps"));
    ++compared;
  }
  EXPECT_EQ(compared, 27);
  EXPECT_EQ(refused, 2);
}

// Each step from the reference's own sample, so that one step's rounding is not the next one's difference.
TEST_F(SchedulerExtra, EveryRun) {
  int compared = 0;
  for (const auto& [name, how] : cases.items()) {
    if (!name.starts_with("step") || name == "step_repeated") continue;
    Scheduler scheduler(config_of(how["config"]));
    set_timesteps(scheduler, Json{{"num_inference_steps", how["num_inference_steps"]}});
    size_t first = how["start"].get<size_t>();
    if (!how["begin_index"].is_null()) {
      first = how["begin_index"].get<size_t>();
      scheduler.set_begin_index(static_cast<int64_t>(first));
    }
    const Tensor outputs = tensor(name + ".model_output"), expected = tensor(name + ".prev_sample");
    ASSERT_EQ(outputs.dim(0), static_cast<int64_t>(scheduler.timesteps().size() - first)) << name;
    Tensor sample = tensor(name + ".sample");
    for (int64_t k = 0; k < outputs.dim(0); ++k) {
      StepOptions options;
      if (file.contains(name + ".noise")) options.noise = tensor(name + ".noise").select(0, k);
      const float t = scheduler.timesteps()[first + static_cast<size_t>(k)];
      const Tensor next = scheduler.step(ctx, outputs.select(0, k), t, sample, options);
      sample = expected.select(0, k);
      expect_close(name + " step " + std::to_string(k), next, sample);
    }
    ++compared;
  }
  EXPECT_EQ(compared, 7);
}

// The same draws come from our generator, seeded as the reference's was.
TEST_F(SchedulerExtra, NoiseOfTheReferencesSeed) {
  const Json how = cases["step_stochastic"];
  Generator generator(how["generator_seed"].get<uint64_t>());
  const Tensor noise = tensor("step_stochastic.noise");
  for (int64_t k = 0; k < noise.dim(0); ++k) {
    const Tensor drawn = generator.randn(noise.select(0, k).shape());
    EXPECT_LE(agreement(drawn, noise.select(0, k)).max_absolute, 2e-6) << k;
  }
}

TEST_F(SchedulerExtra, OfEqualTimestepsTheSecond) {
  const Json how = cases["step_repeated"];
  Scheduler scheduler(config_of(how["config"]));
  set_timesteps(scheduler, Json{{"sigmas", how["sigmas"]}});
  const float t = scheduler.timesteps()[how["start"].get<size_t>()];
  const Tensor next = scheduler.step(ctx, tensor("step_repeated.model_output"), t, tensor("step_repeated.sample"));
  expect_close("step_repeated", next, tensor("step_repeated.prev_sample"));
  EXPECT_EQ(scheduler.step_index(), how["step_index_after"].get<int64_t>());
}

TEST_F(SchedulerExtra, PerToken) {
  for (const std::string name : {"per_token", "per_token_stochastic"}) {
    const Json how = cases[name];
    Scheduler scheduler(config_of(how["config"]));
    scheduler.set_timesteps(how["num_inference_steps"].get<int64_t>());
    StepOptions options{.per_token_timesteps = tensor(name + ".per_token_timesteps")};
    if (file.contains(name + ".noise")) options.noise = tensor(name + ".noise");
    const Tensor next = scheduler.step(ctx, tensor(name + ".model_output"), scheduler.timesteps()[0],
                                       tensor(name + ".sample"), options);
    expect_close(name, next, tensor(name + ".prev_sample"));
  }
}

TEST_F(SchedulerExtra, ScaleNoise) {
  struct Case {
    std::string inputs, timesteps, result;
    const char* how;
  };
  const std::vector<Case> list = {
      {"scale_noise", "scale_noise", "scale_noise", "scale_noise"},
      {"scale_noise_bfloat16", "scale_noise_bfloat16", "scale_noise_bfloat16", "scale_noise"},
      {"scale_noise_bfloat16", "scale_noise_bfloat16", "scale_noise_begin_2_bfloat16", "scale_noise_begin_2_bfloat16"},
      {"scale_noise", "scale_noise_train", "scale_noise_train", "scale_noise_train"}};
  for (const Case& c : list) {
    const Json how = cases[c.how];
    Scheduler scheduler(config_of(how["config"]));
    if (how.contains("num_inference_steps")) scheduler.set_timesteps(how["num_inference_steps"].get<int64_t>());
    if (how.contains("begin_index")) scheduler.set_begin_index(how["begin_index"].get<int64_t>());
    const std::vector<float> t = tensor(c.timesteps + ".timestep").to_vector<float>();
    const Tensor noisy = scheduler.scale_noise(ctx, tensor(c.inputs + ".sample"), t, tensor(c.inputs + ".noise"));
    expect_close(c.result, noisy, tensor(c.result + ".result"));
  }
}

TEST_F(SchedulerExtra, NothingOfTheFileIsLeftOut) {
  EXPECT_EQ(cases.size(), 29u + 8 + 2 + 3);  // schedules, runs, per token, scale_noise
}

}  // namespace
}  // namespace raedit
