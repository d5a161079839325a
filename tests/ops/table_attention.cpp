// Attention: token counts and head widths around the tiles, cross attention, one head, and q, k, v as slices of one
// fused projection.
#include <algorithm>
#include <cmath>

#include "op_table.h"
#include "ops/attention.h"
#include "test_device.h"

namespace raedit::test {
namespace {

// q, k and v out of the inputs: three tensors, or the planes of one [B,N,3,H,Dh].
Tensor operand(const Tensors& in, size_t which) {
  return in.size() == 3 ? in[which] : in[0].select(2, static_cast<int>(which));
}

// One head in float64, for the sizes of the terms that the formulas add up.
struct Head {
  int64_t n, nk, dh;
  std::vector<double> q, k, v, p;  // p: the probabilities [n,nk]
  double scale;

  Head(const Tensors& in, int64_t b, int64_t h) {
    const auto rows = [&](size_t which) { return operand(in, which).select(0, b).select(1, h).to_vector<double>(); };
    n = operand(in, 0).dim(1);
    nk = operand(in, 1).dim(1);
    dh = operand(in, 0).dim(3);
    q = rows(0), k = rows(1), v = rows(2);
    scale = 1.0 / std::sqrt(static_cast<double>(dh));
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0.0;
      for (int64_t j = 0; j < nk; ++j) sum += p.emplace_back(std::exp(product(q, i, k, j) * scale));
      for (int64_t j = 0; j < nk; ++j) p[at(i, j)] /= sum;
    }
  }

  size_t at(int64_t i, int64_t j) const { return static_cast<size_t>(i * nk + j); }

