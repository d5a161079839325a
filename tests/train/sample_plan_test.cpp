// The stream of samples: every epoch all pictures once, whatever batches, ranks and restarts cut it into; and what is
// drawn for a sample depends on its place alone.
#include "train/sample_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <thread>
#include <tuple>

#include "train/objective.h"

namespace raedit::train {
namespace {

auto key(const Sample& s) {
  return std::tuple(s.picture, s.picture_seed, s.noise_seed);
}

TEST(SamplePlan, EveryEpochHasEveryPictureOnce) {
  constexpr int64_t kPictures = 37;
  const SamplePlan plan(kPictures, 5);
  std::vector<std::vector<int64_t>> epochs;
  for (int64_t epoch = 0; epoch < 4; ++epoch) {
    std::vector<int64_t> order;
    for (int64_t i = 0; i < kPictures; ++i) order.push_back(plan.at(epoch * kPictures + i).picture);
    epochs.push_back(order);
    std::sort(order.begin(), order.end());
    for (int64_t i = 0; i < kPictures; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
  }
  for (size_t a = 0; a < epochs.size(); ++a)
    for (size_t b = 0; b < a; ++b) EXPECT_NE(epochs[a], epochs[b]);
}

TEST(SamplePlan, PlacesAndSeedsAreUniformEnough) {
  const SamplePlan plan(10, 1);
  // Where picture 0 stands in an epoch: ten places, 2000 epochs; chi-square with 9 degrees of freedom, bound at p 1e-6.
  std::vector<double> counts(10);
  std::set<uint64_t> seeds;
  for (int64_t position = 0; position < 20000; ++position) {
    const Sample sample = plan.at(position);
    if (sample.picture == 0) counts[static_cast<size_t>(position % 10)] += 1;
    seeds.insert(sample.picture_seed);
    seeds.insert(sample.noise_seed);
  }
  double chi_square = 0;
  for (const double count : counts) chi_square += (count - 200) * (count - 200) / 200;
  EXPECT_LT(chi_square, 45.0);
  EXPECT_EQ(seeds.size(), 40000u);
}

TEST(SamplePlan, ASampleDoesNotDependOnWhatWasAskedBefore) {
  const SamplePlan forward(23, 9), backward(23, 9), other(23, 10);
  std::vector<Sample> samples;
  for (int64_t i = 0; i < 100; ++i) samples.push_back(forward.at(i));
  int64_t different = 0;
  for (int64_t i = 99; i >= 0; --i) {
    EXPECT_EQ(key(backward.at(i)), key(samples[static_cast<size_t>(i)])) << i;
    different += other.at(i).picture != samples[static_cast<size_t>(i)].picture ? 1 : 0;
  }
  EXPECT_GT(different, 50);
}

TEST(SamplePlan, IsTheSameFromManyThreads) {
  const SamplePlan plan(100, 3), alone(100, 3);
  std::vector<Sample> found(4000);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (size_t i = t; i < found.size(); i += 4) found[i] = plan.at(static_cast<int64_t>(i));
    });
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < found.size(); ++i) EXPECT_EQ(key(found[i]), key(alone.at(static_cast<int64_t>(i))));
}

// The samples of a step are those of one rank with the whole batch, however it is cut.
TEST(BatchCut, CoversTheGlobalBatchOnce) {
  constexpr int64_t kStart = 240;
  for (const auto& [batch, accumulation, ranks] :
       {std::tuple{12, 1, 1}, std::tuple{6, 2, 1}, std::tuple{3, 2, 2}, std::tuple{4, 1, 3}, std::tuple{1, 3, 4}}) {
    std::vector<int64_t> positions;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const BatchCut cut{batch, accumulation, rank, ranks};
      EXPECT_EQ(cut.global_batch(), 12);
      for (int64_t k = 0; k < 2 * accumulation; ++k)
        for (int64_t i = 0; i < batch; ++i) {
          const int64_t position = cut.position(kStart, k) + i;
          EXPECT_EQ((position - kStart) / 12, k / accumulation) << "in its step";
          positions.push_back(position);
        }
    }
    std::sort(positions.begin(), positions.end());
    ASSERT_EQ(positions.size(), 24u);
    for (size_t i = 0; i < positions.size(); ++i) EXPECT_EQ(positions[i], kStart + static_cast<int64_t>(i));
  }
}

Objective objective_of(const std::string& times, double dropout, diffusion::DensityOptions density = {}) {
  FlowMatchEulerDiscreteSchedulerConfig config;
  config.shift = 3.0;
  return Objective(FlowMatchEulerDiscreteScheduler(config), times, density, dropout);
}

TEST(Objective, DrawsDependOnTheSeedAlone) {
  for (const char* times : {"table", "uniform", "logit-normal_0_1"}) {
    const Objective objective = objective_of(times, 0.1);
    std::vector<float> a(48), b(48), c(48);
    const Drawn first = objective.draw(7, a.data(), 48);
    (void)objective.draw(8, c.data(), 48);
    const Drawn again = objective.draw(7, b.data(), 48);
    EXPECT_EQ(first.sigma, again.sigma);
    EXPECT_EQ(first.drops_label, again.drops_label);
    EXPECT_EQ(a, b);
    EXPECT_NE(a, c);
  }
}

// u in [0, 1) chooses a place of the table; shift 3 makes the mean of 3t / (1 + 2t) = 1.5 - 0.75 ln 3.
TEST(Objective, TheTableIsLookedUpUniformly) {
  const FlowMatchEulerDiscreteScheduler scheduler([] {
    FlowMatchEulerDiscreteSchedulerConfig config;
    config.shift = 3.0;
    return config;
  }());
  const std::set<float> table(scheduler.sigmas().begin(), scheduler.sigmas().end());
  const Objective objective = objective_of("table", 0.25);
  double sum = 0, dropped = 0;
  float noise[1];
  constexpr int kDraws = 20000;
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    const Drawn drawn = objective.draw(seed, noise, 1);
    EXPECT_TRUE(table.contains(drawn.sigma));
    EXPECT_EQ(drawn.weight, 1.0f);
    sum += drawn.sigma;
    dropped += drawn.drops_label ? 1 : 0;
  }
  EXPECT_NEAR(sum / kDraws, 1.5 - 0.75 * std::log(3.0), 0.01);  // six deviations of the mean
  EXPECT_NEAR(dropped / kDraws, 0.25, 0.02);
}

TEST(Objective, WeightsAreThoseOfTheSchemeAtTheSigma) {
  diffusion::DensityOptions density;
  density.scheme = diffusion::WeightingScheme::sigma_sqrt;
  const Objective objective = objective_of("table", 0.0, density);
  float noise[1];
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const Drawn drawn = objective.draw(seed, noise, 1);
    EXPECT_FLOAT_EQ(drawn.weight, 1.0f / (drawn.sigma * drawn.sigma));
    EXPECT_FALSE(drawn.drops_label);
  }
}

}  // namespace
}  // namespace raedit::train
