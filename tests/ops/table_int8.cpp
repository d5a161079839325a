// linear with a matrix in 8-bit integers, against the exact integer sums: depths around the padding to 64, columns
// around the panels, rows around the tile, with and without smoothing, rows of zeros.
#include <algorithm>
#include <cmath>

#include "op_table.h"
#include "ops/activation.h"
#include "ops/linear.h"
#include "test_device.h"

namespace raedit::test {
namespace {

using ops::Activation;

struct Quantized {
  std::vector<int64_t> values;
  std::vector<float> scales;  // of the rows
};

// Rows [N,K] times factor [K], in float32 like the definition: scale max / 127, round half to even.
Quantized quantized(const std::vector<float>& x, const std::vector<float>& factor, int64_t k) {
  Quantized q;
  const int64_t rows = static_cast<int64_t>(x.size()) / k;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<float> row(x.begin() + r * k, x.begin() + (r + 1) * k);
    float most = 0.0f;
    for (size_t i = 0; i < row.size(); ++i) {
      if (!factor.empty()) row[i] *= factor[i];
      most = std::max(most, std::abs(row[i]));
    }
    if (most < 0x1p-100f) most = 0.0f;
    const float inverse = most > 0.0f ? 127.0f / most : 0.0f;
    for (const float v : row) q.values.push_back(std::lrint(v * inverse));
    q.scales.push_back(most / 127.0f);
  }
  return q;
}

std::vector<float> smoothing(const std::vector<float>& weight, const std::vector<float>& input_max) {
  const size_t k = input_max.size();
  std::vector<float> s;
  for (size_t i = 0; i < k; ++i) {
    float most = 0.0f;
    for (size_t at = i; at < weight.size(); at += k) most = std::max(most, std::abs(weight[at]));
    s.push_back(std::sqrt(input_max[i] / most));
  }
  return s;
}

struct Form {
  bool bias = true;
  bool smooth = false;
  DType source = DType::float32;
  Activation act = Activation::none;
};

// [M,N] in float64 from the integers: of the products, or of their magnitudes and that of the bias.
Tensor from_integers(const Form& form, const Tensors& in, bool magnitudes) {
  const int64_t k = in[0].dim(-1), n = in[1].dim(0), m = in[0].numel() / k;
  const auto weight = in[1].to(form.source).to_vector<float>();
  std::vector<float> s, inverse;
  if (form.smooth) {
    s = smoothing(weight, in[2].to_vector<float>());
    for (const float v : s) inverse.push_back(1.0f / v);
  }
  const Quantized x = quantized(in[0].to_vector<float>(), inverse, k), w = quantized(weight, s, k);
  const auto bias = form.bias ? in.back().to_vector<double>() : std::vector<double>(static_cast<size_t>(n));
  std::vector<double> out;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      int64_t sum = 0;
      for (int64_t c = 0; c < k; ++c)
        sum += x.values[static_cast<size_t>(i * k + c)] * w.values[static_cast<size_t>(j * k + c)];
      const auto row = static_cast<size_t>(i), column = static_cast<size_t>(j);
      const double product = static_cast<double>(sum) * double{x.scales[row]} * double{w.scales[column]};
      out.push_back(magnitudes ? std::abs(product) + std::abs(bias[column]) : product + bias[column]);
    }
  }
  Shape shape = in[0].shape();
  shape.set(-1, n);
  return Tensor::from(out, shape);
}

