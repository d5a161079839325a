// The Tape itself; the gradients of single ops and of chains are in the op table.
#include "ops/tape.h"

#include <gtest/gtest.h>

#include "op_table.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/moving.h"
#include "raedit/error.h"
#include "tensor/arena.h"
#include "test_device.h"

namespace raedit::test {
namespace {

using Doubles = std::vector<double>;

// Whole numbers throughout: float32 is exact, so gradients are compared with ==.
class TapeTest : public testing::Test {
 protected:
  TapeTest() { ctx_.set_tape(&tape_); }

  Tensor numbers(const std::vector<float>& values) const {
    return on_device(ctx_, Tensor::from(values, {static_cast<int64_t>(values.size())}));
  }
  Tensor random(const Shape& shape, uint64_t seed) const {
    return on_device(ctx_, random_normal(shape, DType::float32, seed));
  }
  Doubles grad(const Tensor& tensor) { return tape_.grad(ctx_, tensor).to_vector<double>(); }

  Context ctx_ = test_context(1);
  Tape tape_;
};

TEST_F(TapeTest, AnInputUsedTwiceGetsBothGradients) {
  const Tensor x = numbers({2, 3});
  tape_.watch(x);
  const Tensor y = ops::add(ctx_, ops::mul(ctx_, x, x), x);  // x^2 + x
  tape_.backward(ctx_, y, numbers({1, 10}));
  EXPECT_EQ(grad(x), (Doubles{5, 70}));
}

TEST_F(TapeTest, GradientsOfSeveralBackwardsAddUp) {
  const Tensor x = numbers({2, 3});
  tape_.watch(x);
  for (int i = 0; i < 3; ++i) tape_.backward(ctx_, ops::mul(ctx_, x, x), numbers({1, 1}));
  EXPECT_EQ(grad(x), (Doubles{12, 18}));
}

TEST_F(TapeTest, ABranchThatLeadsNowhereChangesNothing) {
  const Tensor x = numbers({2, 3}), lost = numbers({5, 7});
  tape_.watch(x);
  tape_.watch(lost);
  const Tensor unused = ops::mul(ctx_, x, lost);
  const Tensor y = ops::scale(ctx_, x, 4);
  tape_.backward(ctx_, y, numbers({1, 1}));
  EXPECT_EQ(grad(x), (Doubles{4, 4}));
  EXPECT_EQ(grad(lost), (Doubles{0, 0}));
}

TEST_F(TapeTest, OnlyWhatWasWatchedIsRecorded) {
  const Tensor x = numbers({2, 3}), constant = numbers({5, 7});
  tape_.watch(x);
  EXPECT_FALSE(tape_.wants(ops::mul(ctx_, constant, constant)));
  const Tensor y = ops::mul(ctx_, x, constant);
  EXPECT_TRUE(tape_.wants(y));
  tape_.backward(ctx_, y, numbers({1, 1}));
  EXPECT_EQ(grad(x), (Doubles{5, 7}));
  EXPECT_THROW(tape_.grad(ctx_, constant), Error);
}

TEST_F(TapeTest, AViewHasTheSameViewOfTheGradient) {
  const Tensor x = numbers({1, 2, 3, 4, 5, 6});
  tape_.watch(x);
  const Tensor right = x.reshape({2, 3}).transpose(0, 1).slice(0, 1, 3);  // [[2, 5], [3, 6]]
  tape_.backward(ctx_, ops::contiguous(ctx_, right), numbers({1, 2, 3, 4}).reshape({2, 2}));
  EXPECT_EQ(grad(x), (Doubles{0, 1, 3, 0, 2, 4}));
  EXPECT_EQ(grad(right), (Doubles{1, 2, 3, 4}));
}

TEST_F(TapeTest, AnExpandedViewCollectsItsCopies) {
  const Tensor x = numbers({1, 2}).reshape({2, 1});
  tape_.watch(x);
  const Tensor y = ops::contiguous(ctx_, x.expand({2, 3}));
  tape_.backward(ctx_, y, numbers({1, 2, 3, 4, 5, 6}).reshape({2, 3}));
  EXPECT_EQ(grad(x), (Doubles{6, 15}));
}

TEST_F(TapeTest, GradientsAreFloat32WhateverTheDtype) {
  const Tensor x = on_device(ctx_, numbers({2, 3}).to(DType::bfloat16));
  tape_.watch(x);
  const Tensor y = ops::scale(ctx_, ops::cast(ctx_, x, DType::float32), 3);
  // 1 + 2^-12 is no bfloat16.
  tape_.backward(ctx_, y, numbers({1 + 0x1p-12f, 1}));
  EXPECT_EQ(tape_.grad(ctx_, x).dtype(), DType::float32);
  EXPECT_EQ(grad(x), (Doubles{3 + 3 * 0x1p-12, 3}));
}

TEST_F(TapeTest, BackwardRecordsNothingAndKeepsNoMemory) {
  const Tensor x = random({64, 64}, 1), w = random({64, 64}, 2);
  tape_.watch(x);
  tape_.watch(w);
  for (int i = 0; i < 2; ++i) {
    Tensor y = ops::linear(ctx_, x, {w}, {}, ops::Activation::gelu);
    for (int layer = 0; layer < 5; ++layer) y = ops::linear(ctx_, y, {w}, {}, ops::Activation::silu);
    tape_.backward(ctx_, y, random({64, 64}, 3));
  }
  EXPECT_EQ(ctx_.tape(), &tape_);
  // The gradients of x and w are left.
  EXPECT_EQ(ctx_.arena().bytes_in_use(), 2u * 64 * 64 * sizeof(float));
}

TEST_F(TapeTest, WithoutATapeNothingIsKept) {
  ctx_.set_tape(nullptr);
  const Tensor x = random({64, 64}, 1);
  tape_.watch(x);
  const Tensor y = ops::mul(ctx_, ops::mul(ctx_, x, x), x);
  EXPECT_FALSE(tape_.wants(y));
  EXPECT_EQ(ctx_.arena().bytes_in_use(), y.nbytes());
}

TEST_F(TapeTest, MisuseIsAnError) {
  const Tensor x = numbers({2, 3});
  tape_.watch(x);
  EXPECT_THROW(tape_.backward(ctx_, numbers({1}), numbers({1})), Error);
  const Tensor y = ops::mul(ctx_, x, x);
  EXPECT_THROW(tape_.backward(ctx_, y, numbers({1, 2, 3})), Error);
}

}  // namespace
}  // namespace raedit::test
