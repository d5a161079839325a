// Buckets: each element is summed once, whatever the sizes, and in the order of the buckets, whatever is ready first.
#include "dist/gradient_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "raedit/tensor.h"

namespace raedit::dist {
namespace {

// Of two ranks that say the same. A sum is there when it was waited for, or after some tests.
class Slow final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  void all_reduce(std::span<float>) override {}
  void all_reduce(std::span<double>) override {}
  std::unique_ptr<Request> begin_all_reduce(std::span<float> values) override {
    begun.push_back(values.size());
    return std::make_unique<Later>(values);
  }
  bool any(bool here) override { return here; }
  void broadcast(void*, size_t, int) override {}
  void barrier() override {}
  void end_all(int) override {}

  std::vector<size_t> begun;

 private:
  class Later final : public Request {
   public:
    explicit Later(std::span<float> values) : values_(values) {}
    bool test() override {
      if (--tests_ == 0) wait();
      return tests_ <= 0;
    }
    void wait() override {
      tests_ = 0;
      for (float& value : values_) value *= 2;
    }

   private:
    std::span<float> values_;
    int tests_ = 3;
  };
};

class GradientSumOf : public ::testing::TestWithParam<std::vector<int64_t>> {};
INSTANTIATE_TEST_SUITE_P(All, GradientSumOf,
                         ::testing::Values(std::vector<int64_t>{1}, std::vector<int64_t>{10, 20, 30, 40},
                                           std::vector<int64_t>{700000, 3, 5, 300000, 1000, 262144, 7},
                                           std::vector<int64_t>{70001, 70002, 70003}));

TEST_P(GradientSumOf, IsOfEveryElementOnce) {
  std::vector<Tensor> gradients;
  std::vector<std::shared_ptr<Storage>> storages;
  for (const int64_t count : GetParam()) {
    gradients.push_back(Tensor::empty({count}, DType::float32));
    storages.push_back(gradients.back().storage());
  }
  Slow ranks;
  GradientSum sum(ranks, storages, 256 * 1024);
  std::vector<std::vector<size_t>> orders(2, std::vector<size_t>(gradients.size()));
  std::iota(orders[0].begin(), orders[0].end(), size_t{0});
  std::iota(orders[1].rbegin(), orders[1].rend(), size_t{0});
  orders.push_back({gradients.size() / 2});  // finish() does what nobody spoke of
  orders.emplace_back();
  std::vector<size_t> sizes;
  for (const std::vector<size_t>& order : orders) {
    float next = 0;
    for (const Tensor& gradient : gradients)
      for (int64_t i = 0; i < gradient.numel(); ++i) gradient.data<float>()[i] = next += 0.25f;
    ranks.begun.clear();
    EXPECT_FALSE(sum.begun());
    for (const size_t index : order) sum.ready(index);
    EXPECT_EQ(sum.begun(), !order.empty());
    sum.finish();
    next = 0;
    for (const Tensor& gradient : gradients)
      for (int64_t i = 0; i < gradient.numel(); ++i) ASSERT_EQ(gradient.data<float>()[i], 2 * (next += 0.25f)) << i;
    EXPECT_EQ(ranks.begun.size(), sum.buckets());
    if (sizes.empty()) sizes = ranks.begun;
    EXPECT_EQ(ranks.begun, sizes);
    for (const size_t size : sizes) EXPECT_LE(size, 65536u);
  }
}

TEST(GradientSum, BeginsBeforeAllIsReady) {
  std::vector<std::shared_ptr<Storage>> storages;
  for (int i = 0; i < 4; ++i) storages.push_back(Tensor::zeros({65536}, DType::float32).storage());
  Slow ranks;
  GradientSum sum(ranks, storages, 256 * 1024);
  sum.ready(2);
  EXPECT_EQ(ranks.begun.size(), 0u);  // its turn is after the last one's
  sum.ready(3);
  EXPECT_EQ(ranks.begun.size(), 2u);
  sum.ready(1);
  EXPECT_EQ(ranks.begun.size(), 3u);
  sum.finish();
  EXPECT_EQ(ranks.begun.size(), 4u);
}

}  // namespace
}  // namespace raedit::dist