Case int8_case(const Form& form, const Shape& x, int64_t n) {
  const int64_t k = x[-1];
  Case test;
  test.name = std::string(raedit::name_of(form.source)) + " weight" + (form.bias ? ", bias" : "") +
              (form.smooth ? ", smoothed" : "") + (form.act == Activation::gelu ? ", gelu" : "");
  test.inputs = {{"x", x}, {"weight", {n, k}, Kind::float32, false, 1.0 / std::sqrt(k), 0.0, 1e-3}};
  // Far apart, as channels are where smoothing helps.
  if (form.smooth) test.inputs.push_back({"input_max", {k}, Kind::float32, false, 3.0, 8.0, 0.25});
  if (form.bias) test.inputs.push_back({"bias", {n}, Kind::float32, false});
  test.differentiable = false;
  test.op = [form](Context& ctx, const Tensors& in) {
    const Tensor input_max = form.smooth ? absolute(in[2]).to(DType::float32) : Tensor();
    const ops::Matrix weight{Tensor(), ctx.kernels().pack_int8(in[1].to(form.source), input_max)};
    return ops::linear(ctx, in[0], weight, form.bias ? in.back() : Tensor(), form.act);
  };
  const auto positive = [form](Tensors in) {
    if (form.smooth) in[2] = absolute(in[2]).to(DType::float32);
    return in;
  };
  const auto before = [form, positive](const Tensors& in) { return from_integers(form, positive(in), false); };
  test.composite = [form, before](const Tensors& in) { return composite::activation(form.act, before(in)); };
  test.magnitude = [form, positive](const Tensors& in) { return from_integers(form, positive(in), true); };
  test.steps = 6.0;  // the sum as float32, its two scales (each a quotient), the bias
  if (form.act != Activation::none) {
    constexpr double kSteepest = 1.13;  // no gelu is
    test.steps = kSteepest * test.steps + kFunctionSteps;
    test.rounded = [form, before](const Tensors& in) {
      const Tensor product = before(in);
      return plus(absolute(composite::activation(form.act, product)),
                  map(product, [](double value) { return kSteepest * std::abs(value); }));
    };
  }
  test.work = static_cast<double>(x.numel() * n);
  return test;
}

// Some rows and one column of the weight have nothing in them, or nothing worth a scale.
Case zero_rows_case() {
  Case test = int8_case({}, {9, 70}, 33);
  test.name = "rows of zeros";
  const auto emptied = [](Tensors in) {
    for (Tensor& t : in) t = t.clone();
    for (const int64_t row : {0, 4, 8}) in[0].select(0, row).copy_from(Tensor::zeros({70}, in[0].dtype()));
    in[0].select(0, 5).copy_from(Tensor::full({70}, 1e-38f).to(in[0].dtype()));
    in[1].select(0, 16).copy_from(Tensor::zeros({70}, in[1].dtype()));
    return in;
  };
  test.op = [emptied, op = test.op](Context& ctx, const Tensors& in) { return op(ctx, emptied(in)); };
  test.composite = [emptied, composite = test.composite](const Tensors& in) { return composite(emptied(in)); };
  test.magnitude = [emptied, magnitude = test.magnitude](const Tensors& in) { return magnitude(emptied(in)); };
  return test;
}

}  // namespace

void add_int8_ops(std::vector<Op>& table) {
  if (!on_cpu()) return;  // no other device has it
  Op op{"linear_int8", {}};
  for (const bool bias : {false, true})
    for (const int64_t m : {1, 7, 13})
      for (const int64_t n : {1, 17, 65})
        for (const int64_t k : {1, 63, 65}) op.cases.push_back(int8_case({.bias = bias}, {m, k}, n));
  op.cases.push_back(int8_case({}, {257, 64}, 129));
  op.cases.push_back(int8_case({}, {2, 3, 5, 682}, 17));
  op.cases.push_back(int8_case({}, {7, 5461}, 33));
  op.cases.push_back(int8_case({.smooth = true}, {600, 70}, 20));  // more rows than a thread's block
  for (const DType source : {DType::float32, DType::bfloat16, DType::float16})
    for (const int64_t k : {1, 63, 341}) op.cases.push_back(int8_case({.smooth = true, .source = source}, {7, k}, 17));
  op.cases.push_back(int8_case({.act = Activation::gelu}, {13, 63}, 65));
  op.cases.push_back(zero_rows_case());
  table.push_back(op);
}

}  // namespace raedit::test
