// Activations, SwiGLU, and arithmetic with every form of broadcasting.
#include <cmath>

#include "op_table.h"
#include "ops/activation.h"
#include "ops/elementwise.h"

namespace raedit::test {
namespace {

using backend::Activation;
using backend::Binary;

const std::vector<Shape> kShapes = {{1},         {3},          {5, 1},    {7, 17},   {2, 5, 63},  {13, 128},
                                    {4, 61, 72}, {2, 64, 341}, {257, 65}, {1, 5461}, {2, 3, 4, 5}};

// |f(x)| + |x f'(x)|: the argument's last bit counts as much as the result's.
Tensor conditioned(const std::function<Tensor(const Tensor&)>& f, const Tensor& x) {
  constexpr double kStep = 1e-6;
  const auto shifted = [&](double by) { return f(map(x, [by](double value) { return value + by; })); };
  const Tensor slope = map(shifted(kStep), shifted(-kStep), [](double a, double b) { return (a - b) / (2 * kStep); });
  return plus(absolute(f(x)), absolute(map(x, slope, [](double value, double s) { return value * s; })));
}

Case activation_case(Activation kind, const Shape& shape, double deviation) {
  Case test;
  test.name = "deviation " + std::to_string(static_cast<int>(deviation));
  test.inputs = {{"x", shape, Kind::compute, true, deviation}};
  test.op = [kind](Context& ctx, const Tensors& in) { return ops::activation(ctx, in[0], kind); };
  test.composite = [kind](const Tensors& in) { return composite::activation(kind, in[0]); };
  test.magnitude = [kind](const Tensors& in) {
    return conditioned([kind](const Tensor& x) { return composite::activation(kind, x); }, in[0]);
  };
  test.steps = kFunctionSteps;
  // The derivative is a sum of two terms, at most 1 + |x| phi(x) and the like, that meet with opposite signs left of 0.
  test.grad_magnitude = [](const Tensors& in, const Tensor& dout, size_t) {
    return map(dout, in[0], [](double d, double x) { return std::abs(d) * (1.0 + std::min(std::abs(x), 1.0)); });
  };
  return test;
}

Case strided_activation_case() {
  Case test = activation_case(Activation::silu, {3, 7, 40}, 1.0);
  test.name = "strided";
  const auto cut = [](const Tensors& in) { return Tensors{in[0].slice(-1, 5, 22)}; };
  test.op = [cut, op = test.op](Context& ctx, const Tensors& in) { return op(ctx, cut(in)); };
  test.composite = [cut, composite = test.composite](const Tensors& in) { return composite(cut(in)); };
  test.magnitude = [cut, magnitude = test.magnitude](const Tensors& in) { return magnitude(cut(in)); };
  test.grad_magnitude = nullptr;
  return test;
}

Case swiglu_case(Shape shape) {
  const int64_t half = shape[-1];
  shape.set(-1, 2 * half);
  Case test;
  test.name = "swiglu";
  test.inputs = {{"x", shape, Kind::compute, true, 2.0}};
  test.op = [](Context& ctx, const Tensors& in) { return ops::swiglu(ctx, in[0]); };
  test.composite = [](const Tensors& in) { return composite::swiglu(in[0]); };
  test.magnitude = [half](const Tensors& in) {
    const Tensor value = in[0].slice(-1, 0, half), gate = in[0].slice(-1, half, 2 * half);
    const auto silu = [](const Tensor& x) { return composite::activation(Activation::silu, x); };
    return map(conditioned(silu, gate), value, [](double g, double v) { return g * std::abs(v); });
  };
  test.steps = kFunctionSteps;
  // d value: |dout| |silu(gate)|, conditioned; d gate: |dout| |value| times at most 2, see above.
  test.grad_magnitude = [half](const Tensors& in, const Tensor& dout, size_t) {
    const Tensor all = Tensor::empty(in[0].shape(), DType::float64);
    const Tensor value = in[0].slice(-1, 0, half), gate = in[0].slice(-1, half, 2 * half);
    const auto silu = [](const Tensor& x) { return composite::activation(Activation::silu, x); };
    const auto product = [](double a, double b) { return std::abs(a * b); };
    all.slice(-1, 0, half).copy_from(map(dout, conditioned(silu, gate), product));
    all.slice(-1, half, 2 * half).copy_from(map(dout, value, [](double d, double v) { return 2.0 * std::abs(d * v); }));
    return all;
  };
  return test;
}

Case binary_case(Binary kind, const Shape& a, const Shape& b, Kind b_kind) {
  Case test;
  test.name = std::string(b_kind == Kind::float32 ? "float32 b" : "b");
  test.inputs = {{"a", a}, {"b", b, b_kind}};
  if (kind == Binary::div) test.inputs[1].keep_from_zero = 0.5;
  test.op = [kind](Context& ctx, const Tensors& in) { return ops::binary(ctx, kind, in[0], in[1]); };
  test.composite = [kind](const Tensors& in) { return composite::binary(kind, in[0], in[1]); };
  // One operation, correctly rounded; gradients of a quotient take three.
  test.steps = kind == Binary::div ? 3.0 : 1.0;
  return test;
}

Case scale_case(const Shape& shape) {
  Case test;
  test.name = "factor";
  test.inputs = {{"x", shape}};
  test.op = [](Context& ctx, const Tensors& in) { return ops::scale(ctx, in[0], -1.375f); };
  test.composite = [](const Tensors& in) { return map(in[0], [](double x) { return -1.375 * x; }); };
  return test;
}

Case add_scaled_case(const Shape& shape) {
  constexpr float kAlpha = -0.0371f;
  Case test;
  test.name = "a + alpha b";
  test.inputs = {{"a", shape}, {"b", shape}};
  test.op = [](Context& ctx, const Tensors& in) { return ops::add_scaled(ctx, in[0], kAlpha, in[1]); };
  // Not only near: the very rounding that was promised. steps 0 leaves the rounding to the result's dtype.
  test.composite = [](const Tensors& in) {
    return map(in[0], in[1], [](double a, double b) {
      const float product = kAlpha * static_cast<float>(b);
      return static_cast<double>(static_cast<float>(a) + product);
    });
  };
  test.rounds_exactly = true;
  test.differentiable = false;
  return test;
}

Case clamp_case(const Shape& shape) {
  Case test;
  test.name = "[-0.75, 0.5]";
  test.inputs = {{"x", shape}};
  test.op = [](Context& ctx, const Tensors& in) { return ops::clamp(ctx, in[0], -0.75f, 0.5f); };
  test.composite = [](const Tensors& in) {
    return map(in[0], [](double x) { return std::min(std::max(x, -0.75), 0.5); });
  };
  test.rounds_exactly = true;
  test.differentiable = false;
  return test;
}

void add_binary_ops(std::vector<Op>& table) {
  const std::pair<const char*, Binary> kinds[] = {
      {"add", Binary::add}, {"sub", Binary::sub}, {"mul", Binary::mul}, {"div", Binary::div}};
  for (const auto& [name, kind] : kinds) {
    Op op{name, {}};
    for (const Shape& shape : kShapes) op.cases.push_back(binary_case(kind, shape, shape, Kind::compute));
    for (const Shape& b : {Shape{3, 1, 17}, Shape{1, 1, 17}, Shape{17}, Shape{1}, Shape{}, Shape{3, 13, 1},
                           Shape{1, 13, 1}, Shape{13, 17}, Shape{3, 1, 1}})
      op.cases.push_back(binary_case(kind, {3, 13, 17}, b, Kind::compute));
    op.cases.push_back(binary_case(kind, {3, 257, 72}, {3, 1, 72}, Kind::compute));
    op.cases.push_back(binary_case(kind, {3, 257, 72}, {257, 1}, Kind::compute));
    op.cases.push_back(binary_case(kind, {3, 5, 16}, {16}, Kind::float32));
    op.cases.push_back(binary_case(kind, {2, 7, 63}, {2, 7, 63}, Kind::float32));
    table.push_back(op);
  }
}

}  // namespace

void add_elementwise_ops(std::vector<Op>& table) {
  const std::pair<const char*, Activation> kinds[] = {
      {"silu", Activation::silu}, {"gelu", Activation::gelu}, {"gelu_tanh", Activation::gelu_tanh}};
  for (const auto& [name, kind] : kinds) {
    Op op{name, {}};
    for (const Shape& shape : kShapes) op.cases.push_back(activation_case(kind, shape, 1.0));
    op.cases.push_back(activation_case(kind, {64, 65}, 4.0));
    op.cases.push_back(activation_case(kind, {64, 65}, 30.0));
    table.push_back(op);
  }
  table[table.size() - 3].cases.push_back(strided_activation_case());

  Op swiglu{"swiglu", {}};
  for (const Shape& shape : kShapes) swiglu.cases.push_back(swiglu_case(shape));
  table.push_back(swiglu);

  add_binary_ops(table);
  Op scale{"scale", {}}, add_scaled{"add_scaled", {}}, clamp{"clamp", {}};
  for (const Shape& shape : kShapes) {
    scale.cases.push_back(scale_case(shape));
    add_scaled.cases.push_back(add_scaled_case(shape));
    clamp.cases.push_back(clamp_case(shape));
  }
  table.insert(table.end(), {scale, add_scaled, clamp});
}

}  // namespace raedit::test
