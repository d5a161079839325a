// Inputs without elements, NaN, and infinities.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "op_table.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/gated.h"
#include "ops/linear.h"
#include "ops/moving.h"
#include "ops/norm.h"
#include "ops/tape.h"
#include "test_device.h"

namespace raedit::test {
namespace {

class OpEdges : public testing::TestWithParam<DType> {
 protected:
  Tensor random(const Shape& shape) const { return random_normal(shape, GetParam(), 1); }

  Context ctx_ = test_context(2);
};

// Ten ops on no rows at all, forward and back: the weights' gradients are zeros.
TEST_P(OpEdges, NoRows) {
  const Tensor x = on_device(ctx_, random({2, 0, 8}));
  const Tensor w = on_device(ctx_, random_normal({8, 8}, DType::float32, 2));
  const Tensor bias = on_device(ctx_, random_normal({8}, DType::float32, 3));
  Tape tape;
  for (const Tensor& leaf : {x, w, bias}) tape.watch(leaf);
  ctx_.set_tape(&tape);
  const Tensor modulation = random({2, 1, 8});
  Tensor y = ops::modulated_norm(ctx_, x, ops::NormKind::layer, 1e-6f, bias, modulation, modulation);
  y = ops::linear(ctx_, ops::rms_norm(ctx_, y, bias, 1e-6f), {w}, bias, ops::Activation::gelu);
  const Tensor heads = y.reshape({2, 0, 2, 4});
  y = ops::attention(ctx_, heads, heads, heads).reshape({2, 0, 8});
  y = ops::add_gated(ctx_, ops::mul(ctx_, y, y), y, modulation);
  y = ops::swiglu(ctx_, ops::concat(ctx_, {y, y}, 2));
  y = ops::contiguous(ctx_, y.transpose(1, 2));
  ASSERT_EQ(y.shape(), (Shape{2, 8, 0}));
  tape.backward(ctx_, y, Tensor::zeros(y.shape(), DType::float32));
  for (const double value : tape.grad(ctx_, w).to_vector<double>()) ASSERT_EQ(value, 0.0);
  for (const double value : tape.grad(ctx_, bias).to_vector<double>()) ASSERT_EQ(value, 0.0);
  EXPECT_EQ(tape.grad(ctx_, x).numel(), 0);
}

// The same with gradients in bfloat16 where activations are.
TEST_P(OpEdges, NoRowsHalfGradients) {
  const Tensor q = on_device(ctx_, random({2, 0, 2, 4})), k = on_device(ctx_, random({2, 0, 2, 4}));
  Tape tape;
  tape.use_half_gradients();
  tape.watch(q);
  tape.watch(k);
  ctx_.set_tape(&tape);
  const Tensor y = ops::attention(ctx_, q, k, k);
  tape.backward(ctx_, y, Tensor::zeros(y.shape(), GetParam()));
  EXPECT_EQ(tape.grad(ctx_, q).numel(), 0);
  EXPECT_EQ(tape.grad(ctx_, k).numel(), 0);
}

// Rows of a page get a gap between them where a product is all that reads them. It and its result do not notice.
TEST_P(OpEdges, RowsOfAPage) {
  constexpr int64_t kWidth = 2048, kFeatures = 34;
  const Tensor x = on_device(ctx_, random({2, 5, kWidth})), m = on_device(ctx_, random({2, 1, kWidth}));
  const Tensor w = random_normal({kFeatures, kWidth}, DType::float32, 2);
  const auto operands = [&] {
    return std::vector<Tensor>{
        ops::modulated_norm(ctx_, x, ops::NormKind::rms, 1e-6f, {}, m, m, true),
        ops::add_gated_norm(ctx_, x, x, m, ops::NormKind::layer, 1e-6f, {}, m, m, true).normed,
        ops::activation(ctx_, x, ops::Activation::silu, true),
    };
  };
  const auto found = operands();
  Tape tape;
  ctx_.set_tape(&tape);
  const auto wanted = operands();
  ctx_.set_tape(nullptr);
  const bool host = ctx_.kernels().memory() == nullptr;
  const int64_t gap = host && GetParam() == DType::bfloat16 ? 32 : 0;
  std::vector<ops::Matrix> matrices{{Tensor(), ctx_.kernels().pack(w, GetParam())}};
  if (host) matrices.push_back({Tensor(), ctx_.kernels().pack_int8(w, Tensor())});
  const ops::Matrix halves{Tensor(), ctx_.kernels().pack_swiglu(w, GetParam())};
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].stride(1), kWidth + gap);
    EXPECT_EQ(wanted[i].stride(1), kWidth);
    EXPECT_EQ(found[i].to_vector<float>(), wanted[i].to_vector<float>());
    for (const ops::Matrix& matrix : matrices)
      EXPECT_EQ(ops::linear(ctx_, found[i], matrix).to_vector<float>(),
                ops::linear(ctx_, wanted[i], matrix).to_vector<float>());
    EXPECT_EQ(ops::linear_swiglu(ctx_, found[i], halves, {}).to_vector<float>(),
              ops::linear_swiglu(ctx_, wanted[i], halves, {}).to_vector<float>());
  }
}

