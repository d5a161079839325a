// A row's result depends on the row alone, to the last bit: not on how many rows there are, on where it stands, or on
// which picture of a batch it belongs to. This is what makes a picture depend on its seed and on nothing else, on a
// CPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "op_table.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/gated.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/position.h"
#include "test_device.h"

namespace raedit::test {
namespace {

class RowInvariance : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    RAEDIT_CPU_ONLY("the library's matrix product may choose another algorithm for another number of rows");
  }

  Tensor random(const Shape& shape, uint64_t seed) const { return random_normal(shape, GetParam(), seed); }

  Context ctx_ = test_context(1);
};

void expect_same(const Tensor& found, const Tensor& expected, const std::string& where) {
  ASSERT_EQ(found.shape(), expected.shape()) << where;
  const Tensor a = found.contiguous(), b = expected.contiguous();
  EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.nbytes()), 0) << where;
}

TEST_P(RowInvariance, Linear) {
  for (const int64_t k : {1, 17, 63, 128, 1100}) {
    for (const int64_t n : {5, 64, 129}) {
      const Tensor x = random({257, k}, 1);
      const Tensor w = random_normal({n, k}, DType::float32, 2), bias = random_normal({n}, DType::float32, 3);
      const ops::Matrix weight{w, ctx_.kernels().pack(w, GetParam())};
      const Tensor all = ops::linear(ctx_, x, weight, bias, ops::Activation::gelu);
      for (const int64_t m : {1, 2, 5, 6, 7, 64, 256})
        for (const int64_t first : {int64_t{0}, int64_t{1}, 257 - m})
          expect_same(ops::linear(ctx_, x.slice(0, first, first + m), weight, bias, ops::Activation::gelu),
                      all.slice(0, first, first + m),
                      std::to_string(m) + " rows from " + std::to_string(first) + ", K " + std::to_string(k) + ", N " +
                          std::to_string(n));
    }
  }
}

TEST_P(RowInvariance, LinearOfTheOddHeadWidth) {
  const Tensor x = random({7, 5461}, 1), w = random_normal({3, 5461}, DType::float32, 2);
  const ops::Matrix weight{w, ctx_.kernels().pack(w, GetParam())};
  const Tensor all = ops::linear(ctx_, x, weight);
  for (int64_t i = 0; i < 7; ++i)
    expect_same(ops::linear(ctx_, x.slice(0, i, i + 1), weight), all.slice(0, i, i + 1), "row " + std::to_string(i));
}

TEST_P(RowInvariance, LinearInEightBits) {
  for (const int64_t k : {17, 128, 1100}) {
    for (const int64_t n : {5, 129}) {
      const Tensor x = random({257, k}, 1);
      const Tensor w = random_normal({n, k}, DType::float32, 2), bias = random_normal({n}, DType::float32, 3);
      const ops::Matrix weight{Tensor(), ctx_.kernels().pack_int8(w, Tensor())};
      const Tensor all = ops::linear(ctx_, x, weight, bias);
      for (const int64_t m : {1, 5, 6, 7, 256})
        for (const int64_t first : {int64_t{0}, int64_t{1}, 257 - m})
          expect_same(ops::linear(ctx_, x.slice(0, first, first + m), weight, bias), all.slice(0, first, first + m),
                      std::to_string(m) + " rows from " + std::to_string(first) + ", K " + std::to_string(k));
    }
  }
}

TEST_P(RowInvariance, LinearSwiglu) {
  for (const int64_t k : {17, 128, 1100}) {
    for (const int64_t half : {5, 64, 70}) {
      const Tensor x = random({257, k}, 1);
      const Tensor w = random_normal({2 * half, k}, DType::float32, 2),
                   bias = random_normal({2 * half}, DType::float32, 3);
      const ops::Matrix weight{w, ctx_.kernels().pack_swiglu(w, GetParam())};
      const Tensor all = ops::linear_swiglu(ctx_, x, weight, bias);
      for (const int64_t m : {1, 6, 7, 256})
        expect_same(ops::linear_swiglu(ctx_, x.slice(0, 257 - m, 257), weight, bias), all.slice(0, 257 - m, 257),
                    std::to_string(m) + " rows, K " + std::to_string(k) + ", half " + std::to_string(half));
    }
  }
}

