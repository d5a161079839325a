// The communicator among real processes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "dist/gradient_sum.h"
#include "dist/started_ranks.h"
#include "raedit/generator.h"
#include "raedit/tensor.h"
#include "unit/expect_error.h"

namespace raedit::dist {
namespace {

using test::ranks;
const auto* const kStarted = ::testing::AddGlobalTestEnvironment(new test::StartedRanks);

Tensor numbers_of(int rank, int64_t count) {
  return Generator(static_cast<uint64_t>(100 + rank)).randn({count});
}

// In the order of the ranks.
template <class T>
std::vector<T> expected_sum(int64_t count) {
  std::vector<T> sum = numbers_of(0, count).to_vector<T>();
  for (int rank = 1; rank < ranks().size(); ++rank) {
    const auto more = numbers_of(rank, count).to_vector<T>();
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += more[i];
  }
  return sum;
}

TEST(Ranks, AreThoseThatWereStarted) {
  EXPECT_EQ(ranks().size(), test::expected_ranks());
  EXPECT_GE(ranks().size(), 2);
  std::vector<double> seen(static_cast<size_t>(ranks().size()));
  seen.at(static_cast<size_t>(ranks().rank())) = 1;
  ranks().all_reduce(std::span<double>(seen));
  EXPECT_EQ(seen, std::vector<double>(seen.size(), 1.0));
  EXPECT_EQ(ranks().is_first(), ranks().rank() == 0);
}

TEST(Ranks, AreOpenedOnce) {
  EXPECT_RAEDIT_ERROR(open_communicator(), ErrorCode::unsupported, "MPI was begun before");
}

class SumOf : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(All, SumOf, ::testing::Values(0, 1, 2, 5, 1000, 300001));

TEST_P(SumOf, HasTheSameBitsEverywhere) {
  const auto mine = numbers_of(ranks().rank(), GetParam());
  auto floats = mine.to_vector<float>();
  auto doubles = mine.to_vector<double>();
  ranks().all_reduce(std::span<float>(floats));
  ranks().all_reduce(std::span<double>(doubles));
  EXPECT_TRUE(floats == expected_sum<float>(GetParam()));
  EXPECT_TRUE(doubles == expected_sum<double>(GetParam()));
}

TEST(Ranks, HaveManySumsUnderWay) {
  const std::vector<int64_t> counts{70000, 1, 0, 300000, 12345, 70000};
  for (const bool asking : {false, true}) {
    std::vector<std::vector<float>> values;
    for (const int64_t count : counts) values.push_back(numbers_of(ranks().rank(), count).to_vector<float>());
    std::vector<std::unique_ptr<Request>> requests;
    for (auto& some : values) requests.push_back(ranks().begin_all_reduce(some));
    // Each rank goes on in another order, as ranks of different speed do.
    for (size_t k = 0; k < requests.size(); ++k) {
      Request& request = *requests[(k + static_cast<size_t>(ranks().rank())) % requests.size()];
      if (asking)
        for (bool all = false; !all;) {  // all go on while one is asked for
          all = request.test();
          for (const auto& other : requests) other->test();
        }
    }
    for (const auto& request : requests) request->wait();
    for (size_t i = 0; i < counts.size(); ++i) EXPECT_TRUE(values[i] == expected_sum<float>(counts[i])) << i;
  }
}

TEST(Ranks, SumGradientsInBuckets) {
  const std::vector<int64_t> counts{300000, 17, 40000, 1, 280000, 5000};
  std::vector<Tensor> gradients;
  std::vector<std::shared_ptr<Storage>> storages;
  for (const int64_t count : counts) {
    gradients.push_back(numbers_of(ranks().rank(), count));
    storages.push_back(gradients.back().storage());
  }
  GradientSum sum(ranks(), storages, 512 * 1024);
  // What is ready first is not the same everywhere.
  for (size_t k = 0; k < counts.size(); ++k) sum.ready((k + static_cast<size_t>(ranks().rank())) % counts.size());
  sum.finish();
  for (size_t i = 0; i < counts.size(); ++i)
    EXPECT_TRUE(gradients[i].to_vector<float>() == expected_sum<float>(counts[i])) << i;
}

TEST(Ranks, HearWhatOneOfThemHas) {
  for (int root = 0; root < ranks().size(); ++root) {
    const std::string text = "rank " + std::to_string(ranks().rank()) + std::string(1 << 17, 'x');
    EXPECT_EQ(ranks().broadcast(text, root).substr(0, 6), "rank " + std::to_string(root));
    auto values = numbers_of(ranks().rank(), 1000).to_vector<float>();
    ranks().broadcast(values.data(), values.size() * sizeof(float), root);
    EXPECT_TRUE(values == numbers_of(root, 1000).to_vector<float>());
    EXPECT_TRUE(ranks().any(ranks().rank() == root));
  }
  EXPECT_FALSE(ranks().any(false));
  EXPECT_EQ(ranks().broadcast("", 0), "");
  ranks().barrier();
}

}  // namespace
}  // namespace raedit::dist
