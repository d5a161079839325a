// Two ranks in one process: the other one is a mirror, which always says what this one says. So a sum is twice the
// number, and as that rounds nothing, training with it is training alone bit for bit: unless a gradient is sent before
// all of it is there, or not at all.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "backend/kernels.h"
#include "dist/communicator.h"
#include "ops/activation.h"
#include "ops/linear.h"
#include "ops/tape.h"
#include "raedit/generator.h"
#include "test_device.h"
#include "train/stage2_ranks.h"
#include "train/trace_model.h"
#include "unit/expect_error.h"

namespace raedit {
namespace {

using namespace train;

class Mirror final : public dist::Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  void all_reduce(std::span<float> values) override { twice(values); }
  void all_reduce(std::span<double> values) override { twice(values); }
  std::unique_ptr<dist::Request> begin_all_reduce(std::span<float> values) override {
    sums.push_back(values.size());
    twice(values);
    return std::make_unique<Done>();
  }
  bool any(bool here) override { return here; }
  void broadcast(void*, size_t, int) override {}
  void barrier() override {}
  void end_all(int) override {}

  std::vector<size_t> sums;  // elements of each

 private:
  class Done final : public dist::Request {
   public:
    bool test() override { return true; }
    void wait() override {}
  };
  template <class T>
  static void twice(std::span<T> values) {
    for (T& value : values) value *= 2;
  }
};

std::vector<float> trained(DType dtype, bool checkpointing, dist::Communicator* ranks) {
  Context ctx = test::test_context();
  const auto trace = test::open_trace();
  const auto model = test::initial_model(ctx, dtype);
  Stage2StepOptions options = test::trace_options();
  options.checkpointing = checkpointing;
  Stage2Step training(ctx.kernels(), *model, options, ranks);
  const int64_t size = ranks != nullptr ? ranks->size() : 1;
  for (int64_t step = 0; step < 3; ++step) {
    for (int64_t part = 0; part < 2; ++part)
      training.accumulate(ctx, test::batch_of(trace, step, 2 * part, 2 * part + 2), 2 * size);
    EXPECT_EQ(training.step(ctx, 1e-3).not_finite, "");
  }
  std::vector<float> numbers = test::numbers_of(training.parameters());
  for (const float x : test::numbers_of(training.averages())) numbers.push_back(x);
  return numbers;
}

class MirroredRanks : public ::testing::TestWithParam<std::tuple<DType, bool>> {};
INSTANTIATE_TEST_SUITE_P(All, MirroredRanks,
                         ::testing::Combine(::testing::Values(DType::float32, DType::bfloat16), ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(name_of(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) ? "Checkpointing" : "");
                         });

TEST_P(MirroredRanks, TrainAsOne) {
  const auto [dtype, checkpointing] = GetParam();
  Mirror mirror;
  EXPECT_TRUE(trained(dtype, checkpointing, &mirror) == trained(dtype, checkpointing, nullptr));
  EXPECT_FALSE(mirror.sums.empty());
}

// When the tape says that a gradient is final it does not change any more, and most are not: otherwise no sum would
// run beside the backward pass.
TEST_P(MirroredRanks, AGradientIsFinalWhenTheTapeSaysSo) {
  const auto [dtype, checkpointing] = GetParam();
  Context ctx = test::test_context();
  const auto trace = test::open_trace();
  const auto model = test::initial_model(ctx, dtype);
  std::vector<Tensor> values, gradients;
  for (const auto& [name, parameter] : models::named_parameters(*model)) {
    if (!parameter->trained()) continue;
    nn::make_trainable(*parameter, ctx.kernels());
    values.push_back(parameter->value);
    gradients.push_back(test::on_device(ctx, Generator(values.size()).randn(parameter->value.shape())));
  }
  const Stage2Batch batch = test::batch_of(trace, 0, 0, 4);
  Tape tape;
  if (checkpointing) tape.use_checkpointing();
  for (size_t i = 0; i < values.size(); ++i) tape.watch(values[i], gradients[i], true);
  std::vector<std::vector<float>> when_final(values.size());
  const auto different = [&] {
    size_t count = 0;
    for (size_t i = 0; i < values.size(); ++i)
      if (!when_final[i].empty() && when_final[i] != gradients[i].to_vector<float>()) ++count;
    return count;
  };
  size_t said = 0;
  std::vector<float> first_of_all;
  tape.call_when_final([&](uint64_t id) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i].storage()->id() != id) continue;
      EXPECT_TRUE(when_final[i].empty()) << "said twice";
      when_final[i] = gradients[i].to_vector<float>();
    }
    if (said++ == values.size() / 2) first_of_all = gradients.front().to_vector<float>();
  });
  ctx.set_tape(&tape);
  const Tensor out = model->forward(ctx, ctx.here(batch.latents), ctx.here(batch.sigmas), batch.class_labels, {}, {});
  tape.backward(ctx, out, Generator(5).randn(out.shape()));
  ctx.set_tape(nullptr);
  EXPECT_EQ(said, values.size());
  EXPECT_EQ(different(), 0u);
  // The first layers' are the last.
  EXPECT_NE(first_of_all, gradients.front().to_vector<float>());
}

