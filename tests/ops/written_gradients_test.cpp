// The backward kernels that write gradients, or take and give bfloat16 ones, against those that add to float32: a dout
// of either type, and a gradient that is written in bfloat16, written in float32 or added to, whole or a slice.
#include <gtest/gtest.h>

#include <cmath>

#include "backend/kernels.h"
#include "op_table.h"
#include "ops/linear.h"
#include "raedit/context.h"
#include "test_device.h"

namespace raedit::test {
namespace {

using namespace backend;

enum class Mode { half, fresh, added };

struct How {
  DType dout;
  Mode mode;
};

class WrittenGradients : public testing::TestWithParam<How> {
 protected:
  const Kernels& kernels() const { return ctx_.kernels(); }
  Tensor there(const Tensor& tensor) const { return on_device(ctx_, tensor); }
  Tensor half(const Shape& shape, uint64_t seed) const { return there(random_normal(shape, DType::bfloat16, seed)); }
  Tensor floats(const Shape& shape, uint64_t seed) const { return there(random_normal(shape, DType::float32, seed)); }
  Tensor zeros(const Shape& shape) const { return zeros_on(kernels().memory(), shape); }

  // The same numbers in the dtype that is tested and in float32.
  struct Dout {
    Tensor given, wide;
  };
  Dout dout(const Shape& shape, uint64_t seed) const {
    const Tensor given = random_normal(shape, GetParam().dout, seed);
    return {there(given), there(given.to(DType::float32))};
  }

  // A gradient as the kernel gets it, and what was there. `whole`: it is view(memory of this shape).
  struct Place {
    Gradient gradient;
    Tensor before;  // float32, on the host
  };
  Place place(const Shape& whole, const std::function<Tensor(const Tensor&)>& view, Mode mode) const {
    const DType dtype = mode == Mode::half ? DType::bfloat16 : DType::float32;
    const Tensor memory =
        mode == Mode::added ? random_normal(whole, dtype, 99) : Tensor::full(whole, std::nanf("")).to(dtype);
    const Tensor device = there(memory.clone());
    return {{view(device), mode != Mode::added}, view(memory).to(DType::float32).contiguous()};
  }
  Place place(const Shape& whole) const {
    return place(
        whole, [](const Tensor& t) { return t; }, GetParam().mode);
  }

  Place place_float32(const Shape& whole) const {
    const Mode mode = GetParam().mode;
    return place(
        whole, [](const Tensor& t) { return t; }, mode == Mode::half ? Mode::fresh : mode);
  }

  // plain: what the kernel that adds makes of zeros. share: of the largest number, what the two may differ by.
  void expect_equal(const char* what, const Place& found, const Tensor& plain, double share = 4e-6) const {
    const auto x = found.gradient.at.to_vector<double>(), old = found.before.to_vector<double>(),
               added = plain.to_vector<double>();
    double largest = 0;
    for (const double a : added) largest = std::max(largest, std::abs(a));
    const double unit = found.gradient.at.dtype() == DType::bfloat16 ? 0x1p-8 : 0x1p-22;
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = (found.gradient.fresh ? 0.0 : old[i]) + added[i];
      ASSERT_NEAR(x[i], expected, unit * std::abs(expected) + share * largest) << what << " " << i;
    }
  }