  double product(const std::vector<double>& a, int64_t i, const std::vector<double>& b, int64_t j) const {
    double sum = 0.0;
    for (int64_t c = 0; c < dh; ++c) sum += a[static_cast<size_t>(i * dh + c)] * b[static_cast<size_t>(j * dh + c)];
    return sum;
  }
};

// An error in a logit is a relative error of its probability: (sqrt(Dh) + 3) u times the largest sum of |q k| * scale,
// twice, for the normalisation. sqrt(Nk) for the sums over keys.
double attention_steps(const Tensors& in) {
  const Tensor q = absolute(operand(in, 0)), k = absolute(operand(in, 1));
  double largest = 0.0;
  for (int64_t b = 0; b < q.dim(0); ++b) {
    for (int64_t h = 0; h < q.dim(2); ++h) {
      const Head head({q, k, k}, b, h);
      for (int64_t i = 0; i < head.n; ++i)
        for (int64_t j = 0; j < head.nk; ++j)
          largest = std::max(largest, head.product(head.q, i, head.k, j) * head.scale);
    }
  }
  return kFunctionSteps + 2.0 * (sum_steps(q.dim(3)) + 3.0) * largest + 2.0 * sum_steps(k.dim(1));
}

// dv = p^T do;  ds = p (dp - sum p dp), dp = do v^T;  dq = ds k scale;  dk = ds^T q scale: with |.| everywhere.
Tensor grad_magnitude(const Tensors& in, const Tensor& dout, size_t which) {
  const Tensor result = Tensor::zeros(operand(in, which).shape(), DType::float64);
  const Tensor sizes = absolute(dout);
  for (int64_t b = 0; b < dout.dim(0); ++b) {
    for (int64_t h = 0; h < dout.dim(2); ++h) {
      const Head head(in, b, h);
      const Head size({absolute(operand(in, 0)), absolute(operand(in, 1)), absolute(operand(in, 2))}, b, h);
      const auto d = sizes.select(0, b).select(1, h).to_vector<double>();
      std::vector<double> terms(static_cast<size_t>((which == 0 ? head.n : head.nk) * head.dh));
      for (int64_t i = 0; i < head.n; ++i) {
        double mean = 0.0;
        for (int64_t j = 0; j < head.nk; ++j) mean += head.p[head.at(i, j)] * head.product(d, i, size.v, j);
        for (int64_t j = 0; j < head.nk; ++j) {
          const double p = head.p[head.at(i, j)];
          const double ds = p * (head.product(d, i, size.v, j) + mean) * head.scale;
          for (int64_t c = 0; c < head.dh; ++c) {
            const auto query = static_cast<size_t>(i * head.dh + c), key = static_cast<size_t>(j * head.dh + c);
            if (which == 0) terms[query] += ds * size.k[key];
            if (which == 1) terms[key] += ds * size.q[query];
            if (which == 2) terms[key] += p * d[query];
          }
        }
      }
      const Shape shape{which == 0 ? head.n : head.nk, head.dh};
      result.select(0, b).select(1, h).copy_from(Tensor::from(terms, shape));
    }
  }
  return result;
}

Case attention_case(int64_t batch, int64_t n, int64_t nk, int64_t heads, int64_t dh, bool fused = false,
                    double deviation = 1.0) {
  Case test;
  test.name = fused ? "slices of qkv" : nk == n ? "self" : "cross";
  if (fused)
    test.inputs = {{"qkv", {batch, n, 3, heads, dh}}};
  else
    test.inputs = {{"q", {batch, n, heads, dh}}, {"k", {batch, nk, heads, dh}}, {"v", {batch, nk, heads, dh}}};
  for (Input& input : test.inputs) input.deviation = deviation;
  test.op = [](Context& ctx, const Tensors& in) {
    return ops::attention(ctx, operand(in, 0), operand(in, 1), operand(in, 2));
  };
  test.composite = [](const Tensors& in) {
    return composite::attention(operand(in, 0), operand(in, 1), operand(in, 2));
  };
  // sum of p |v|
  test.magnitude = [](const Tensors& in) {
    return composite::attention(operand(in, 0), operand(in, 1), absolute(operand(in, 2)));
  };
  test.steps_of = attention_steps;
  // Probabilities are rounded before they meet the values, unless the processor has neither AMX nor the dot product.
  const std::string device = test_context().description();
  const auto has = [&](const char* text) { return device.find(text) != std::string::npos; };
  if (!device.starts_with("cpu") || has("AMX") || has("bf16 dot product"))
    test.rounded = [](const Tensors& in) {
      const Tensor q = operand(in, 0), k = operand(in, 1), v = operand(in, 2);
      return plus(absolute(composite::attention(q, k, v)), composite::attention(q, k, absolute(v)));
    };
  test.grad_magnitude = [fused](const Tensors& in, const Tensor& dout, size_t input) {
    if (!fused) return grad_magnitude(in, dout, input);
    const Tensor all = Tensor::empty(in[0].shape(), DType::float64);
    for (size_t which = 0; which < 3; ++which)
      all.select(2, static_cast<int>(which)).copy_from(grad_magnitude(in, dout, which));
    return all;
  };
  test.rounds_terms = on_cpu();  // the other devices' ways are in written_gradients_test.cpp
  test.work = static_cast<double>(2 * batch * n * nk * heads * dh);
  return test;
}

}  // namespace

void add_attention_ops(std::vector<Op>& table) {
  Op op{"attention", {}};
  for (const int64_t tokens : {1, 5, 16, 49})
    for (const int64_t width : {4, 12, 64, 72}) op.cases.push_back(attention_case(2, tokens, tokens, 3, width));
  op.cases.push_back(attention_case(1, 16, 16, 2, 128));
  op.cases.push_back(attention_case(1, 257, 257, 2, 12));
  op.cases.push_back(attention_case(1, 65, 65, 1, 64));
  op.cases.push_back(attention_case(1, 7, 600, 1, 16));  // more keys than a block of the product
  op.cases.push_back(attention_case(2, 13, 5, 2, 12));
  op.cases.push_back(attention_case(2, 1, 61, 2, 4));
  op.cases.push_back(attention_case(1, 150, 35, 1, 64));  // more queries than a block of the way back
  op.cases.push_back(attention_case(1, 37, 50, 2, 72));
  op.cases.push_back(attention_case(1, 33, 17, 1, 128));
  op.cases.push_back(attention_case(2, 16, 16, 3, 12, true));
  op.cases.push_back(attention_case(1, 61, 61, 2, 64, true));
  op.cases.push_back(attention_case(1, 16, 16, 2, 64, false, 5.0));
  op.cases.push_back(attention_case(1, 16, 16, 2, 64, false, 7.0));  // exp of the logits alone would overflow
  op.cases.back().differentiable = false;  // differences of float64 do not see probabilities of 1e-20
  table.push_back(op);
}

}  // namespace raedit::test
