// Learning rates, time densities and loss weights against what torch and diffusers computed
// (tests/parity/data/training/schedules.safetensors: base rate 1e-3, 10 warm-up steps of 100; densities drawn from seed
// 0, logit_normal with mean 0.2 and deviation 0.8).
#include <gtest/gtest.h>

#include "diffusion/loss_weighting.h"
#include "io/safetensors.h"
#include "train/lr_schedule.h"
#include "unit/expect_error.h"

namespace raedit {
namespace {

using namespace train;

const SafetensorsFile& expected() {
  static const auto file = SafetensorsFile::open(std::string(RAEDIT_TEST_DATA) + "/training/schedules.safetensors");
  return file;
}

TEST(LrSchedule, AreDiffusers) {
  for (const char* name :
       {"constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"}) {
    const LrSchedule schedule{lr_schedule_from_name(name), 1e-3, 10, 100};
    const auto lrs = expected().tensor(std::string("lr.") + name).to_vector<double>();
    ASSERT_EQ(lrs.size(), 100u);
    for (int64_t step = 0; step < 100; ++step)
      EXPECT_NEAR(schedule.lr(step), lrs[static_cast<size_t>(step)], 1e-10) << name << " at " << step;
  }
}

TEST(LrSchedule, EndsWhereItShould) {
  EXPECT_EQ((LrSchedule{LrScheduleType::cosine_with_restarts, 1.0, 0, 10, 2.0}.lr(10)), 0.0);
  EXPECT_NEAR((LrSchedule{LrScheduleType::cosine_with_restarts, 1.0, 0, 10, 2.0}.lr(5)), 1.0, 1e-12);
  EXPECT_EQ((LrSchedule{LrScheduleType::polynomial, 1.0, 0, 10, 1.0, 2.0, 0.25}.lr(11)), 0.25);
  EXPECT_NEAR((LrSchedule{LrScheduleType::polynomial, 1.0, 0, 10, 1.0, 2.0, 0.25}.lr(5)), 0.75 * 0.25 + 0.25, 1e-12);
  EXPECT_EQ((LrSchedule{LrScheduleType::linear, 1.0, 0, 10}.lr(12)), 0.0);
  EXPECT_RAEDIT_ERROR((LrSchedule{LrScheduleType::polynomial, 1e-8, 0, 10}.lr(1)), ErrorCode::invalid_argument,
                      "lr_end");
  EXPECT_RAEDIT_ERROR(lr_schedule_from_name("cosin"), ErrorCode::invalid_argument, "cosin", "'cosine'");
}

TEST(PiecewiseConstantLr, FollowsItsRules) {
  const auto schedule = PiecewiseConstantLr::parse("1:10,0.1:20,0.01", 2.0);
  EXPECT_DOUBLE_EQ(schedule.lr(0), 2.0);
  EXPECT_DOUBLE_EQ(schedule.lr(9), 2.0);
  EXPECT_DOUBLE_EQ(schedule.lr(10), 0.2);
  EXPECT_DOUBLE_EQ(schedule.lr(19), 0.2);
  EXPECT_DOUBLE_EQ(schedule.lr(20), 0.02);
  EXPECT_DOUBLE_EQ(PiecewiseConstantLr::parse("0.5", 2.0).lr(7), 1.0);
  for (const char* rules : {"", "1:10", "1:x,2", "1:20,0.5:10,1", "-1", "1:10,,1", "1;10,1"})
    EXPECT_RAEDIT_ERROR(PiecewiseConstantLr::parse(rules, 1.0), ErrorCode::invalid_argument, rules);
}

TEST(UpstreamLr, IsConstantThenDecays) {
  UpstreamLr lr{UpstreamLr::Shape::linear, 2e-4, 2e-5, 40, 800, false};
  EXPECT_DOUBLE_EQ(lr.lr(0), 2e-4);
  EXPECT_DOUBLE_EQ(lr.lr(39), 2e-4);
  EXPECT_NEAR(lr.lr(420), (2e-4 + 2e-5) / 2, 1e-18);
  EXPECT_DOUBLE_EQ(lr.lr(800), 2e-5);
  EXPECT_DOUBLE_EQ(lr.lr(100000), 2e-5);
  lr.warmup_from_zero = true;
  EXPECT_DOUBLE_EQ(lr.lr(0), 2e-4 / 40);
  EXPECT_DOUBLE_EQ(lr.lr(39), 2e-4);
  lr.shape = UpstreamLr::Shape::cosine;
  EXPECT_NEAR(lr.lr(420), (2e-4 + 2e-5) / 2, 1e-18);
  EXPECT_GT(lr.lr(230), (2e-4 + 2e-5) / 2);
}

TEST(LossWeighting, DensitiesAndWeightsAreDiffusers) {
  const auto sigmas = expected().tensor("weight.sigmas").to_vector<float>();
  for (const char* name : {"none", "sigma_sqrt", "logit_normal", "mode", "cosmap"}) {
    const auto scheme = diffusion::weighting_scheme_from_name(name);
    Generator generator(0);
    const auto u = diffusion::sample_density({scheme, 0.2, 0.8, 1.29}, 64, generator);
    const auto density = expected().tensor(std::string("density.") + name).to_vector<float>();
    ASSERT_EQ(u.size(), density.size());
    for (size_t i = 0; i < u.size(); ++i) EXPECT_NEAR(u[i], density[i], 2e-7) << name << " " << i;
    const auto weights = expected().tensor(std::string("weight.") + name).to_vector<float>();
    for (size_t i = 0; i < sigmas.size(); ++i)
      EXPECT_NEAR(diffusion::loss_weight(scheme, sigmas[i]), weights[i], 2e-7 * weights[i]) << name << " " << i;
  }
  EXPECT_RAEDIT_ERROR(diffusion::weighting_scheme_from_name("logit-normal"), ErrorCode::invalid_argument,
                      "'logit_normal'");
}

}  // namespace
}  // namespace raedit