// Fused forms are their parts, to the last bit: training, which runs the parts, sees what inference sees.
TEST_P(RowInvariance, FusedProductsAreTheirParts) {
  const Tensor x = random({67, 72}, 1), w = random_normal({170, 72}, DType::float32, 2);
  const Tensor bias = random_normal({170}, DType::float32, 3);
  const ops::Matrix plain{w, ctx_.kernels().pack(w, GetParam())};
  const ops::Matrix paired{w, ctx_.kernels().pack_swiglu(w, GetParam())};
  const Tensor product = ops::linear(ctx_, x, plain, bias);
  expect_same(ops::linear(ctx_, x, paired, bias), product, "linear of pairs");
  expect_same(ops::linear_swiglu(ctx_, x, paired, bias), ops::swiglu(ctx_, product), "linear_swiglu");
  for (const ops::Activation act : {ops::Activation::silu, ops::Activation::gelu, ops::Activation::gelu_tanh})
    expect_same(ops::linear(ctx_, x, plain, bias, act), ops::activation(ctx_, product, act), "activation");
}

// The same in eight bits, where columns have scales and inputs may have theirs.
TEST_P(RowInvariance, FusedProductsInEightBitsAreTheirParts) {
  for (const int64_t half : {int64_t{1}, int64_t{33}, int64_t{85}, int64_t{5461}}) {
    const int64_t m = half > 1000 ? 7 : 67;
    const Tensor x = random({m, 72}, 1), w = random_normal({2 * half, 72}, DType::float32, 2);
    const Tensor input_max = random_normal({72}, DType::float32, 4);
    for (int64_t i = 0; i < 72; ++i) input_max.data<float>()[i] = 0.1f + std::abs(input_max.data<float>()[i]);
    for (const Tensor& bias : {Tensor(), random_normal({2 * half}, DType::float32, 3)}) {
      for (const Tensor& most : {Tensor(), input_max}) {
        const std::string where =
            std::to_string(half) + (bias.defined() ? ", bias" : "") + (most.defined() ? ", calibrated" : "");
        const ops::Matrix plain{Tensor(), ctx_.kernels().pack_int8(w, most)};
        const ops::Matrix paired{Tensor(), ctx_.kernels().pack_int8_swiglu(w, most)};
        const Tensor product = ops::linear(ctx_, x, plain, bias), parts = ops::swiglu(ctx_, product);
        expect_same(ops::linear(ctx_, x, paired, bias), product, "linear of pairs, half " + where);
        expect_same(ops::linear_swiglu(ctx_, x, paired, bias), parts, "linear_swiglu, half " + where);
        expect_same(ops::linear_swiglu(ctx_, x, plain, bias), parts, "linear_swiglu by parts, half " + where);
        const Tensor fused = Tensor::empty({m, half}, GetParam());
        ASSERT_TRUE(ctx_.kernels().linear_swiglu(x, *paired.packed, bias, fused));
        expect_same(fused, parts, "the device's, half " + where);
      }
    }
  }
}

TEST_P(RowInvariance, FusedNormsAreTheirParts) {
  for (const int64_t width : {5, 72, 1300}) {
    const Tensor x = random({3, 17, width}, 1), y = random({3, 17, width}, 2),
                 modulation = random({3, 1, 3 * width}, 3);
    const Tensor weight = random_normal({width}, DType::float32, 4);
    const auto part = [&](int64_t i) { return modulation.slice(2, i * width, (i + 1) * width); };
    for (const ops::NormKind kind : {ops::NormKind::layer, ops::NormKind::rms}) {
      const ops::GatedNorm both = ops::add_gated_norm(ctx_, x, y, part(0), kind, 1e-6f, weight, part(1), part(2));
      const Tensor sum = ops::add_gated(ctx_, x, y, part(0));
      expect_same(both.sum, sum, "sum of width " + std::to_string(width));
      expect_same(both.normed, ops::modulated_norm(ctx_, sum, kind, 1e-6f, weight, part(1), part(2)), "its norm");
    }
  }
  for (const int64_t width : {4, 72, 1300}) {
    const Tensor x = random({2, 9, 3, width}, 1), weight = random_normal({width}, DType::float32, 2);
    const Tensor cos = random_normal({9, width}, DType::float32, 3), sin = random_normal({9, width}, DType::float32, 4);
    expect_same(ops::norm_rope(ctx_, x, ops::NormKind::rms, 1e-6f, weight, {}, cos, sin),
                ops::rope(ctx_, ops::rms_norm(ctx_, x, weight, 1e-6f), cos, sin), "rms_norm and rope");
    expect_same(ops::norm_rope(ctx_, x, ops::NormKind::layer, 1e-6f, weight, weight, cos, sin),
                ops::rope(ctx_, ops::layer_norm(ctx_, x, weight, weight, 1e-6f), cos, sin), "layer_norm and rope");
    expect_same(ops::norm_rope(ctx_, x, ops::NormKind::layer, 1e-6f, weight, weight, {}, {}),
                ops::layer_norm(ctx_, x, weight, weight, 1e-6f), "layer_norm");
  }
}

