#include "op_table.h"

#include <cmath>
#include <limits>

#include "raedit/generator.h"

namespace raedit::test {

const std::vector<Op>& op_table() {
  static const std::vector<Op> table = [] {
    std::vector<Op> ops;
    add_linear_ops(ops);
    add_int8_ops(ops);
    add_norm_ops(ops);
    add_attention_ops(ops);
    add_elementwise_ops(ops);
    add_position_ops(ops);
    add_moving_ops(ops);
    add_chains(ops);
    return ops;
  }();
  return table;
}

double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::float64: return 0x1p-53;
    case DType::float32: return 0x1p-24;
    case DType::float16: return 0x1p-11;
    case DType::bfloat16: return 0x1p-8;
    default: return 0.0;
  }
}

double sum_steps(int64_t n) {
  return std::sqrt(static_cast<double>(n));
}

Tensor random_normal(const Shape& shape, DType dtype, uint64_t seed) {
  return Generator(seed).randn(shape, DType::float64).to(dtype);
}

namespace {

// `values` between kGuard elements of `guard`.
template <class T>
Tensor guarded(const Tensor& values, T guard) {
  const int64_t n = values.numel();
  const Tensor storage = Tensor::from(std::vector<T>(static_cast<size_t>(n + 2 * kGuard), guard), {n + 2 * kGuard});
  const Tensor middle = storage.slice(0, kGuard, kGuard + n).reshape(values.shape());
  middle.copy_from(values);
  return middle;
}

}  // namespace

Tensor make_input(const Input& input, DType compute, uint64_t seed) {
  if (input.kind == Kind::ids) {
    Generator generator(seed);
    std::vector<int64_t> ids(static_cast<size_t>(input.shape.numel()));
    for (int64_t& id : ids) id = generator.random() % input.limit;
    return guarded<int64_t>(Tensor::from(ids, input.shape), std::numeric_limits<int64_t>::min());
  }
  const Tensor values = map(random_normal(input.shape, DType::float64, seed), [&](double x) {
    const double value = input.mean + input.deviation * x;
    return std::copysign(std::max(std::abs(value), input.keep_from_zero), value);
  });
  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (input.kind == Kind::float32 || compute == DType::float32) return guarded<float>(values, nan);
  return guarded<bfloat16>(values, bfloat16(nan));
}

Tensor map(const Tensor& x, const std::function<double(double)>& f) {
  auto values = x.to_vector<double>();
  for (double& value : values) value = f(value);
  return Tensor::from(values, x.shape());
}

Tensor map(const Tensor& x, const Tensor& y, const std::function<double(double, double)>& f) {
  auto values = x.to_vector<double>();
  const auto others = y.expand(x.shape()).to_vector<double>();
  for (size_t i = 0; i < values.size(); ++i) values[i] = f(values[i], others[i]);
  return Tensor::from(values, x.shape());
}

Tensor absolute(const Tensor& x) {
  return x.defined() ? map(x, [](double value) { return std::abs(value); }) : x;
}

Tensor plus(const Tensor& x, const Tensor& y) {
  return map(x, y, [](double a, double b) { return a + b; });
}

}  // namespace raedit::test
