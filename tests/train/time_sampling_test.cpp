// Upstream's times, drawn by its own code from torch's generator seeded 5 (bytetriper/RAE a4d18c4, torch 2.15).
#include "diffusion/time_sampling.h"

#include <gtest/gtest.h>

#include <cmath>

#include "unit/expect_error.h"

namespace raedit {
namespace {

using diffusion::TimeDistribution;

void expect_times(const std::string& type, double shift, const std::vector<double>& expected) {
  Generator generator(5);
  const auto times =
      diffusion::sample_times(TimeDistribution::parse(type, shift), static_cast<int64_t>(expected.size()), generator);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(times[i], expected[i], 3e-7) << type << " " << i;
}

TEST(TimeSampling, IsUpstreams) {
  expect_times("uniform", 1, {0.829421639, 0.125984803, 0.906562209, 0.819107115, 0.919183314, 0.116528571});
  expect_times("logit-normal_0_1", 1, {0.722151935, 0.241409123, 0.790067673, 0.714040041, 0.803097486, 0.232914716});
  expect_times("logit-normal_0_1", 4, {0.912252665, 0.560040116, 0.937709272, 0.908991396, 0.942245364, 0.548439741});
  expect_times("logit-normal_-0.5_0.7", 1,
               {0.54205358, 0.213916257, 0.605332315, 0.535082459, 0.618700743, 0.208441079});
  expect_times("logit-normal_1_2", 4, {0.986431241, 0.52359271, 0.993437827, 0.985322773, 0.994395077, 0.500143111});
}

TEST(TimeSampling, StaysWithinItsBounds) {
  Generator generator(7);
  for (const char* type : {"uniform", "logit-normal_0_1", "logit-normal_9_3", "logit-normal_-9_3"})
    for (const float t : diffusion::sample_times(TimeDistribution::parse(type, 1), 20000, generator)) {
      ASSERT_GE(t, 0.0f) << type;
      ASSERT_LE(t, 0.999f) << type;
    }
}

TEST(TimeSampling, ErfinvIsTheInverse) {
  for (double y = -0.999999; y < 1; y += 0.000937) EXPECT_NEAR(std::erf(diffusion::erfinv(y)), y, 1e-15) << y;
  for (const double tail : {1e-3, 1e-6, 1e-8, 1e-15})
    EXPECT_NEAR(std::erfc(diffusion::erfinv(1 - tail)) / (1 - (1 - tail)), 1, 1e-9);
  EXPECT_TRUE(std::isinf(diffusion::erfinv(1)));
  EXPECT_EQ(diffusion::erfinv(0), 0);
}

TEST(TimeSampling, RefusesWhatItDoesNotKnow) {
  for (const char* type : {"", "normal", "logit-normal", "logit-normal_0", "logit-normal_a_1", "logit-normal_0_1_2"})
    EXPECT_RAEDIT_ERROR(TimeDistribution::parse(type, 1), ErrorCode::invalid_argument, "logit-normal_MU_SIGMA");
  EXPECT_RAEDIT_ERROR(TimeDistribution::parse("logit-normal_0_0", 1), ErrorCode::invalid_argument, "above 0");
  EXPECT_RAEDIT_ERROR(TimeDistribution::parse("uniform", 0.5), ErrorCode::invalid_argument, "shift", "0.5");
}

}  // namespace
}  // namespace raedit
