// Several ops in a row, for the Tape: an input that is used twice, views in the middle, a block's modulation.
#include <cmath>

#include "op_table.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/gated.h"
#include "ops/linear.h"
#include "ops/moving.h"
#include "ops/norm.h"

namespace raedit::test {
namespace {

using ops::Activation;
using ops::NormKind;

// x + W2 gelu(W1 x + b1) + b2. Errors: each stage rounds what it keeps, and the next one multiplies that by its
// weights, whose rows have norm 1.
Case feed_forward_case(const Shape& x, int64_t hidden) {
  const int64_t width = x[-1];
  Case test;
  test.name = "linear, gelu, linear, add";
  test.inputs = {{"x", x},
                 {"w1", {hidden, width}, Kind::float32, true, 1.0 / std::sqrt(width)},
                 {"b1", {hidden}, Kind::float32},
                 {"w2", {width, hidden}, Kind::float32, true, 1.0 / std::sqrt(hidden)},
                 {"b2", {width}, Kind::float32}};
  test.op = [](Context& ctx, const Tensors& in) {
    const Tensor h = ops::linear(ctx, in[0], {in[1]}, in[2], Activation::gelu);
    return ops::add(ctx, in[0], ops::linear(ctx, h, {in[3]}, in[4]));
  };
  test.composite = [](const Tensors& in) {
    const Tensor h = composite::activation(Activation::gelu, composite::linear(in[0], in[1], in[2]));
    return composite::binary(backend::Binary::add, in[0], composite::linear(h, in[3], in[4]));
  };
  // Everything with |.|, and no weight is rounded in the composite: another 1 for each product, in the compute dtype.
  const auto sizes = [](const Tensors& in) {
    const Tensor h = composite::linear(absolute(in[0]), absolute(in[1]), absolute(in[2]));
    return plus(absolute(in[0]), composite::linear(h, absolute(in[3]), absolute(in[4])));
  };
  test.magnitude = sizes;
  test.rounded = [sizes](const Tensors& in) { return map(sizes(in), [](double size) { return 6.0 * size; }); };
  test.steps = kFunctionSteps + sum_steps(width) + sum_steps(hidden);
  test.rounds_between = true;
  test.work = static_cast<double>(2 * x.numel() * hidden);
  return test;
}

// x + gate * attention of modulated_norm(x): q, k, v and the modulation are views of wider results.
Case attention_block_case(int64_t batch, int64_t tokens, int64_t heads, int64_t dh) {
  const int64_t width = heads * dh;
  Case test;
  test.name = "attention half of a block";
  test.inputs = {{"x", {batch, tokens, width}},
                 {"modulation", {batch, 1, 6 * width}, Kind::compute, true, 0.3},
                 {"w_qkv", {3 * width, width}, Kind::float32, true, 1.0 / std::sqrt(width)},
                 {"w_out", {width, width}, Kind::float32, true, 1.0 / std::sqrt(width)}};
  const Shape planes{batch, tokens, 3, heads, dh};
  const auto chunk = [width](const Tensors& in, int64_t i) { return in[1].slice(-1, i * width, (i + 1) * width); };
  test.op = [=](Context& ctx, const Tensors& in) {
    const Tensor y = ops::modulated_norm(ctx, in[0], NormKind::layer, 1e-6f, {}, chunk(in, 0), chunk(in, 1));
    const Tensor qkv = ops::linear(ctx, y, {in[2]}).reshape(planes);
    const Tensor z = ops::attention(ctx, qkv.select(2, 0), qkv.select(2, 1), qkv.select(2, 2));
    return ops::add_gated(ctx, in[0], ops::linear(ctx, z.reshape(in[0].shape()), {in[3]}), chunk(in, 2));
  };
  test.composite = [=](const Tensors& in) {
    const Tensor y = composite::norm(NormKind::layer, 1e-6, in[0], {}, {}, chunk(in, 0), chunk(in, 1));
    const Tensor qkv = composite::linear(y, in[2], {}).reshape(planes);
    const Tensor z = composite::attention(qkv.select(2, 0), qkv.select(2, 1), qkv.select(2, 2));
    return composite::add_gated(in[0], composite::linear(z.reshape(in[0].shape()), in[3], {}), chunk(in, 2));
  };
  // Each of the five stages is off by the rounding of what went in before, sqrt(D) terms of about 1 at a time.
  test.magnitude = [=](const Tensors& in) {
    return map(absolute(in[0]), chunk(in, 2),
               [=](double x, double gate) { return x + std::abs(gate) * sum_steps(width); });
  };
  test.rounded = [magnitude = test.magnitude](const Tensors& in) {
    return map(magnitude(in), [](double size) { return 5.0 * size; });
  };
  test.steps = 5.0 * (kFunctionSteps + sum_steps(width));
  test.rounds_between = true;
  test.work = static_cast<double>(4 * batch * tokens * width * (width + tokens));
  return test;
}

// The same tensor in three places, once as a slice of itself.
Case reused_case() {
  Case test;
  test.name = "one input, three uses";
  test.inputs = {{"x", {3, 8}}};
  test.op = [](Context& ctx, const Tensors& in) {
    const Tensor head = in[0].slice(1, 0, 5), tail = in[0].slice(1, 5, 8);
    return ops::mul(ctx, ops::concat(ctx, {tail, head}, 1), in[0]);
  };
  test.composite = [](const Tensors& in) {
    const auto x = in[0].to_vector<double>();
    std::vector<double> out;
    for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] * x[i / 8 * 8 + (i % 8 + 5) % 8]);
    return Tensor::from(out, in[0].shape());
  };
  return test;
}

}  // namespace

void add_chains(std::vector<Op>& table) {
  table.push_back({"chain",
                   {feed_forward_case({7, 5}, 13), feed_forward_case({2, 16, 17}, 63), attention_block_case(2, 5, 2, 4),
                    attention_block_case(1, 16, 3, 12), reused_case()}});
}

}  // namespace raedit::test
