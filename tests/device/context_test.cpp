// What the house does for a device with its own memory, on a device that is made of the CPU's kernels (fake_cuda.cpp).
#include "raedit/context.h"

#include <cmath>
#include <cstdlib>

#include "expect_error.h"
#include "ops/activation.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "raedit/generator.h"
#include "tensor/arena.h"
#include "tensor/memory.h"

namespace raedit {
namespace {

using Values = std::vector<float>;

class OnFakeDevice : public ::testing::Test {
 protected:
  OnFakeDevice() {
    ::setenv("RAEDIT_CUDA_LIBRARY", RAEDIT_FAKE_CUDA, 1);
    ctx_.emplace(ContextOptions{.device = {DeviceType::cuda}});
  }
  Tensor random(const Shape& shape) { return generator_.randn(shape); }

  std::optional<Context> ctx_;
  Generator generator_{3};
};

TEST_F(OnFakeDevice, SaysWhatItIs) {
  EXPECT_EQ(ctx_->description(), "cuda:0, a fake");
  EXPECT_EQ(ctx_->device().type, DeviceType::cuda);
  EXPECT_TRUE(ctx_->has_graphs());
  EXPECT_RAEDIT_ERROR(Context({.device = {DeviceType::cuda, 1}}), ErrorCode::unsupported, "CUDA cannot be used");
}

TEST_F(OnFakeDevice, HasNoProductsOfEightBits) {
  EXPECT_RAEDIT_ERROR(ctx_->kernels().pack_int8(random({3, 4}), {}), ErrorCode::unsupported, "8-bit", "a fake", "cpu");
}

TEST_F(OnFakeDevice, MakesTensorsThere) {
  const Tensor empty = ctx_->empty({4}, DType::float32);
  EXPECT_FALSE(empty.on_host());
  EXPECT_TRUE(std::isnan(empty.to_vector<float>()[0]));
  const Tensor zeros = ctx_->zeros({3, 2}, DType::bfloat16);
  EXPECT_FALSE(zeros.on_host());
  EXPECT_EQ(zeros.to_vector<float>(), Values(6, 0.0f));
}

TEST_F(OnFakeDevice, BringsHostTensorsAndLeavesItsOwn) {
  const Tensor host = random({3, 4});
  const Tensor there = ctx_->here(host.transpose(0, 1));
  EXPECT_FALSE(there.on_host());
  EXPECT_EQ(there.to_vector<float>(), host.transpose(0, 1).to_vector<float>());
  EXPECT_EQ(ctx_->here(there).storage(), there.storage());
  EXPECT_FALSE(ctx_->here(Tensor()).defined());
  Context cpu;
  EXPECT_TRUE(cpu.here(there).on_host());
  EXPECT_EQ(cpu.here(there).to_vector<float>(), there.to_vector<float>());
  EXPECT_EQ(cpu.here(host).storage(), host.storage());
}

TEST_F(OnFakeDevice, OpsTakeOperandsFromEitherMemory) {
  const Tensor a = random({2, 5}), b = random({2, 5});
  Context cpu;
  const Values expected = ops::add(cpu, a, b).to_vector<float>();
  for (const bool first : {false, true})
    for (const bool second : {false, true}) {
      const Tensor sum = ops::add(*ctx_, first ? ctx_->here(a) : a, second ? ctx_->here(b) : b);
      EXPECT_FALSE(sum.on_host());
      EXPECT_EQ(sum.to_vector<float>(), expected);
    }
  EXPECT_TRUE(ops::add(cpu, ctx_->here(a), b).on_host()) << "and the other way round";
  EXPECT_EQ(ops::add(cpu, ctx_->here(a), b).to_vector<float>(), expected);
}

TEST_F(OnFakeDevice, WhatIsCapturedRunsOnTheSameMemory) {
  const Tensor x = ctx_->here(Tensor::from(Values{1, 2}, {2})), y = ctx_->here(Tensor::from(Values{10, 20}, {2}));
  (void)ops::add(*ctx_, x, y);  // what the arena then lends again
  ctx_->arena().keep_blocks();
  Tensor sum;
  const auto graph = ctx_->kernels().capture([&] { sum = ops::add(*ctx_, x, y); });
  ASSERT_NE(graph, nullptr);
  graph->launch();
  EXPECT_EQ(sum.to_vector<float>(), (Values{11, 22}));
  x.copy_from(Tensor::from(Values{5, 6}, {2}));
  EXPECT_EQ(sum.to_vector<float>(), (Values{11, 22}));
  graph->launch();
  EXPECT_EQ(sum.to_vector<float>(), (Values{15, 26}));
}

TEST_F(OnFakeDevice, ACapturedStepMayNotWaitForItsResults) {
  const Tensor x = ctx_->here(random({2}));
  EXPECT_RAEDIT_ERROR(ctx_->kernels().capture([&] { (void)x.cpu(); }), ErrorCode::internal, "waits for its results");
  EXPECT_NO_THROW((void)x.cpu()) << "afterwards everything is as before";
}

}  // namespace
}  // namespace raedit
