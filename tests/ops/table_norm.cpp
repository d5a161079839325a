// Norms, alone and modulated: every optional operand, every way a modulation broadcasts, and the six slices of an adaLN
// projection.
#include <cmath>

#include "op_table.h"
#include "ops/gated.h"
#include "ops/norm.h"
#include "ops/position.h"
#include "ops/tape.h"

namespace raedit::test {
namespace {

using ops::NormKind;

constexpr float kEps = 1e-6f;

// What a row's normalisation does to rounding errors.
struct Row {
  double rstd = 0.0;
  double mean_size = 0.0;  // of |x|, where the mean is taken away
};

Row row_of(NormKind kind, const double* x, int64_t width) {
  double mean = 0.0, square = 0.0;
  Row row;
  for (int64_t i = 0; i < width; ++i) mean += kind == NormKind::layer ? x[i] / static_cast<double>(width) : 0.0;
  for (int64_t i = 0; i < width; ++i) {
    square += (x[i] - mean) * (x[i] - mean) / static_cast<double>(width);
    row.mean_size += kind == NormKind::layer ? std::abs(x[i]) / static_cast<double>(width) : 0.0;
  }
  row.rstd = 1.0 / std::sqrt(square + kEps);
  return row;
}

struct Norm {
  NormKind kind;
  // Operands by their place in the inputs; the first is x. Chunks are cut out of their input.
  struct Operand {
    int input = -1;
    int chunk = -1;  // of six

    Tensor of(const Tensors& in) const {
      if (input < 0) return Tensor();
      const Tensor& whole = in[static_cast<size_t>(input)];
      if (chunk < 0) return whole;
      const int64_t width = whole.dim(-1) / 6;
      return whole.slice(-1, chunk * width, (chunk + 1) * width);
    }
  };
  Operand weight = {}, bias = {}, shift = {}, scale = {};

  Tensor composite(const Tensors& in) const {
    return composite::norm(kind, kEps, in[0], weight.of(in), bias.of(in), shift.of(in), scale.of(in));
  }

  // |x - mean| * rstd is as inexact as |x| and |mean| are large.
  Tensor magnitude(const Tensors& in) const {
    const int64_t width = in[0].dim(-1);
    auto values = in[0].to_vector<double>();
    for (size_t r = 0; r < values.size(); r += static_cast<size_t>(width)) {
      const Row row = row_of(kind, values.data() + r, width);
      for (size_t i = 0; i < static_cast<size_t>(width); ++i)
        values[r + i] = row.rstd * (std::abs(values[r + i]) + row.mean_size);
    }
    Tensor result = Tensor::from(values, in[0].shape());
    const auto times = [](double a, double b) { return a * std::abs(b); };
    const auto plus_abs = [](double a, double b) { return a + std::abs(b); };
    const auto modulate = [](double a, double b) { return a * (1.0 + std::abs(b)); };
    if (weight.input >= 0) result = map(result, weight.of(in), times);
    if (bias.input >= 0) result = map(result, bias.of(in), plus_abs);
    if (scale.input >= 0) result = map(result, scale.of(in), modulate);
    if (shift.input >= 0) result = map(result, shift.of(in), plus_abs);
    return result;
  }

  // How much larger than x-hat the terms are that it is the difference of.
  double condition(const Tensors& in) const {
    const int64_t width = in[0].dim(-1);
    const auto x = in[0].to_vector<double>();
    double worst = 1.0;
    for (size_t r = 0; r < x.size(); r += static_cast<size_t>(width)) {
      const Row row = row_of(kind, x.data() + r, width);
      worst = std::max(worst, 1.0 + 2.0 * row.rstd * row.mean_size);
    }
    return worst;
  }

