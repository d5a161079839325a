// Moving and resampling. What only moves numbers must not change a bit, or round exactly once.
#include <cmath>

#include "op_table.h"
#include "ops/moving.h"
#include "ops/resample.h"

namespace raedit::test {
namespace {

// out[i] = x[index(i)], for i in row-major order of `shape`.
Tensor gathered(const Tensor& x, const Shape& shape, const std::function<int64_t(int64_t)>& index) {
  const auto values = x.to_vector<double>();
  std::vector<double> out;
  for (int64_t i = 0; i < shape.numel(); ++i) out.push_back(values[static_cast<size_t>(index(i))]);
  return Tensor::from(out, shape);
}

Case moving_case(std::string name, std::vector<Input> inputs) {
  Case test;
  test.name = std::move(name);
  test.inputs = std::move(inputs);
  test.rounds_exactly = true;
  return test;
}

Case contiguous_case(const Shape& x, int a, int b) {
  Case test = moving_case("transpose " + std::to_string(a) + " " + std::to_string(b), {{"x", x}});
  test.op = [=](Context& ctx, const Tensors& in) { return ops::contiguous(ctx, in[0].transpose(a, b)); };
  test.composite = [=](const Tensors& in) {
    const Tensor& t = in[0];
    Shape shape = t.shape();
    shape.set(a, t.dim(b));
    shape.set(b, t.dim(a));
    return gathered(t, shape, [&](int64_t i) {
      std::vector<int64_t> at(static_cast<size_t>(shape.rank()));
      for (int d = shape.rank() - 1; d >= 0; i /= shape[d--]) at[static_cast<size_t>(d)] = i % shape[d];
      std::swap(at[static_cast<size_t>(a)], at[static_cast<size_t>(b)]);
      int64_t index = 0;
      for (int d = 0; d < shape.rank(); ++d) index = index * t.dim(d) + at[static_cast<size_t>(d)];
      return index;
    });
  };
  return test;
}

Case slice_case(const Shape& x) {
  Case test = moving_case("slice", {{"x", x}});
  const int64_t width = x[-1];
  test.op = [=](Context& ctx, const Tensors& in) { return ops::contiguous(ctx, in[0].slice(-1, width / 3, width)); };
  test.composite = [=](const Tensors& in) {
    Shape shape = in[0].shape();
    const int64_t rest = width - width / 3;
    shape.set(-1, rest);
    return gathered(in[0], shape, [=](int64_t i) { return i / rest * width + width / 3 + i % rest; });
  };
  return test;
}

Case cast_case(const Shape& x, Kind from, DType to) {
  Case test = moving_case("to " + std::string(name_of(to)), {{"x", x, from}});
  test.op = [to](Context& ctx, const Tensors& in) { return ops::cast(ctx, in[0], to); };
  test.composite = [](const Tensors& in) { return in[0].to(DType::float64); };
  test.out_dtype = to;
  return test;
}

Case concat_case(const std::vector<Shape>& parts, int dim) {
  Case test = moving_case("dimension " + std::to_string(dim), {});
  for (const Shape& part : parts) test.inputs.push_back({"part", part});
  test.op = [dim](Context& ctx, const Tensors& in) { return ops::concat(ctx, in, dim); };
  test.composite = [dim](const Tensors& in) {
    Shape shape = in[0].shape();
    int64_t outer = 1, inner = 1, length = 0;
    const int axis = dim < 0 ? dim + shape.rank() : dim;
    for (int d = 0; d < shape.rank(); ++d) (d < axis ? outer : inner) *= d == axis ? 1 : shape[d];
    std::vector<double> out;
    for (int64_t o = 0; o < outer; ++o) {
      for (const Tensor& part : in) {
        const auto values = part.to_vector<double>();
        const int64_t run = part.dim(axis) * inner;
        out.insert(out.end(), values.begin() + o * run, values.begin() + (o + 1) * run);
      }
    }
    for (const Tensor& part : in) length += part.dim(axis);
    shape.set(axis, length);
    return Tensor::from(out, shape);
  };
  return test;
}

// out[b, y * w + x, (c * p + i) * p + j] = in[b, c, y * p + i, x * p + j]
Case patchify_case(const Shape& shape, int64_t p) {
  Case test = moving_case("patches of " + std::to_string(p), {{"x", shape}});
  test.op = [p](Context& ctx, const Tensors& in) { return ops::patchify(ctx, in[0], p); };
  test.composite = [p](const Tensors& in) {
    const Tensor& t = in[0];
    const int64_t channels = t.dim(1), h = t.dim(2) / p, w = t.dim(3) / p, width = channels * p * p;
    return gathered(t, {t.dim(0), h * w, width}, [&](int64_t at) {
      const int64_t j = at % p, i = at / p % p, c = at / (p * p) % channels, x = at / width % w, y = at / width / w % h,
                    b = at / width / w / h;
      return ((b * channels + c) * t.dim(2) + y * p + i) * t.dim(3) + x * p + j;
    });
  };
  return test;
}

// out[b, c, y * p + i, x * p + j] = in[b, y * w + x, (i * p + j) * C + c]
Case unpatchify_case(int64_t batch, int64_t channels, int64_t h, int64_t w, int64_t p) {
  Case test = moving_case("patches of " + std::to_string(p), {{"tokens", {batch, h * w, p * p * channels}}});
  test.op = [=](Context& ctx, const Tensors& in) { return ops::unpatchify(ctx, in[0], h, w, p); };
  test.composite = [=](const Tensors& in) {
    return gathered(in[0], {batch, channels, h * p, w * p}, [=](int64_t at) {
      const int64_t column = at % (w * p), row = at / (w * p) % (h * p), c = at / (w * p * h * p) % channels,
                    b = at / (w * p * h * p) / channels;
      return ((b * h * w + row / p * w + column / p) * p * p + row % p * p + column % p) * channels + c;
    });
  };
  return test;
}

Case resample_case(const Shape& x, int64_t height, int64_t width, ops::Filter filter) {
  static const char* const kNames[] = {"bilinear", "bicubic", "bicubic_antialias"};
  Case test;
  test.name = std::string(kNames[static_cast<int>(filter)]) + " to " + Shape{height, width}.str();
  test.inputs = {{"x", x}};
  test.op = [=](Context& ctx, const Tensors& in) { return ops::resample(ctx, in[0], height, width, filter); };
  test.composite = [=](const Tensors& in) { return composite::resample(in[0], height, width, filter); };
  // The weights of a cubic add up to at most 1 + 4 |a| 4/27 = 1.45 in size (a = -0.75), along each axis.
  test.magnitude = [composite = test.composite](const Tensors& in) {
    double largest = 0.0;
    for (const double value : in[0].to_vector<double>()) largest = std::max(largest, std::abs(value));
    return map(composite(in), [=](double) { return 1.45 * 1.45 * largest; });
  };
  const auto taps = [&](int64_t from, int64_t to) {
    return filter == ops::Filter::bicubic_antialias ? 4 * std::max<int64_t>(1, (from + to - 1) / to) : 4;
  };
  test.steps = 2.0 + sum_steps(taps(x[2], height)) + sum_steps(taps(x[3], width));
  return test;
}

void add_resample_op(std::vector<Op>& table) {
  Op op{"resample", {}};
  for (const ops::Filter filter : {ops::Filter::bilinear, ops::Filter::bicubic, ops::Filter::bicubic_antialias}) {
    op.cases.push_back(resample_case({1, 1, 1, 1}, 3, 2, filter));
    op.cases.push_back(resample_case({2, 3, 5, 7}, 5, 7, filter));
    op.cases.push_back(resample_case({1, 2, 7, 5}, 16, 13, filter));
    op.cases.push_back(resample_case({1, 2, 37, 37}, 16, 16, filter));
    op.cases.push_back(resample_case({2, 1, 17, 61}, 5, 7, filter));
    op.cases.push_back(resample_case({1, 1, 16, 5}, 1, 1, filter));
    op.cases.push_back(resample_case({1, 3, 64, 65}, 72, 61, filter));
    op.cases.push_back(resample_case({1, 2, 2, 3}, 63, 65, filter));
  }
  table.push_back(op);
}

}  // namespace

void add_moving_ops(std::vector<Op>& table) {
  Op contiguous{"contiguous", {}};
  contiguous.cases = {contiguous_case({1, 1}, 0, 1),
                      contiguous_case({7, 5}, 0, 1),
                      contiguous_case({65, 341}, 0, 1),
                      contiguous_case({2, 16, 3, 12}, 1, 2),
                      contiguous_case({2, 3, 13, 17}, 1, 3),
                      contiguous_case({3, 2, 5, 4, 3}, 0, 2),
                      contiguous_case({2, 257, 3, 64}, 1, 2),
                      slice_case({3, 17}),
                      slice_case({2, 5, 128}),
                      slice_case({64, 5461})};
  table.push_back(contiguous);

  Op cast{"cast", {}};
  for (const Shape& x : {Shape{1}, Shape{7, 3}, Shape{2, 63, 65}, Shape{5461}, Shape{64, 512}})
    for (const DType to : {DType::float32, DType::bfloat16}) cast.cases.push_back(cast_case(x, Kind::compute, to));
  for (const DType to : {DType::float16, DType::float64}) {
    cast.cases.push_back(cast_case({7, 17}, Kind::compute, to));
    cast.cases.back().differentiable = false;
  }
  table.push_back(cast);

  Op concat{"concat", {}};
  concat.cases = {concat_case({{3, 5}}, 0),
                  concat_case({{1, 5}, {7, 5}}, 0),
                  concat_case({{7, 1}, {7, 17}, {7, 3}}, -1),
                  concat_case({{2, 1, 72}, {2, 257, 72}}, 1),
                  concat_case({{1, 2, 3, 4}, {1, 2, 13, 4}, {1, 2, 1, 4}}, 2),
                  concat_case({{65, 341}, {65, 341}}, 1)};
  table.push_back(concat);

  Op patchify{"patchify", {}}, unpatchify{"unpatchify", {}};
  patchify.cases = {patchify_case({1, 1, 1, 1}, 1), patchify_case({2, 3, 4, 6}, 2), patchify_case({2, 3, 7, 11}, 3),
                    patchify_case({1, 5, 16, 16}, 1), patchify_case({2, 3, 56, 42}, 14)};
  unpatchify.cases = {unpatchify_case(1, 1, 1, 1, 1), unpatchify_case(2, 3, 2, 3, 2), unpatchify_case(1, 5, 3, 1, 3),
                      unpatchify_case(2, 17, 4, 4, 1), unpatchify_case(2, 3, 4, 3, 16)};
  table.insert(table.end(), {patchify, unpatchify});
  add_resample_op(table);
}

}  // namespace raedit::test
