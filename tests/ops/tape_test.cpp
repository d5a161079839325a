// The Tape itself; the gradients of single ops and of chains are in the op table.
#include "ops/tape.h"

#include <gtest/gtest.h>

#include "op_table.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/gated.h"
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

// The same gradients to the last bit, and less kept: y = f(f(f(x))), where f keeps four tensors and makes one.
TEST_F(TapeTest, WhatIsCheckpointedIsRunAgain) {
  const Tensor x = random({64, 64}, 1), w = random({64, 64}, 2), dout = random({64, 64}, 3);
  int runs = 0;
  const auto gradients = [&](bool checkpointing, size_t& kept) {
    Tape tape;
    if (checkpointing) tape.use_checkpointing();
    ctx_.set_tape(&tape);
    tape.watch(x);
    tape.watch(w);
    Tensor y = x;
    for (int layer = 0; layer < 3; ++layer)
      y = Tape::checkpointed(ctx_, [&runs, y, w](Context& c) {
        ++runs;
        Tensor z = y;
        for (int i = 0; i < 2; ++i) z = ops::silu(c, ops::linear(c, z, {w}));
        return ops::add(c, z, y);
      });
    kept = ctx_.arena().bytes_in_use();
    tape.backward(ctx_, y, dout);
    Doubles all = tape.grad(ctx_, x).to_vector<double>();
    for (const double g : tape.grad(ctx_, w).to_vector<double>()) all.push_back(g);
    return all;
  };
  size_t plain = 0, less = 0;
  const Doubles expected = gradients(false, plain);
  EXPECT_EQ(runs, 3);
  EXPECT_EQ(gradients(true, less), expected);
  EXPECT_EQ(runs, 9);
  EXPECT_EQ(plain, 15u * 64 * 64 * sizeof(float));
  EXPECT_EQ(less, 3u * 64 * 64 * sizeof(float));
  EXPECT_EQ(ctx_.tape() == nullptr, false);
  ctx_.set_tape(nullptr);
}

// ---- gradients in bfloat16

class HalfTapeTest : public TapeTest {
 protected:
  HalfTapeTest() { tape_.use_half_gradients(); }
  Tensor halves(const Tensor& x) { return ops::cast(ctx_, x, DType::bfloat16); }
  Tensor floats(const Tensor& x) { return ops::cast(ctx_, x, DType::float32); }
};

TEST_F(HalfTapeTest, OneContributionIsRoundedAndSeveralAreAddedInFloat32) {
  const Tensor x = numbers({2, 3});
  tape_.watch(x);
  // 2^-12 is gone after one rounding.
  const Tensor one = on_device(ctx_, Tensor::full({1}, 1).to(DType::bfloat16));
  tape_.backward(ctx_, floats(ops::add_gated(ctx_, halves(numbers({0, 0})), halves(x), one)),
                 numbers({1 + 0x1p-12f, 1}));
  EXPECT_EQ(grad(x), (Doubles{1, 1}));
  // z = h + h: two contributions of bfloat16, whose sum needs more bits than bfloat16 has.
  Tape sums;
  sums.use_half_gradients();
  ctx_.set_tape(&sums);
  sums.watch(x);
  const Tensor h = halves(x);
  const Tensor scaled = ops::add_gated(ctx_, h, h, on_device(ctx_, Tensor::full({1}, 0x1p-10f).to(DType::bfloat16)));
  sums.backward(ctx_, floats(scaled), numbers({1, 1}));
  // 1 + 2^-10
  EXPECT_EQ(sums.grad(ctx_, x).to_vector<double>(), (Doubles{1 + 0x1p-10, 1 + 0x1p-10}));
}

// Slices of one tensor, each written once, and one that nothing leads to: its gradient is zero.
TEST_F(HalfTapeTest, SlicesOfOneTensorAreWrittenSideBySide) {
  const Tensor x = numbers({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}).reshape({2, 6});
  tape_.watch(x);
  const Tensor h = halves(x);
  const Tensor left = ops::contiguous(ctx_, h.slice(1, 0, 2)), right = ops::contiguous(ctx_, h.slice(1, 4, 6));
  tape_.backward(ctx_, floats(ops::add(ctx_, left, right)), numbers({1, 2, 3, 4}).reshape({2, 2}));
  EXPECT_EQ(grad(x), (Doubles{1, 2, 0, 0, 1, 2, 3, 4, 0, 0, 3, 4}));
}

