// Wrong operands are an Error that names the op and both shapes, before anything is computed.
#include <gtest/gtest.h>

#include <functional>

#include "op_table.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/gated.h"
#include "ops/linear.h"
#include "ops/moving.h"
#include "ops/norm.h"
#include "ops/position.h"
#include "ops/resample.h"
#include "raedit/error.h"
#include "test_device.h"

namespace raedit::test {
namespace {

class OpErrors : public testing::Test {
 protected:
  static Tensor random(const Shape& shape, DType dtype = DType::float32) { return random_normal(shape, dtype, 1); }

  static void expect_error(ErrorCode code, const std::vector<std::string>& parts, const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_EQ(error.code(), code) << message;
      for (const std::string& part : parts)
        EXPECT_NE(message.find(part), message.npos) << part << "\nnot in: " << message;
      return;
    }
    ADD_FAILURE() << "no error; expected " << parts.front();
  }

  static void expect_invalid(const std::vector<std::string>& parts, const std::function<void()>& call) {
    expect_error(ErrorCode::invalid_argument, parts, call);
  }

  Context ctx_ = test_context(1);
};

TEST_F(OpErrors, Linear) {
  const Tensor x = random({2, 7});
  expect_invalid({"linear", "[2, 7]", "[3, 8]"}, [&] { ops::linear(ctx_, x, {random({3, 8})}); });
  expect_invalid({"linear", "bias", "[4]", "[3]"}, [&] { ops::linear(ctx_, x, {random({3, 7})}, random({4})); });
  expect_invalid({"linear", "weight", "[3, 7, 1]", "2 dimensions"}, [&] { ops::linear(ctx_, x, {random({3, 7, 1})}); });
  expect_invalid({"linear", "weight"}, [&] { ops::linear(ctx_, x, {}); });
}

// A sum of 32 bits holds 16384 products of 8 bits.
TEST_F(OpErrors, TooManyProductsOfEightBits) {
  RAEDIT_CPU_ONLY("8-bit products are the processor's");
  const Tensor x = random({1, 16384});
  EXPECT_NO_THROW(ops::linear(ctx_, x, {Tensor(), ctx_.kernels().pack_int8(random({1, 16384}), {})}));
  expect_error(ErrorCode::unsupported, {"too wide", "16385", "16384"}, [&] {
    ctx_.kernels().pack_int8(random({1, 16385}), {});
  });
}

TEST_F(OpErrors, ElementTypesThatNothingComputesIn) {
  const auto expect_unsupported = [&](const std::string& op, const std::function<void(const Tensor&)>& call) {
    for (const DType dtype : {DType::float16, DType::float64})
      expect_error(ErrorCode::unsupported, {op, std::string(name_of(dtype)), "float32 or bfloat16"}, [&] {
        call(random({1, 2, 2, 4}, dtype));
      });
  };
  const Tensor plain = random({1, 2, 2, 4});
  expect_unsupported("linear", [&](const Tensor& x) { ops::linear(ctx_, x, {random({3, 4})}); });
  expect_unsupported("activation", [&](const Tensor& x) { ops::gelu(ctx_, x); });
  expect_unsupported("swiglu", [&](const Tensor& x) { ops::swiglu(ctx_, x); });
  expect_unsupported("attention", [&](const Tensor& x) { ops::attention(ctx_, x, x, x); });
  expect_unsupported("attention", [&](const Tensor& x) { ops::attention(ctx_, plain, x, plain); });
  expect_unsupported("add", [&](const Tensor& x) { ops::add(ctx_, x, plain); });
  expect_unsupported("add", [&](const Tensor& x) { ops::add(ctx_, plain, x); });
  expect_unsupported("add_gated", [&](const Tensor& x) { ops::add_gated(ctx_, plain, x, plain); });
  expect_unsupported("add_scaled", [&](const Tensor& x) { ops::add_scaled(ctx_, plain, 1, x); });
  expect_unsupported("layer_norm", [&](const Tensor& x) { ops::layer_norm(ctx_, x, {}, {}, 1e-6f); });
  expect_unsupported("resample", [&](const Tensor& x) { ops::resample(ctx_, x, 2, 2, ops::Filter::bilinear); });
}

TEST_F(OpErrors, Norms) {
  const Tensor x = random({2, 3, 8});
  expect_invalid({"layer_norm", "weight", "[7]", "[8]"}, [&] { ops::layer_norm(ctx_, x, random({7}), {}, 1e-6f); });
  expect_invalid({"layer_norm", "bias", "[1, 8]", "[8]"}, [&] {
    ops::layer_norm(ctx_, x, random({8}), random({1, 8}), 1e-6f);
  });
  expect_invalid({"rms_norm", "weight", "[9]", "[8]"}, [&] { ops::rms_norm(ctx_, x, random({9}), 1e-6f); });
  const auto modulated = [&](const Shape& shift, const Shape& scale) {
    return [=, this] { ops::modulated_norm(ctx_, x, ops::NormKind::rms, 1e-6f, {}, random(shift), random(scale)); };
  };
  expect_invalid({"modulated_norm", "scale", "[3, 1, 8]", "[2, 3, 8]"}, modulated({2, 1, 8}, {3, 1, 8}));
  expect_invalid({"modulated_norm", "shift", "[2, 1, 7]", "[2, 3, 8]"}, modulated({2, 1, 7}, {2, 1, 8}));
  expect_invalid({"modulated_norm", "[3, 8]", "3 dimensions"}, [&] {
    ops::modulated_norm(ctx_, random({3, 8}), ops::NormKind::rms, 1e-6f, {}, {}, random({8}));
  });
}

TEST_F(OpErrors, Attention) {
  const Tensor q = random({2, 5, 3, 4});
  expect_invalid({"attention", "key", "[2, 7, 3, 8]", "[2, 7, 3, 4]"}, [&] {
    ops::attention(ctx_, q, random({2, 7, 3, 8}), random({2, 7, 3, 8}));
  });
  expect_invalid({"attention", "key", "[1, 7, 3, 4]", "[2, 7, 3, 4]"}, [&] {
    ops::attention(ctx_, q, random({1, 7, 3, 4}), random({1, 7, 3, 4}));
  });
  expect_invalid({"attention", "value", "[2, 6, 3, 4]", "[2, 7, 3, 4]"}, [&] {
    ops::attention(ctx_, q, random({2, 7, 3, 4}), random({2, 6, 3, 4}));
  });
  expect_invalid({"attention", "query", "[5, 3, 4]", "4 dimensions"}, [&] {
    ops::attention(ctx_, random({5, 3, 4}), q, q);
  });
}

TEST_F(OpErrors, Elementwise) {
  const Tensor x = random({2, 3, 8});
  expect_invalid({"add_gated", "y", "[2, 3, 7]", "[2, 3, 8]"}, [&] { ops::add_gated(ctx_, x, random({2, 3, 7}), x); });
  expect_invalid({"add_gated", "gate", "[3, 1, 8]", "[2, 3, 8]"}, [&] {
    ops::add_gated(ctx_, x, x, random({3, 1, 8}));
  });
  expect_invalid({"add_scaled", "[2, 3]", "[2, 3, 8]"}, [&] { ops::add_scaled(ctx_, x, 1, random({2, 3})); });
  expect_invalid({"add", "[2, 2, 8]", "[2, 3, 8]"}, [&] { ops::add(ctx_, x, random({2, 2, 8})); });
  expect_invalid({"div", "[1, 2, 3, 8]", "[2, 3, 8]"}, [&] { ops::div(ctx_, x, random({1, 2, 3, 8})); });
  expect_invalid({"swiglu", "[2, 7]", "even"}, [&] { ops::swiglu(ctx_, random({2, 7})); });
}

TEST_F(OpErrors, Positions) {
  const Tensor x = random({2, 5, 3, 4});
  expect_invalid({"rope", "cos", "[4, 4]", "[5, 4]"}, [&] { ops::rope(ctx_, x, random({4, 4}), random({5, 4})); });
  expect_invalid({"rope", "sin", "[5, 2]", "[5, 4]"}, [&] { ops::rope(ctx_, x, random({5, 4}), random({5, 2})); });
  expect_invalid({"rope", "[2, 5, 1, 3]", "even"}, [&] {
    ops::rope(ctx_, random({2, 5, 1, 3}), random({5, 3}), random({5, 3}));
  });
  for (const int64_t id : {int64_t{-1}, int64_t{11}, int64_t{1} << 40}) {
    expect_invalid({"embedding", std::to_string(id), "0 to 10"}, [&] {
      ops::embedding(ctx_, random({11, 4}), Tensor::from(std::vector<int64_t>{3, id}, {2}), DType::float32);
    });
  }
}

TEST_F(OpErrors, Moving) {
  const Tensor x = random({2, 3});
  expect_invalid({"concat", "[2, 4]", "[1, 4]"}, [&] { ops::concat(ctx_, {random({1, 4}), random({2, 4})}, 1); });
  expect_invalid({"patchify", "[2, 3]", "4 dimensions"}, [&] { ops::patchify(ctx_, x, 2); });
  expect_invalid({"unpatchify", "[1, 6, 12]", "[1, 9, 12]"}, [&] {
    ops::unpatchify(ctx_, random({1, 6, 12}), 3, 3, 2);
  });
  expect_invalid({"unpatchify", "[1, 9, 13]", "[1, 9, 12]"}, [&] {
    ops::unpatchify(ctx_, random({1, 9, 13}), 3, 3, 2);
  });
  expect_invalid({"resample", "[1, 3, 0, 5]"}, [&] {
    ops::resample(ctx_, random({1, 3, 0, 5}), 2, 2, ops::Filter::bicubic);
  });
  expect_invalid({"resample"}, [&] { ops::resample(ctx_, random({1, 1, 2, 2}), 0, 2, ops::Filter::bicubic); });
}

}  // namespace
}  // namespace raedit::test