TEST_P(RowInvariance, AttentionOfOnePictureInABatch) {
  for (const int64_t tokens : {1, 5, 49, 65}) {
    for (const int64_t width : {12, 72}) {
      const Shape shape{8, tokens, 3, width};
      const Tensor q = random(shape, 1), k = random(shape, 2), v = random(shape, 3);
      const Tensor all = ops::attention(ctx_, q, k, v);
      for (int64_t b = 0; b < 8; ++b) {
        const auto one = [b](const Tensor& t) { return t.slice(0, b, b + 1); };
        expect_same(ops::attention(ctx_, one(q), one(k), one(v)), one(all), "picture " + std::to_string(b));
      }
    }
  }
}

TEST_P(RowInvariance, AttentionOfOneQuery) {
  const Tensor q = random({1, 49, 2, 64}, 1), k = random({1, 257, 2, 64}, 2), v = random({1, 257, 2, 64}, 3);
  const Tensor all = ops::attention(ctx_, q, k, v);
  for (int64_t i = 0; i < 49; i += 3)
    expect_same(ops::attention(ctx_, q.slice(1, i, i + 1), k, v), all.slice(1, i, i + 1), "query " + std::to_string(i));
}

TEST_P(RowInvariance, Norms) {
  for (const int64_t width : {1, 5, 16, 63, 341, 1300}) {
    const Tensor x = random({8, 17, width}, 1), modulation = random({8, 1, 2 * width}, 2);
    const Tensor weight = random_normal({width}, DType::float32, 3);
    for (const ops::NormKind kind : {ops::NormKind::layer, ops::NormKind::rms}) {
      const auto run = [&](int64_t b, int64_t end, int64_t i, int64_t row_end) {
        return ops::modulated_norm(ctx_, x.slice(0, b, end).slice(1, i, row_end), kind, 1e-6f, weight,
                                   modulation.slice(0, b, end).slice(2, 0, width),
                                   modulation.slice(0, b, end).slice(2, width, 2 * width));
      };
      const Tensor all = run(0, 8, 0, 17);
      for (int64_t b = 0; b < 8; ++b) {
        expect_same(run(b, b + 1, 0, 17), all.slice(0, b, b + 1), "picture " + std::to_string(b));
        expect_same(run(b, b + 1, 16, 17), all.slice(0, b, b + 1).slice(1, 16, 17), "row of " + std::to_string(b));
      }
    }
  }
}

// Vector code and its tail must agree: a value may not depend on its place in the row.
TEST_P(RowInvariance, ElementsDoNotNoticeTheirPlace) {
  const Tensor x = random({1, 1, 200}, 1), y = random({1, 1, 200}, 2), gate = random({1, 1, 200}, 3);
  const auto expect_placeless = [&](const std::function<Tensor(const std::function<Tensor(const Tensor&)>&)>& run) {
    const Tensor all = run([](const Tensor& t) { return t; });
    for (const int64_t first : {1, 7, 16, 150, 197}) {
      for (const int64_t count : {1, 3}) {
        const auto cut = [&](const Tensor& t) { return t.slice(2, first, first + count); };
        expect_same(run(cut), cut(all), std::to_string(count) + " from " + std::to_string(first));
      }
    }
  };
  for (const ops::Activation act : {ops::Activation::silu, ops::Activation::gelu, ops::Activation::gelu_tanh})
    expect_placeless([&](const auto& cut) { return ops::activation(ctx_, cut(x), act); });
  expect_placeless([&](const auto& cut) { return ops::add_gated(ctx_, cut(x), cut(y), cut(gate)); });
}

TEST_P(RowInvariance, Rope) {
  const Tensor x = random({8, 49, 3, 12}, 1);
  const Tensor cos = random_normal({49, 12}, DType::float32, 2), sin = random_normal({49, 12}, DType::float32, 3);
  const Tensor all = ops::rope(ctx_, x, cos, sin);
  for (int64_t b = 0; b < 8; ++b)
    for (const int64_t i : {0, 7, 48})
      expect_same(
          ops::rope(ctx_, x.slice(0, b, b + 1).slice(1, i, i + 1), cos.slice(0, i, i + 1), sin.slice(0, i, i + 1)),
          all.slice(0, b, b + 1).slice(1, i, i + 1), "token " + std::to_string(i));
}

INSTANTIATE_TEST_SUITE_P(All, RowInvariance, testing::Values(DType::float32, DType::bfloat16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace raedit::test