TEST_F(HalfTapeTest, SlicesThatOverlapAddUp) {
  const Tensor x = numbers({1, 2, 3, 4, 5, 6, 7, 8}).reshape({2, 4});
  tape_.watch(x);
  const Tensor h = halves(x);
  const Tensor left = ops::contiguous(ctx_, h.slice(1, 0, 2)), right = ops::contiguous(ctx_, h.slice(1, 1, 3));
  tape_.backward(ctx_, floats(ops::add(ctx_, left, right)), numbers({1, 2, 3, 4}).reshape({2, 2}));
  EXPECT_EQ(grad(x), (Doubles{1, 3, 2, 0, 3, 7, 4, 0}));
}

TEST_F(HalfTapeTest, OneTensorInEveryPlaceOfAnOp) {
  const Tensor x = random({1, 3, 1, 4}, 7);
  const auto gradient = [&](bool half, bool apart) {
    Tape tape;
    if (half) tape.use_half_gradients();
    ctx_.set_tape(&tape);
    tape.watch(x);
    const Tensor h = half ? halves(x) : floats(halves(x));
    const auto one = [&] { return apart ? ops::scale(ctx_, h, 1.0f) : h; };
    const Tensor out = floats(ops::attention(ctx_, one(), one(), one()));
    tape.backward(ctx_, out, on_device(ctx_, random_normal(out.shape(), DType::float32, 8)));
    return tape.grad(ctx_, x).to_vector<double>();
  };
  const Doubles together = gradient(true, false), apart = gradient(true, true), exact = gradient(false, false);
  for (size_t i = 0; i < exact.size(); ++i) {
    EXPECT_NEAR(together[i], exact[i], 0.03) << i;
    EXPECT_NEAR(apart[i], exact[i], 0.03) << i;
  }
}

// ---- gradients in memory of the caller

TEST_F(TapeTest, AGivenGradientIsWrittenOrAddedTo) {
  const Tensor x = numbers({2, 3}), g = numbers({100, 200});
  for (const bool fresh : {true, false}) {
    Tape tape;
    ctx_.set_tape(&tape);
    tape.watch(x, g, fresh);
    tape.backward(ctx_, ops::scale(ctx_, x, 4), numbers({1, 10}));
    EXPECT_EQ(g.to_vector<double>(), fresh ? (Doubles{4, 40}) : (Doubles{8, 80}));
  }
}

TEST_F(TapeTest, AGivenGradientThatNothingReachesIsZero) {
  const Tensor x = numbers({2, 3}), lost = numbers({5, 7}), part = numbers({1, 2, 3, 4});
  const Tensor g = numbers({100, 200}), of_lost = numbers({300, 400}), of_part = numbers({5, 6, 7, 8});
  tape_.watch(x, g, true);
  tape_.watch(lost, of_lost, true);
  tape_.watch(part, of_part, true);
  const Tensor used = ops::contiguous(ctx_, part.reshape({2, 2}).slice(1, 0, 1)).reshape({2});
  tape_.backward(ctx_, ops::add(ctx_, x, used), numbers({1, 10}));
  EXPECT_EQ(g.to_vector<double>(), (Doubles{1, 10}));
  EXPECT_EQ(of_lost.to_vector<double>(), (Doubles{0, 0}));
  EXPECT_EQ(of_part.to_vector<double>(), (Doubles{1, 0, 10, 0}));
}

// Products read the rounded copy, forward and back.
TEST_F(HalfTapeTest, ARoundedCopyStandsInForAWeight) {
  const Tensor x = numbers({1, 2}).reshape({1, 2}), w = numbers({1, 1}).reshape({1, 2}), b = numbers({0});
  const Tensor gw = numbers({0, 0}).reshape({1, 2}), gb = numbers({0});
  const Tensor copy = on_device(ctx_, Tensor::from(std::vector<float>{4, 8}, {1, 2}).to(DType::bfloat16));
  const Tensor copied_bias = on_device(ctx_, Tensor::full({1}, 32).to(DType::bfloat16));
  tape_.watch(x);
  tape_.watch(w, gw, true, copy);
  tape_.watch(b, gb, true, copied_bias);
  const Tensor y = floats(ops::linear(ctx_, halves(x), {w}, b));
  EXPECT_EQ(y.to_vector<double>(), (Doubles{4 + 16 + 32}));
  tape_.backward(ctx_, y, numbers({2}).reshape({1, 1}));
  EXPECT_EQ(grad(x), (Doubles{8, 16}));
  EXPECT_EQ(gw.to_vector<double>(), (Doubles{2, 4}));
  EXPECT_EQ(gb.to_vector<double>(), (Doubles{2}));
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
