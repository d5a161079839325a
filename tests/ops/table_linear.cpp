// linear: rows, widths and depths around every tile edge, with and without bias, packed and not, all activations, all
// dtypes a checkpoint may have.
#include <cmath>

#include "op_table.h"
#include "ops/activation.h"
#include "ops/linear.h"
#include "test_device.h"

namespace raedit::test {
namespace {

using ops::Activation;

// No activation here is steeper than this: gelu' is at most 1.129, gelu_tanh' 1.129, silu' 1.0999.
constexpr double kSteepest = 1.13;

struct Form {
  bool bias = true;
  bool packed = false;
  Activation act = Activation::none;
  DType source = DType::float32;  // of the weight
  bool paired = false;            // packed as that of a SwiGLU
};

std::string name_of(const Form& form) {
  static const char* const kNames[] = {"", ", silu", ", gelu", ", gelu_tanh"};
  return std::string(raedit::name_of(form.source)) + " weight" + (form.bias ? ", bias" : "") +
         (form.packed ? ", packed" : "") + (form.paired ? " in pairs" : "") + kNames[static_cast<int>(form.act)];
}

Tensor bias_of(const Tensors& in) {
  return in.size() > 2 ? in[2] : Tensor();
}

// The weight as the product sees it: rounded to the compute dtype when it is packed. The float64 inputs of the finite
// differences stay what they are.
Tensor weight_of(const Tensors& in, DType source) {
  return in[1].to(source == DType::float32 ? in[1].dtype() : source).to(in[0].dtype());
}

Case linear_case(const Form& form, const Shape& x, int64_t n) {
  const int64_t k = x[-1];
  Case test;
  test.name = name_of(form);
  test.inputs = {{"x", x}, {"weight", {n, k}, Kind::float32, form.source == DType::float32, 1.0 / std::sqrt(k)}};
  if (form.bias) test.inputs.push_back({"bias", {n}, Kind::float32});

  test.op = [form](Context& ctx, const Tensors& in) {
    ops::Matrix weight{in[1].to(form.source)};
    if (form.packed)
      weight.packed = form.paired ? ctx.kernels().pack_swiglu(weight.value, in[0].dtype())
                                  : ctx.kernels().pack(weight.value, in[0].dtype());
    return ops::linear(ctx, in[0], weight, bias_of(in), form.act);
  };
  const auto before = [form](const Tensors& in) {
    return composite::linear(in[0], weight_of(in, form.source), bias_of(in));
  };
  test.composite = [form, before](const Tensors& in) { return composite::activation(form.act, before(in)); };
  test.magnitude = [form](const Tensors& in) {
    const Tensor sums = composite::linear(absolute(in[0]), absolute(weight_of(in, form.source)), absolute(bias_of(in)));
    return form.act == Activation::none ? sums : map(sums, [](double sum) { return kSteepest * sum; });
  };
  test.steps = 1.0 + sum_steps(k);
  // A device may round a float32 gradient to bfloat16 on its way into the products of the way back (Kernels::matmul).
  test.rounds_between = !on_cpu();
  if (form.act != Activation::none) {
    // The product is rounded before the activation, and its error grows by the slope.
    test.rounded = [form, before](const Tensors& in) {
      const Tensor product = before(in);
      return plus(absolute(composite::activation(form.act, product)),
                  map(product, [](double value) { return kSteepest * std::abs(value); }));
    };
    test.steps += kFunctionSteps;
    test.rounds_between = true;
  }
  test.work = static_cast<double>(x.numel() * n);
  return test;
}

// A product of 2 * half columns and its SwiGLU in one pass. A tape takes them apart.
Case swiglu_case(bool bias, bool packed, const Shape& x, int64_t half) {
  const auto before = [](const Tensors& in) {
    return composite::linear(in[0], weight_of(in, DType::float32), bias_of(in));
  };
  // |error of value * silu(gate)| where value and gate err by as much as `sizes` says, for one unit.
  const auto through = [half](const Tensor& product, const Tensor& sizes) {
    const auto cut = [half](const Tensor& t, int part) { return t.slice(-1, part * half, (part + 1) * half); };
    const Tensor gates = absolute(composite::activation(Activation::silu, cut(product, 1)));
    return plus(map(cut(sizes, 0), gates, [](double size, double gate) { return size * gate; }),
                map(cut(sizes, 1), absolute(cut(product, 0)),
                    [](double size, double value) { return kSteepest * size * value; }));
  };
  Case test = linear_case({.bias = bias, .packed = packed, .paired = true}, x, 2 * half);
  test.op = [packed](Context& ctx, const Tensors& in) {
    ops::Matrix weight{in[1]};
    if (packed) weight.packed = ctx.kernels().pack_swiglu(weight.value, in[0].dtype());
    return ops::linear_swiglu(ctx, in[0], weight, bias_of(in));
  };
  test.composite = [before](const Tensors& in) { return composite::swiglu(before(in)); };
  test.magnitude = [=, sizes = test.magnitude](const Tensors& in) { return through(before(in), sizes(in)); };
  // Without the fused form the product is rounded before.
  test.rounded = [=](const Tensors& in) {
    return plus(absolute(composite::swiglu(before(in))), through(before(in), absolute(before(in))));
  };
  test.steps += kFunctionSteps;
  test.differentiable = false;
  return test;
}

// Every second row of a wider tensor, which linear has to copy first.
Case strided_case() {
  Case test = linear_case({}, {2, 5, 17}, 24);
  test.name = "strided x";
  test.inputs[0].shape = {2, 5, 40};
  const auto cut = [](Tensors in) {
    in[0] = in[0].slice(2, 3, 20);
    return in;
  };
  test.op = [cut, op = test.op](Context& ctx, const Tensors& in) { return op(ctx, cut(in)); };
  test.composite = [cut, composite = test.composite](const Tensors& in) { return composite(cut(in)); };
  test.magnitude = [cut, magnitude = test.magnitude](const Tensors& in) { return magnitude(cut(in)); };
  return test;
}

}  // namespace

void add_linear_ops(std::vector<Op>& table) {
  Op op{"linear", {}};
  for (const bool packed : {false, true})
    for (const bool bias : {false, true})
      for (const Shape& x : {Shape{1, 1}, Shape{1, 17}, Shape{7, 3}, Shape{13, 16}, Shape{61, 63}})
        for (const int64_t n : {1, 5, 72}) op.cases.push_back(linear_case({bias, packed}, x, n));
  op.cases.push_back(linear_case({}, {64, 128}, 64));
  op.cases.push_back(linear_case({.packed = true}, {65, 341}, 63));
  op.cases.push_back(linear_case({.packed = true}, {257, 72}, 129));
  op.cases.push_back(linear_case({.packed = true}, {2, 3, 16, 5}, 17));
  op.cases.push_back(linear_case({.packed = true}, {600, 128}, 200));  // more rows than a thread's block
  op.cases.push_back(linear_case({.packed = true}, {7, 5461}, 65));    // the odd width of the XL head
  op.cases.push_back(strided_case());
  for (const DType source : {DType::bfloat16, DType::float16})
    for (const int64_t k : {16, 63})
      for (const bool packed : {false, true})
        op.cases.push_back(linear_case({.packed = packed, .source = source}, {13, k}, 65));
  table.push_back(op);

  Op fused{"linear_activation", {}};
  for (const Activation act : {Activation::silu, Activation::gelu, Activation::gelu_tanh})
    for (const bool bias : {false, true})
      for (const Shape& x : {Shape{1, 16}, Shape{7, 5}, Shape{65, 72}})
        fused.cases.push_back(linear_case({.bias = bias, .packed = true, .act = act}, x, 65));
  table.push_back(fused);

  Op paired{"linear_of_pairs", {}}, swiglu{"linear_swiglu", {}};
  for (const bool bias : {false, true})
    for (const Shape& x : {Shape{1, 16}, Shape{7, 5}, Shape{65, 72}, Shape{2, 3, 63}})
      for (const int64_t half : {1, 16, 33, 64, 85}) {
        paired.cases.push_back(linear_case({.bias = bias, .packed = true, .paired = true}, x, 2 * half));
        swiglu.cases.push_back(swiglu_case(bias, true, x, half));
        if (half == 33) swiglu.cases.push_back(swiglu_case(bias, false, x, half));
      }
  paired.cases.push_back(
      linear_case({.packed = true, .act = Activation::silu, .source = DType::bfloat16, .paired = true}, {13, 63}, 66));
  swiglu.cases.push_back(swiglu_case(true, true, {600, 128}, 70));  // more rows than a thread's block
  table.push_back(paired);
  table.push_back(swiglu);
}

}  // namespace raedit::test