  // dx = rstd * (g - mean(g) - xhat * mean(g * xhat)), g = dout * (1 + scale) * weight: three terms that may cancel.
  Tensor dx_magnitude(const Tensors& in, const Tensor& dout) const {
    const int64_t width = in[0].dim(-1);
    Tensor upstream = absolute(dout);
    if (scale.input >= 0)
      upstream = map(upstream, scale.of(in), [](double g, double s) { return g * std::abs(1 + s); });
    if (weight.input >= 0) upstream = map(upstream, weight.of(in), [](double g, double w) { return g * std::abs(w); });
    const auto x = in[0].to_vector<double>(), g = upstream.to_vector<double>();
    std::vector<double> result(x.size());
    for (size_t r = 0; r < x.size(); r += static_cast<size_t>(width)) {
      const Row row = row_of(kind, x.data() + r, width);
      const auto size_of_hat = [&](size_t i) { return row.rstd * (std::abs(x[r + i]) + row.mean_size); };
      double mean = 0.0, mean_hat = 0.0;
      for (size_t i = 0; i < static_cast<size_t>(width); ++i) {
        mean += kind == NormKind::layer ? g[r + i] / static_cast<double>(width) : 0.0;
        mean_hat += g[r + i] * size_of_hat(i) / static_cast<double>(width);
      }
      for (size_t i = 0; i < static_cast<size_t>(width); ++i)
        result[r + i] = row.rstd * (g[r + i] + mean + size_of_hat(i) * mean_hat);
    }
    return Tensor::from(result, in[0].shape());
  }
};

Case norm_case(std::string name, const Norm& norm, std::vector<Input> inputs) {
  Case test;
  test.name = std::string(norm.kind == NormKind::layer ? "layer" : "rms") + name;
  test.inputs = std::move(inputs);
  test.inputs[0].mean = 0.5;
  test.composite = [norm](const Tensors& in) { return norm.composite(in); };
  test.magnitude = [norm](const Tensors& in) { return norm.magnitude(in); };
  test.steps = 6.0 + sum_steps(test.inputs[0].shape[-1]);
  test.condition_of = [norm](const Tensors& in) { return norm.condition(in); };
  test.typical_errors = true;  // x-hat near 0 is the difference of larger numbers
  test.grad_magnitude = [norm](const Tensors& in, const Tensor& dout, size_t input) {
    return input == 0 ? norm.dx_magnitude(in, dout) : Tensor();
  };
  return test;
}

Case plain_case(NormKind kind, const Shape& x, bool weight, bool bias) {
  const int64_t width = x[-1];
  Norm norm{kind};
  std::vector<Input> inputs{{"x", x}};
  std::string name;
  if (weight) {
    norm.weight.input = static_cast<int>(inputs.size());
    inputs.push_back({"weight", {width}, Kind::float32});
    name += ", weight";
  }
  if (bias) {
    norm.bias.input = static_cast<int>(inputs.size());
    inputs.push_back({"bias", {width}, Kind::float32});
    name += ", bias";
  }
  Case test = norm_case(name, norm, std::move(inputs));
  test.op = [norm](Context& ctx, const Tensors& in) {
    return norm.kind == NormKind::layer ? ops::layer_norm(ctx, in[0], norm.weight.of(in), norm.bias.of(in), kEps)
                                        : ops::rms_norm(ctx, in[0], norm.weight.of(in), kEps);
  };
  return test;
}

Case modulated(std::string name, const Norm& norm, std::vector<Input> inputs) {
  Case test = norm_case(std::move(name), norm, std::move(inputs));
  test.op = [norm](Context& ctx, const Tensors& in) {
    return ops::modulated_norm(ctx, in[0], norm.kind, kEps, norm.weight.of(in), norm.shift.of(in), norm.scale.of(in));
  };
  return test;
}

Case modulated_case(NormKind kind, const Shape& x, const Shape& modulation, Kind dtype, bool weight, bool shift) {
  Norm norm{kind};
  std::vector<Input> inputs{{"x", x}, {"scale", modulation, dtype, true, 0.5}};
  norm.scale.input = 1;
  std::string name = modulation == x ? ", per token" : ", modulation";
  if (shift) {
    norm.shift.input = static_cast<int>(inputs.size());
    inputs.push_back({"shift", modulation, dtype});
    name += ", shift";
  }
  if (weight) {
    norm.weight.input = static_cast<int>(inputs.size());
    inputs.push_back({"weight", {x[2]}, Kind::float32});
    name += ", weight";
  }
  return modulated(name, norm, std::move(inputs));
}

// shift and scale are slices 3 and 4 of [B,1,6D] or [B,N,6D], as in a block's second half.
Case chunked_case(NormKind kind, const Shape& x, int64_t tokens) {
  const Norm norm{.kind = kind, .shift = {1, 3}, .scale = {1, 4}};
  return modulated(", chunks", norm, {{"x", x}, {"modulation", {x[0], tokens, 6 * x[2]}, Kind::compute, true, 0.5}});
}

Case gated_case(const Shape& x, const Shape& gate, Kind dtype, int chunk = -1) {
  const Norm::Operand operand{2, chunk};
  Case test;
  test.name = chunk < 0 ? "gate" : "chunked gate";
  test.inputs = {{"x", x}, {"y", x}, {"gate", gate, dtype}};
  test.op = [operand](Context& ctx, const Tensors& in) { return ops::add_gated(ctx, in[0], in[1], operand.of(in)); };
  test.composite = [operand](const Tensors& in) { return composite::add_gated(in[0], in[1], operand.of(in)); };
  test.magnitude = [operand](const Tensors& in) {
    return composite::add_gated(absolute(in[0]), absolute(in[1]), absolute(operand.of(in)));
  };
  test.steps = 2.0;
  return test;
}

// All four operands at once. No op asks for it, but the kernels promise it.
Case kernel_case(NormKind kind, const Shape& x, const Shape& modulation) {
  const int64_t width = x[2];
  const Norm norm{.kind = kind, .weight = {1}, .bias = {2}, .shift = {3}, .scale = {4}};
  Case test = norm_case(", the kernel with everything", norm,
                        {{"x", x},
                         {"weight", {width}, Kind::float32},
                         {"bias", {width}, Kind::float32},
                         {"shift", modulation},
                         {"scale", modulation}});
  test.op = [kind](Context& ctx, const Tensors& in) {
    const Shape& shape = in[0].shape();
    const backend::NormArgs args{kind, kEps, in[0], in[1], in[2], in[4].expand(shape), in[3].expand(shape)};
    const Tensor out = ctx.empty(shape, in[0].dtype());
    ctx.kernels().norm(args, out);
    Tape* tape = Tape::recording(ctx, {&in[0]});
    if (tape == nullptr) return out;
    std::vector<Tape::Slot> slots;
    for (const Tensor& operand : {args.x, args.weight, args.bias, args.scale, args.shift})
      slots.push_back(tape->slot(operand));
    tape->record(out, [args, slots](Context& c, Tape& t, const Tensor& dout) {
      c.kernels().norm_backward(
          dout, args,
          {t.grad(c, slots[0]), t.grad(c, slots[1]), t.grad(c, slots[2]), t.grad(c, slots[3]), t.grad(c, slots[4])});
    });
    return out;
  };
  return test;
}

// ---- two ops in one pass, where the device has it. A tape takes them apart, so their gradients are those of the
// parts.

// What is rounded between the parts goes through the second one: `sizes` again.
void made_of_two(Case& test, const std::function<Tensor(const Tensors&)>& sizes, double share) {
  test.magnitude = sizes;
  test.rounded = [sizes, share, composite = test.composite](const Tensors& in) {
    return map(absolute(composite(in)), sizes(in), [share](double out, double size) { return out + share * size; });
  };
  test.steps += 4.0;
  test.differentiable = false;
}

// A head's norm and its rotation; cut: x is a third of [B,N,3,H,Dh].
Case norm_rope_case(NormKind kind, const Shape& x, bool cut, bool rope, bool weight) {
  const int64_t tokens = x[1], width = x[3];
  Norm norm{kind};
  std::vector<Input> inputs{{"x", cut ? Shape{x[0], tokens, 3, x[2], width} : x},
                            {"cos", {tokens, width}, Kind::float32},
                            {"sin", {tokens, width}, Kind::float32}};
  if (weight) {
    norm.weight.input = static_cast<int>(inputs.size());
    inputs.push_back({"weight", {width}, Kind::float32});
  }
  if (weight && kind == NormKind::layer) {
    norm.bias.input = static_cast<int>(inputs.size());
    inputs.push_back({"bias", {width}, Kind::float32});
  }
  const auto parts = [cut](const Tensors& in) {
    Tensors now = in;
    if (cut) now[0] = in[0].select(2, 1);
    return now;
  };
  Case test = norm_case(std::string(rope ? ", rope" : ", no rope") + (weight ? ", weight" : "") + (cut ? ", cut" : ""),
                        norm, std::move(inputs));
  test.op = [=](Context& ctx, const Tensors& in) {
    return ops::norm_rope(ctx, parts(in)[0], kind, kEps, norm.weight.of(in), norm.bias.of(in), rope ? in[1] : Tensor(),
                          rope ? in[2] : Tensor());
  };
  test.composite = [=](const Tensors& in) {
    const Tensor normed = norm.composite(parts(in));
    return rope ? composite::rope(normed, in[1], in[2]) : normed;
  };
  const auto sizes = [=](const Tensors& in) {
    const Tensor size = norm.magnitude(parts(in));
    if (!rope) return size;
    const Tensor none = map(in[1], [](double) { return 0.0; });
    return plus(absolute(composite::rope(size, absolute(in[1]), none)),
                absolute(composite::rope(size, none, absolute(in[2]))));
  };
  made_of_two(test, sizes, 1.0);
  return test;
}

// x + gate * y, and its modulated norm: `which` of the two results.
Case gated_norm_case(NormKind kind, const Shape& x, const Shape& modulation, bool shift, bool weight, bool which) {
  Norm norm{kind};
  std::vector<Input> inputs{{"x", x}, {"y", x}, {"gate", modulation}, {"scale", modulation, Kind::compute, true, 0.5}};
  norm.scale.input = 3;
  if (shift) {
    norm.shift.input = static_cast<int>(inputs.size());
    inputs.push_back({"shift", modulation});
  }
  if (weight) {
    norm.weight.input = static_cast<int>(inputs.size());
    inputs.push_back({"weight", {x[2]}, Kind::float32});
  }
  const auto summed = [](const Tensors& in) {
    Tensors now = in;
    now[0] = composite::add_gated(in[0], in[1], in[2]);
    return now;
  };
  Case test = norm_case(std::string(which ? ", normed" : ", sum") + (shift ? ", shift" : "") +
                            (weight ? ", weight" : "") + (modulation == x ? ", per token" : ""),
                        norm, std::move(inputs));
  test.op = [=](Context& ctx, const Tensors& in) {
    const ops::GatedNorm out = ops::add_gated_norm(ctx, in[0], in[1], in[2], kind, kEps, norm.weight.of(in),
                                                   norm.shift.of(in), norm.scale.of(in));
    return which ? out.normed : out.sum;
  };
  if (!which) {
    test.composite = [=](const Tensors& in) { return summed(in)[0]; };
    made_of_two(
        test, [](const Tensors& in) { return composite::add_gated(absolute(in[0]), absolute(in[1]), absolute(in[2])); },
        0.0);
    return test;
  }
  test.composite = [=](const Tensors& in) { return norm.composite(summed(in)); };
  // The sum may be rounded before its norm is taken: every element by u, and mean and deviation by less.
  made_of_two(
      test, [=](const Tensors& in) { return norm.magnitude(summed(in)); }, 3.0);
  return test;
}

void add_fused_norms(std::vector<Op>& table) {
  Op turned{"norm_rope", {}}, gated{"add_gated_norm", {}};
  for (const NormKind kind : {NormKind::layer, NormKind::rms}) {
    for (const Shape& x : {Shape{1, 1, 1, 2}, Shape{2, 7, 3, 12}, Shape{1, 49, 2, 64}, Shape{2, 16, 3, 72},
                           Shape{1, 5, 2, 128}, Shape{2, 3, 2, 34}})
      for (const bool cut : {false, true})
        for (const bool rope : {false, true}) turned.cases.push_back(norm_rope_case(kind, x, cut, rope, x[3] != 12));
    for (const Shape& x : {Shape{1, 1, 3}, Shape{2, 7, 17}, Shape{2, 16, 72}, Shape{1, 5, 341}, Shape{3, 64, 128},
                           Shape{1, 33, 1152}, Shape{2, 3, 2048}})
      for (const bool which : {false, true}) {
        gated.cases.push_back(gated_norm_case(kind, x, {x[0], 1, x[2]}, true, true, which));
        gated.cases.push_back(gated_norm_case(kind, x, x, which, false, which));
      }
  }
  table.push_back(turned);
  table.push_back(gated);
}

std::vector<Shape> broadcasts(const Shape& x) {
  return {x, {x[0], 1, x[2]}, {1, 1, x[2]}, {x[2]}};
}

void add_plain_norms(std::vector<Op>& table) {
  Op layer{"layer_norm", {}}, rms{"rms_norm", {}};
  for (const Shape& x : {Shape{1, 1, 3}, Shape{2, 7, 5}, Shape{13, 16}, Shape{1, 61, 17}, Shape{2, 2, 4, 63},
                         Shape{3, 5, 72}, Shape{64, 128}, Shape{2, 65, 341}, Shape{257, 12}}) {
    layer.cases.push_back(plain_case(NormKind::layer, x, true, true));
    layer.cases.push_back(plain_case(NormKind::layer, x, false, false));
    rms.cases.push_back(plain_case(NormKind::rms, x, true, false));
    rms.cases.push_back(plain_case(NormKind::rms, x, false, false));
  }
  layer.cases.push_back(plain_case(NormKind::layer, {2, 3, 16}, true, false));
  layer.cases.push_back(plain_case(NormKind::layer, {2, 3, 16}, false, true));
  rms.cases.push_back(plain_case(NormKind::rms, {2, 5, 1}, true, false));
  rms.cases.push_back(plain_case(NormKind::rms, {3, 5461}, true, false));
  table.push_back(layer);
  table.push_back(rms);
}

}  // namespace

void add_norm_ops(std::vector<Op>& table) {
  add_plain_norms(table);

  Op op{"modulated_norm", {}};
  for (const NormKind kind : {NormKind::layer, NormKind::rms}) {
    for (const Shape& modulation : broadcasts({2, 7, 17}))
      for (const bool weight : {false, true})
        for (const bool shift : {false, true})
          op.cases.push_back(modulated_case(kind, {2, 7, 17}, modulation, Kind::compute, weight, shift));
    for (const Shape& x :
         {Shape{1, 1, 3}, Shape{3, 5, 16}, Shape{2, 16, 63}, Shape{1, 49, 72}, Shape{2, 64, 128}, Shape{1, 13, 341}}) {
      op.cases.push_back(modulated_case(kind, x, {x[0], 1, x[2]}, Kind::compute, true, true));
      op.cases.push_back(chunked_case(kind, x, 1));
      op.cases.push_back(chunked_case(kind, x, x[1]));
    }
    op.cases.push_back(kernel_case(kind, {2, 5, 17}, {2, 1, 17}));
    op.cases.push_back(kernel_case(kind, {2, 5, 17}, {2, 5, 17}));
    op.cases.push_back(modulated_case(kind, {3, 257, 72}, {3, 1, 72}, Kind::compute, true, true));
    op.cases.push_back(modulated_case(kind, {2, 5, 24}, {2, 1, 24}, Kind::float32, true, true));
  }
  table.push_back(op);

  Op gated{"add_gated", {}};
  for (const Shape& x : {Shape{1, 1, 1}, Shape{2, 7, 17}, Shape{3, 16, 72}, Shape{2, 65, 341}, Shape{3, 257, 63}}) {
    for (const Shape& gate : broadcasts(x)) gated.cases.push_back(gated_case(x, gate, Kind::compute));
    gated.cases.push_back(gated_case(x, {x[2]}, Kind::float32));  // LayerScale
    gated.cases.push_back(gated_case(x, {x[0], 1, 6 * x[2]}, Kind::compute, 2));
    gated.cases.push_back(gated_case(x, {x[0], x[1], 6 * x[2]}, Kind::compute, 5));
  }
  table.push_back(gated);

  add_fused_norms(table);
}

}  // namespace raedit::test
