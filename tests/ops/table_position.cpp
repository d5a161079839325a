// Rotary embedding, table lookup, Fourier features.
#include <cmath>
#include <numbers>

#include "op_table.h"
#include "ops/position.h"

namespace raedit::test {
namespace {

Tensor filled(const Tensor& like, double value) {
  return map(like, [value](double) { return value; });
}

// cos and sin are any numbers here: the rotation is linear in them.
Case rope_case(int64_t batch, int64_t n, int64_t heads, int64_t dh, bool slice = false) {
  Case test;
  test.name = slice ? "a slice of qkv" : "rope";
  test.inputs = {{"x", slice ? Shape{batch, n, 3, heads, dh} : Shape{batch, n, heads, dh}},
                 {"cos", {n, dh}, Kind::float32, false},
                 {"sin", {n, dh}, Kind::float32, false}};
  const auto x = [slice](const Tensors& in) { return slice ? in[0].select(2, 1) : in[0]; };
  test.op = [x](Context& ctx, const Tensors& in) { return ops::rope(ctx, x(in), in[1], in[2]); };
  test.composite = [x](const Tensors& in) { return composite::rope(x(in), in[1], in[2]); };
  test.magnitude = [x](const Tensors& in) {
    const Tensor zero = filled(in[1], 0.0);
    return plus(absolute(composite::rope(x(in), in[1], zero)), absolute(composite::rope(x(in), zero, in[2])));
  };
  test.steps = 2.0;
  return test;
}

Case embedding_case(int64_t rows, int64_t width, int64_t count, DType table, DType out) {
  Case test;
  test.name = std::string(name_of(table)) + " to " + std::string(name_of(out));
  test.inputs = {{"table", {rows, width}, Kind::float32, table == DType::float32},
                 {"ids", {count}, Kind::ids, false, 0, 0, 0, rows}};
  test.op = [table, out](Context& ctx, const Tensors& in) { return ops::embedding(ctx, in[0].to(table), in[1], out); };
  // Rounding to `table` is part of the input, but must not make steps in the finite differences.
  test.composite = [table](const Tensors& in) {
    return composite::embedding(table == DType::float32 ? in[0] : in[0].to(table), in[1]);
  };
  test.rounds_exactly = true;
  test.differentiable = table == DType::float32;
  test.out_dtype = out;
  test.float32_only = true;  // the run's dtype plays no part
  return test;
}

Case fourier_case(int64_t batch, int64_t count, double spread) {
  Case test;
  test.name = "frequencies of " + std::to_string(static_cast<int>(spread));
  test.inputs = {{"t", {batch}, Kind::float32, false, 0.3, 0.5}, {"w", {count}, Kind::float32, false, spread}};
  test.op = [](Context& ctx, const Tensors& in) { return ops::fourier_features(ctx, in[0], in[1]); };
  const auto features = [](const Tensors& in, const std::function<double(double)>& first,
                           const std::function<double(double)>& second) {
    const auto t = in[0].to_vector<double>(), w = in[1].to_vector<double>();
    std::vector<double> out;
    for (const double time : t) {
      for (const double frequency : w) out.push_back(first(2.0 * std::numbers::pi * time * frequency));
      for (const double frequency : w) out.push_back(second(2.0 * std::numbers::pi * time * frequency));
    }
    return Tensor::from(out, {in[0].dim(0), 2 * in[1].dim(0)});
  };
  test.composite = [features](const Tensors& in) {
    return features(
        in, [](double u) { return std::sin(u); }, [](double u) { return std::cos(u); });
  };
  // Three roundings of the angle (t w, pi itself, their product), each as large as the angle is.
  test.magnitude = [features](const Tensors& in) {
    const auto size = [](double u) { return std::abs(u); };
    return features(in, size, size);
  };
  test.steps = 3.0;
  test.differentiable = false;
  test.float32_only = true;
  return test;
}

}  // namespace

void add_position_ops(std::vector<Op>& table) {
  Op rope{"rope", {}};
  for (const int64_t tokens : {1, 5, 16, 49, 257})
    for (const int64_t width : {4, 12, 64}) rope.cases.push_back(rope_case(2, tokens, 3, width));
  rope.cases.push_back(rope_case(1, 7, 1, 2));
  rope.cases.push_back(rope_case(3, 13, 2, 72));
  rope.cases.push_back(rope_case(1, 5, 2, 128));
  rope.cases.push_back(rope_case(2, 7, 2, 12, true));
  table.push_back(rope);

  Op embedding{"embedding", {}};
  for (const DType source : {DType::float32, DType::bfloat16, DType::float16})
    for (const DType out : {DType::float32, DType::bfloat16}) {
      embedding.cases.push_back(embedding_case(1, 1, 1, source, out));
      embedding.cases.push_back(embedding_case(11, 17, 64, source, out));  // every row more than once
      embedding.cases.push_back(embedding_case(1001, 72, 7, source, out));
    }
  embedding.cases.push_back(embedding_case(5, 1300, 65, DType::float32, DType::float32));
  table.push_back(embedding);

  Op fourier{"fourier_features", {}};
  for (const double spread : {1.0, 16.0})
    for (const int64_t count : {1, 5, 64, 128}) fourier.cases.push_back(fourier_case(7, count, spread));
  fourier.cases.push_back(fourier_case(257, 63, 16.0));
  table.push_back(fourier);
}

}  // namespace raedit::test