// A NaN in one row is seen in that row, and in no other.
TEST_P(OpEdges, NanStaysInItsRow) {
  const Tensor x = random({1, 7, 24});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  x.select(1, 3).select(1, 5).copy_from(Tensor::full({1}, nan));
  const Tensor w = random_normal({17, 24}, DType::float32, 2);
  const auto expect_nan_in_row_3 = [](const Tensor& out, const char* op) {
    for (int64_t row = 0; row < out.dim(1); ++row) {
      int64_t nans = 0;
      for (const double value : out.select(1, row).to_vector<double>()) nans += std::isnan(value) ? 1 : 0;
      EXPECT_EQ(nans > 0, row == 3) << op << ", row " << row;
    }
  };
  expect_nan_in_row_3(ops::linear(ctx_, x, {w}, {}), "linear");
  expect_nan_in_row_3(ops::layer_norm(ctx_, x, {}, {}, 1e-6f), "layer_norm");
  expect_nan_in_row_3(ops::rms_norm(ctx_, x, {}, 1e-6f), "rms_norm");
  for (const ops::Activation act : {ops::Activation::silu, ops::Activation::gelu, ops::Activation::gelu_tanh})
    expect_nan_in_row_3(ops::activation(ctx_, x, act), "activation");
  expect_nan_in_row_3(ops::clamp(ctx_, x, -1.0f, 1.0f), "clamp");
  expect_nan_in_row_3(ops::add(ctx_, x, x), "add");
  expect_nan_in_row_3(ops::add_gated(ctx_, x, x, x), "add_gated");
  expect_nan_in_row_3(ops::swiglu(ctx_, x), "swiglu");
  const Tensor q = x.reshape({1, 7, 2, 12}), k = random({1, 9, 2, 12});
  expect_nan_in_row_3(ops::attention(ctx_, q, k, k), "attention");
}

// What is not finite has no scale: its row is NaN, all of it, and no other.
TEST_P(OpEdges, EightBitsOfWhatIsNotFinite) {
  RAEDIT_CPU_ONLY("8-bit products are the processor's");
  const Tensor w = random_normal({17, 70}, DType::float32, 2);
  const ops::Matrix weight{Tensor(), ctx_.kernels().pack_int8(w, Tensor())};
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float value : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
    for (const int64_t column : {0, 5, 69}) {
      const Tensor x = random({7, 70});
      x.select(0, 3).select(0, column).copy_from(Tensor::full({}, value));
      const Tensor out = ops::linear(ctx_, x, weight);
      for (int64_t row = 0; row < 7; ++row)
        for (const double v : out.select(0, row).to_vector<double>()) EXPECT_EQ(std::isnan(v), row == 3);
    }
  }
}

TEST_P(OpEdges, ActivationsOfHugeNumbers) {
  const float inf = std::numeric_limits<float>::infinity();
  const Tensor x = Tensor::from(std::vector<float>{3e38f, inf, -3e38f, -1e30f}, {4}).to(GetParam());
  for (const ops::Activation act : {ops::Activation::silu, ops::Activation::gelu, ops::Activation::gelu_tanh}) {
    const auto out = ops::activation(ctx_, x, act).to_vector<float>(), in = x.to_vector<float>();
    EXPECT_EQ(out[0], in[0]);
    EXPECT_EQ(out[1], inf);
    EXPECT_EQ(out[2], 0.0f);
    EXPECT_EQ(out[3], 0.0f);
  }
}

INSTANTIATE_TEST_SUITE_P(All, OpEdges, testing::Values(DType::float32, DType::bfloat16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace raedit::test