  Context ctx_ = test_context();
};

INSTANTIATE_TEST_SUITE_P(All, WrittenGradients,
                         testing::Values(How{DType::float32, Mode::half}, How{DType::float32, Mode::fresh},
                                         How{DType::float32, Mode::added}, How{DType::bfloat16, Mode::half},
                                         How{DType::bfloat16, Mode::fresh}, How{DType::bfloat16, Mode::added}),
                         [](const auto& info) {
                           const Mode mode = info.param.mode;
                           return std::string(name_of(info.param.dout)) + (mode == Mode::half    ? "ToHalf"
                                                                           : mode == Mode::fresh ? "Written"
                                                                                                 : "Added");
                         });

TEST_P(WrittenGradients, SwiGlu) {
  for (const int64_t width : {1, 8, 37, 1536}) {
    const Tensor x = half({2, 5, 2 * width}, 1);
    const Dout d = dout({2, 5, width}, 2);
    const Place dx = place(x.shape());
    const Tensor plain = zeros(x.shape());
    kernels().swiglu_backward_into(d.given, x, dx.gradient);
    kernels().swiglu_backward(d.wide, x, plain);
    expect_equal("dx", dx, plain);
  }
}

TEST_P(WrittenGradients, Activations) {
  for (const Activation kind : {Activation::silu, Activation::gelu, Activation::gelu_tanh}) {
    for (const int64_t count : {1, 37, 4096}) {
      const Tensor x = half({count}, 1);
      const Dout d = dout({count}, 2);
      const Place dx = place(x.shape());
      const Tensor plain = zeros(x.shape());
      kernels().activation_backward_into(kind, d.given, x, dx.gradient);
      kernels().activation_backward(kind, d.wide, x, plain);
      expect_equal("dx", dx, plain);
    }
  }
}

// The second of three slices of a tensor that holds modulation.
Tensor second_third(const Tensor& t) {
  const int64_t width = t.dim(-1) / 3;
  return t.slice(-1, width, 2 * width);
}

TEST_P(WrittenGradients, Gate) {
  for (const int64_t width : {8, 37, 1152}) {
    for (const bool of_token : {false, true}) {
      const Shape shape{3, 21, width}, gates{3, of_token ? 21 : 1, 3 * width};
      const Tensor y = half(shape, 1), gate = second_third(half(gates, 2)).expand(shape);
      const Dout d = dout(shape, 3);
      const Place dy = place(shape);
      // What is summed over the tokens is always added.
      const auto view = [&](const Tensor& t) { return second_third(t); };
      const Place dgate = place(gates, view, of_token ? GetParam().mode : Mode::added);
      const Tensor plain_y = zeros(shape), plain_gate = zeros(gates);
      kernels().add_gated_backward_into(d.given, y, gate, dy.gradient,
                                        {dgate.gradient.at.expand(shape), dgate.gradient.fresh});
      kernels().add_gated_backward(d.wide, y, gate, Tensor(), plain_y, second_third(plain_gate).expand(shape));
      expect_equal("dy", dy, plain_y);
      expect_equal("dgate", dgate, second_third(plain_gate));
      const Place alone = place(shape);
      kernels().add_gated_backward_into(d.given, y, gate, alone.gradient, {});
      expect_equal("dy alone", alone, plain_y);
    }
  }
}

TEST_P(WrittenGradients, Rope) {
  for (const int64_t width : {6, 72, 128}) {
    for (const int64_t heads : {2, 4}) {
      const Shape shape{2, 9, heads, width};
      const Tensor cos = floats({9, width}, 1), sin = floats({9, width}, 2);
      const Dout d = dout(shape, 3);
      const Tensor plain = zeros(shape);
      kernels().rope(d.wide, cos, sin, true, plain);
      const Place dx = place(shape);
      kernels().rope_backward_into(d.given, cos, sin, dx.gradient);
      expect_equal("dx", dx, plain);
      const auto second = [](const Tensor& t) { return t.select(2, 1); };
      const Place slice = place({2, 9, 3, heads, width}, second, GetParam().mode);
      kernels().rope_backward_into(d.given, cos, sin, slice.gradient);
      expect_equal("dx, a slice", slice, plain);
    }
  }
}

TEST_P(WrittenGradients, ColumnSums) {
  for (const Shape& shape : {Shape{1, 8}, Shape{17, 37}, Shape{300, 1152}, Shape{5000, 10}, Shape{4097, 5}}) {
    const Dout d = dout(shape, 1);
    const Place sums = place_float32({shape[1]});
    const Tensor plain = zeros({shape[1]});
    kernels().column_sums_into(d.given, sums.gradient);
    kernels().accumulate(d.wide, plain.expand(shape));
    expect_equal("sums", sums, plain);
  }
}

TEST_P(WrittenGradients, Norms) {
  for (const int64_t width : {8, 37, 72, 1152, 2048}) {
    for (const NormKind kind : {NormKind::rms, NormKind::layer}) {
      for (const bool of_token : {false, true}) {
        const Shape shape{2, 19, width}, modulation{2, of_token ? 19 : 1, 3 * width};
        const Tensor both = half(modulation, 4), weight = floats({width}, 3);
        const NormArgs args{kind,
                            1e-6f,
                            half(shape, 1),
                            weight,
                            {},
                            second_third(both).expand(shape),
                            both.slice(-1, 0, width).expand(shape)};
        const Dout d = dout(shape, 2);
        const Place dx = place(shape);
        const Mode mode = of_token ? GetParam().mode : Mode::added;
        const Place dscale = place(modulation, second_third, mode);
        const auto first_third = [&](const Tensor& t) { return t.slice(-1, 0, width); };
        const Place dshift = place(modulation, first_third, mode);
        const Place dweight = place_float32({width});
        const Tensor x = zeros(shape), w = zeros({width}), scale = zeros(modulation), shift = zeros(modulation);
        kernels().norm_backward_into(d.given, args,
                                     {dx.gradient,
                                      dweight.gradient,
                                      {},
                                      {dscale.gradient.at.expand(shape), dscale.gradient.fresh},
                                      {dshift.gradient.at.expand(shape), dshift.gradient.fresh}});
        kernels().norm_backward(d.wide, args,
                                {x, w, {}, second_third(scale).expand(shape), first_third(shift).expand(shape)});
        expect_equal("dx", dx, x);
        expect_equal("dweight", dweight, w);
        expect_equal("dscale", dscale, second_third(scale));
        expect_equal("dshift", dshift, first_third(shift));
      }
    }
  }
}

TEST_P(WrittenGradients, Attention) {
  // Where everything is bfloat16 a device may round probabilities and the gradients of scores for its products, too.
  const double share = GetParam().dout == DType::bfloat16 ? 0x1p-7 : 4e-6;
  for (const int64_t width : {20, 64, 72, 128}) {
    for (const int64_t tokens : {1, 5, 64, 150, 301}) {
      const Shape shape{2, tokens, 2, width};
      const Tensor q = half(shape, 1), k = half(shape, 2), v = half(shape, 3);
      const Dout d = dout(shape, 4);
      const auto third = [](const Tensor& t) { return t.select(2, 2); };
      const Place dq = place(shape), dk = place(shape);
      const Place dv = place({2, tokens, 3, 2, width}, third, GetParam().mode);
      const Tensor plain_q = zeros(shape), plain_k = zeros(shape), plain_v = zeros(shape);
      kernels().attention_backward_into(d.given, q, k, v, 0.125f, dq.gradient, dk.gradient, dv.gradient);
      kernels().attention_backward(d.wide, q, k, v, 0.125f, plain_q, plain_k, plain_v);
      expect_equal("dq", dq, plain_q, share);
      expect_equal("dk", dk, plain_k, share);
      expect_equal("dv", dv, plain_v, share);
    }
  }
}

TEST_P(WrittenGradients, Products) {
  for (const auto& [m, n, k] :
       {std::tuple{1, 1, 1}, {40, 24, 64}, {17, 37, 5}, {129, 64, 200}, {23, 80, 1031}, {75, 129, 4099}}) {
    const Dout a = dout({m, k}, 1);
    const Tensor b = half({k, n}, 2);
    const Place out = place({m, n});
    const Tensor plain = zeros({m, n});
    kernels().matmul_into(a.given, b, out.gradient, DType::bfloat16);
    kernels().matmul(a.given, b, plain, false, DType::bfloat16);
    expect_equal("out", out, plain);
    // And against float64: products of bfloat16 numbers are exact, their sums are float32.
    const auto exact = composite::linear(a.wide.cpu(), b.cpu().to(DType::float32).transpose(0, 1).contiguous(), {});
    if (GetParam().dout == DType::bfloat16) expect_equal("out, exactly", out, exact);
  }
}

// As a weight's: the left operand is the transpose of rows, and the sum is over as many as there are.
TEST_P(WrittenGradients, ProductsOverRows) {
  for (const auto& [m, n, k] : {std::tuple{1, 1, 1}, {24, 40, 64}, {37, 17, 5}, {16, 129, 200}, {257, 70, 1031}}) {
    const Dout a = dout({k, m}, 1);
    const Tensor b = half({k, n}, 2);
    const Place out = place({m, n});
    kernels().matmul_into(a.given.transpose(0, 1), b, out.gradient, DType::bfloat16);
    const Tensor exact = composite::linear(a.wide.cpu().transpose(0, 1).contiguous(),
                                           b.cpu().to(DType::float32).transpose(0, 1).contiguous(), {});
    // A device may round a float32 gradient first.
    expect_equal("out", out, exact, GetParam().dout == DType::float32 ? 0x1p-8 : 4e-6);
  }
}

// The bias is a bfloat16 number, and the sum is rounded once.
TEST_P(WrittenGradients, RoundedBias) {
  for (const auto& [m, n, k] : {std::tuple{1, 1, 1}, {40, 24, 64}, {300, 37, 5}, {129, 64, 200}}) {
    const Tensor x = half({m, k}, 1), bias = half({n}, 3);
    const auto weight = kernels().pack(half({n, k}, 2), DType::bfloat16);
    const Tensor out = there(Tensor::empty({m, n}, DType::bfloat16)), plain = zeros({m, n});
    kernels().linear_rounded(x, *weight, bias, out);
    kernels().linear(x, *weight, there(bias.cpu().to(DType::float32)), Activation::none, plain);
    const Tensor bare = zeros({m, n});
    kernels().linear(x, *weight, Tensor(), Activation::none, bare);
    const auto found = out.to_vector<double>(), expected = plain.to_vector<double>(),
               product = bare.to_vector<double>();
    // One rounding, or two where the bias is added to a rounded product.
    for (size_t i = 0; i < found.size(); ++i)
      ASSERT_NEAR(found[i], expected[i], 0x1p-8 * (std::abs(expected[i]) + std::abs(product[i])) + 1e-5);
  }
}

}  // namespace
}  // namespace raedit::test
