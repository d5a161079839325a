// ops::Replay: the same results on every device, however often and on whatever memory its inputs come.
#include "ops/replay.h"

#include <cstdlib>

#include "expect_error.h"
#include "ops/elementwise.h"
#include "raedit/generator.h"

namespace raedit {
namespace {

class ReplayTest : public ::testing::TestWithParam<DeviceType> {
 protected:
  ReplayTest() {
    ::setenv("RAEDIT_CUDA_LIBRARY", RAEDIT_FAKE_CUDA, 1);
    ctx_.emplace(ContextOptions{.device = {GetParam()}});
  }
  bool graphs() const { return GetParam() == DeviceType::cuda; }
  Tensor random(const Shape& shape) { return generator_.randn(shape); }

  // (a + b) * a, and how often it was asked for.
  ops::Replay::Work work() {
    return [this](Context& ctx, const std::vector<Tensor>& in) {
      ++calls_;
      return ops::mul(ctx, ops::add(ctx, in[0], in[1]), in[0]);
    };
  }
  static std::vector<float> expected(const Tensor& a, const Tensor& b) {
    Context cpu;
    return ops::mul(cpu, ops::add(cpu, a, b), a).to_vector<float>();
  }

  std::optional<Context> ctx_;
  Generator generator_{11};
  int calls_ = 0;
};

TEST_P(ReplayTest, EveryRunIsOfItsOwnInputs) {
  ops::Replay replay(work());
  for (int run = 0; run < 5; ++run) {
    const Tensor a = random({3, 7}), b = random({3, 7});
    const bool there = run % 2 == 1;  // host and device inputs in turn
    const Tensor& out = replay.run(*ctx_, {there ? ctx_->here(a) : a, b});
    EXPECT_EQ(out.on_host(), !graphs());
    EXPECT_EQ(out.to_vector<float>(), expected(a, b)) << run;
  }
  EXPECT_EQ(calls_, graphs() ? 2 : 5) << "a plain run and one that is captured";
}

TEST_P(ReplayTest, OtherWorkInBetweenChangesNothing) {
  ops::Replay replay(work());
  const Tensor a = random({40, 25}), b = random({40, 25});
  for (int run = 0; run < 4; ++run) {
    std::vector<Tensor> held;  // takes blocks of the arena that the captured step knows
    for (int i = 0; i < 6; ++i) held.push_back(ops::add(*ctx_, random({40, 25}), b));
    EXPECT_EQ(replay.run(*ctx_, {a, b}).to_vector<float>(), expected(a, b)) << run;
    held.clear();
    for (int i = 0; i < 6; ++i) (void)ops::add(*ctx_, random({40, 25}), b);
    EXPECT_EQ(replay.run(*ctx_, {b, a}).to_vector<float>(), expected(b, a)) << run;
  }
}

TEST_P(ReplayTest, WhatOthersHoldIsNotWrittenTo) {
  ops::Replay replay(work()), other(work());
  const Tensor a = random({40, 25}), b = random({40, 25});
  for (int run = 0; run < 5; ++run) {
    std::vector<Tensor> held;  // once the steps are captured, in blocks that they used
    for (int i = 0; i < 6 && run > 1; ++i) held.push_back(ops::sub(*ctx_, a, b));
    Context cpu;
    const std::vector<float> difference = ops::sub(cpu, a, b).to_vector<float>();
    const Tensor result = other.run(*ctx_, {b, a});
    (void)replay.run(*ctx_, {a, b});
    for (const Tensor& tensor : held) EXPECT_EQ(tensor.to_vector<float>(), difference) << run;
    EXPECT_EQ(result.to_vector<float>(), expected(b, a)) << run;
  }
}

TEST_P(ReplayTest, AResultStaysUntilTheNextRun) {
  ops::Replay replay(work());
  const Tensor a = random({4}), b = random({4});
  for (int run = 0; run < 4; ++run) {
    const Tensor kept = replay.run(*ctx_, {a, b});
    for (int i = 0; i < 4; ++i) (void)ops::add(*ctx_, random({4}), b);
    EXPECT_EQ(kept.to_vector<float>(), expected(a, b)) << run;
  }
}

TEST_P(ReplayTest, TwoOfOneContextDoNotDisturbEachOther) {
  ops::Replay one(work()), other(work());
  const Tensor a = random({9, 3}), b = random({9, 3});
  for (int run = 0; run < 4; ++run) {
    const Tensor first = one.run(*ctx_, {a, b});
    const Tensor second = other.run(*ctx_, {b, first});
    EXPECT_EQ(first.to_vector<float>(), expected(a, b)) << run;
    EXPECT_EQ(second.to_vector<float>(), expected(b, first.cpu())) << run;
  }
}

TEST_P(ReplayTest, KeepsOneForEveryKey) {
  const auto run = [&](const std::string& key, const Tensor& a, const Tensor& b) {
    return ops::kept_replay(*ctx_, key, [&] { return work(); }).run(*ctx_, {a, b}).to_vector<float>();
  };
  for (int i = 0; i < 40; ++i) {  // more keys than are kept
    const Tensor a = random({5, 2}), b = random({5, 2});
    EXPECT_EQ(run(std::to_string(i % 20), a, b), expected(a, b)) << i;
    EXPECT_EQ(run("the same", a, b), expected(a, b)) << i;
  }
}

TEST_P(ReplayTest, InputsOfAnotherShapeAreRefusedWhereAGraphCannotTakeThem) {
  ops::Replay replay(work());
  const Tensor a = random({3}), longer = random({4});
  (void)replay.run(*ctx_, {a, a});
  if (graphs())
    EXPECT_RAEDIT_ERROR(replay.run(*ctx_, {longer, longer}), ErrorCode::internal, "Replay", "[4]", "[3]");
  else
    EXPECT_EQ(replay.run(*ctx_, {longer, longer}).to_vector<float>(), expected(longer, longer));
}

INSTANTIATE_TEST_SUITE_P(Devices, ReplayTest, ::testing::Values(DeviceType::cpu, DeviceType::cuda),
                         [](const auto& info) { return info.param == DeviceType::cpu ? "cpu" : "fake"; });

}  // namespace
}  // namespace raedit