// One matrix in checkpointed pieces and outside of them; another that nothing reads.
TEST(GradientThatIsFinal, WasAddedToByAllThatShareIt) {
  for (const bool checkpointing : {false, true}) {
    Context ctx = test::test_context();
    const auto made = [&](uint64_t seed, const Shape& shape) {
      return test::on_device(ctx, Generator(seed).randn(shape));
    };
    const Tensor shared = made(1, {4, 4}), inside = made(2, {4, 4}), unread = made(3, {4}), x = made(4, {3, 4});
    const std::vector<Tensor> leaves{shared, inside, unread};
    std::vector<Tensor> gradients;
    Tape tape;
    if (checkpointing) tape.use_checkpointing();
    for (const Tensor& leaf : leaves) {
      gradients.push_back(made(5, leaf.shape()));
      tape.watch(leaf, gradients.back(), true);
    }
    std::vector<uint64_t> order;
    std::vector<std::vector<float>> when_final(leaves.size());
    tape.call_when_final([&](uint64_t id) {
      order.push_back(id);
      for (size_t i = 0; i < leaves.size(); ++i)
        if (leaves[i].storage()->id() == id) when_final[i] = gradients[i].to_vector<float>();
    });
    ctx.set_tape(&tape);
    Tensor y = ops::linear(ctx, x, {shared, nullptr}, {});
    for (int piece = 0; piece < 2; ++piece)
      y = Tape::checkpointed(ctx, [&, y](Context& c) {
        return ops::silu(c, ops::linear(c, ops::linear(c, y, {inside, nullptr}, {}), {shared, nullptr}, {}));
      });
    y = ops::linear(ctx, y, {shared, nullptr}, {});
    tape.backward(ctx, y, made(6, y.shape()));
    ctx.set_tape(nullptr);
    EXPECT_EQ(order, (std::vector<uint64_t>{inside.storage()->id(), shared.storage()->id(), unread.storage()->id()}));
    for (size_t i = 0; i < leaves.size(); ++i) EXPECT_EQ(when_final[i], gradients[i].to_vector<float>()) << i;
    EXPECT_EQ(when_final[2], std::vector<float>(4, 0.0f));
  }
}

TEST(MirroredRanksOfOneStep, AreNotFiniteTogetherAndTakeWhatWasAnnounced) {
  Context ctx = test::test_context();
  Mirror mirror;
  const auto trace = test::open_trace();
  const auto model = test::initial_model(ctx);
  Stage2Step training(ctx.kernels(), *model, test::trace_options(), &mirror);
  const std::vector<float> before = test::numbers_of(training.parameters());
  Stage2Batch batch = test::batch_of(trace, 0, 0, 4);
  EXPECT_RAEDIT_ERROR(training.accumulate(ctx, batch, 3), ErrorCode::invalid_argument, "equally many", "found 3");
  training.accumulate(ctx, batch, 2);
  EXPECT_RAEDIT_ERROR(training.accumulate(ctx, batch, 2), ErrorCode::invalid_argument, "no more than were announced");
  EXPECT_EQ(training.step(ctx, 0.0).not_finite, "");
  batch.latents.data<float>()[3] = INFINITY;
  training.accumulate(ctx, batch, 2);
  EXPECT_NE(training.step(ctx, 1e-3).not_finite, "");
  EXPECT_EQ(training.steps(), 1);
  EXPECT_TRUE(test::numbers_of(training.parameters()) == before);
  // Fewer than announced, as at the end of the data.
  mirror.sums.clear();
  training.accumulate(ctx, test::batch_of(trace, 0, 0, 4), 8);
  EXPECT_TRUE(mirror.sums.empty());
  EXPECT_EQ(training.step(ctx, 1e-3).not_finite, "");
  EXPECT_FALSE(mirror.sums.empty());
}

TEST(SharingOut, GivesEachRankAboutAsMuch) {
  EXPECT_EQ(share_out({5, 9, 5, 1, 4}, 2), (std::vector<int>{1, 0, 1, 1, 0}));
  EXPECT_EQ(share_out({7, 7, 7}, 1), (std::vector<int>{0, 0, 0}));
  std::vector<size_t> bytes;
  for (size_t i = 0; i < 100; ++i) bytes.push_back(1 + i * i % 97);
  std::vector<size_t> load(3);
  const std::vector<int> owners = share_out(bytes, 3);
  for (size_t i = 0; i < bytes.size(); ++i) load.at(static_cast<size_t>(owners[i])) += bytes[i];
  EXPECT_LE(*std::max_element(load.begin(), load.end()) - *std::min_element(load.begin(), load.end()), 97u);
}

}  // namespace
}  // namespace raedit
