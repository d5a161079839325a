// Every check of the op table, for every op in float32 and bfloat16.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "op_table.h"
#include "ops/elementwise.h"
#include "ops/tape.h"
#include "test_device.h"

namespace raedit::test {
namespace {

// Elements of one input that the finite differences visit one by one.
constexpr double kMostElements = 24;
constexpr double kMostWork = 1.5e7;

// A quotient by 2^128 or more is lost, and what is below the normal numbers of float32 loses its digits: up to
// |x| / 2^128 for any x here.
constexpr double kUnderflow = 0x1p-120;

struct Param {
  const Op* op;
  DType dtype;

  friend void PrintTo(const Param& param, std::ostream* out) { *out << param.op->name << ' ' << name_of(param.dtype); }
};

std::vector<Param> params() {
  std::vector<Param> result;
  for (const Op& op : op_table())
    for (const DType dtype : {DType::float32, DType::bfloat16})
      if (dtype == DType::float32 ||
          std::any_of(op.cases.begin(), op.cases.end(), [](const Case& c) { return !c.float32_only; }))
        result.push_back({&op, dtype});
  return result;
}

std::string name_of_param(const testing::TestParamInfo<Param>& info) {
  return info.param.op->name + "_" + std::string(name_of(info.param.dtype));
}

// A device without threads has one Context, whatever their number.
Context& context(int threads = 1) {
  static std::vector<Context> contexts = [] {
    std::vector<Context> made;
    for (int i = 1; i <= (on_cpu() ? 3 : 1); ++i) made.push_back(test_context(i));
    return made;
  }();
  return contexts[on_cpu() ? static_cast<size_t>(threads - 1) : 0];
}

Tensors make_inputs(const Case& test, DType dtype) {
  Tensors inputs;
  for (const Input& input : test.inputs) inputs.push_back(make_input(input, dtype, 1234 + 17 * inputs.size()));
  return inputs;
}

// What the composite reads stays on the host; what the op reads lies where its kernels do.
Tensors all_on_device(const Tensors& inputs) {
  Tensors moved;
  for (const Tensor& input : inputs) moved.push_back(on_device(context(), input));
  return moved;
}

bool wants_gradient(const Input& input) {
  return input.gradient && input.kind != Kind::ids;
}

std::string title(const Case& test) {
  std::string text = test.name + ":";
  for (const Input& input : test.inputs) text += " " + input.name + input.shape.str();
  return text;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.cpu().contiguous().raw(), b.cpu().contiguous().raw(), a.nbytes()) == 0;
}

// How far an error is into its bound; 0 where both are 0.
double share_of(double error, double bound) {
  if (error == 0.0) return 0.0;
  return std::isnan(error) || bound == 0.0 ? INFINITY : error / bound;
}

// The largest share of the bound that any element of a test took.
struct Worst {
  double share = 0.0;
  std::string where = "nothing";

  void add(double error, double bound, const std::function<std::string()>& place) {
    const double ratio = share_of(error, bound);
    if (ratio < share) return;
    share = ratio;
    where = place();
  }
};

struct Result {
  Tensor out;
  Tensors gradients;  // undefined where not wanted
};

// The types of the gradients that arrive.
std::vector<DType> douts_of(const Case& test, DType dtype) {
  if (dtype == DType::bfloat16 && test.rounds_terms) return {DType::float32, DType::bfloat16};
  return {DType::float32};
}

// Forward and backward with a tape. Also: gradients outside of the views stay 0.
Result run_with_tape(Context& ctx, const Case& test, const Tensors& inputs, const Tensor& dout) {
  Tape tape;
  if (dout.dtype() == DType::bfloat16) tape.use_half_gradients();
  for (size_t i = 0; i < inputs.size(); ++i)
    if (wants_gradient(test.inputs[i])) tape.watch(inputs[i]);
  ctx.set_tape(&tape);
  Result result;
  result.out = test.op(ctx, inputs);
  tape.backward(ctx, result.out, dout);
  ctx.set_tape(nullptr);
  for (size_t i = 0; i < inputs.size(); ++i) {
    result.gradients.emplace_back();
    if (!wants_gradient(test.inputs[i])) continue;
    const Tensor grad = tape.grad(ctx, inputs[i]);
    result.gradients.back() = grad;
    const auto all = whole_storage(grad).to_vector<float>();
    int64_t overruns = 0;
    for (size_t k = 0; k < kGuard; ++k) overruns += (all[k] != 0.0f) + (all[all.size() - 1 - k] != 0.0f);
    EXPECT_EQ(overruns, 0) << "written beside the gradient of " << test.inputs[i].name;
  }
  return result;
}

class OpTable : public testing::TestWithParam<Param> {
 protected:
  template <class F>
  void each_case(const F& f) {
    for (const Case& test : GetParam().op->cases) {
      if (test.float32_only && GetParam().dtype != DType::float32) continue;
      SCOPED_TRACE(title(test));
      f(test);
      if (HasFatalFailure()) return;
    }
  }
};

// ---- forward

void check_forward(const Case& test, DType dtype, Worst& worst) {
  const Tensors inputs = make_inputs(test, dtype);
  const Tensor out = test.op(context(), all_on_device(inputs));
  const Tensor expected = test.composite(inputs);
  ASSERT_EQ(out.shape(), expected.shape());
  const DType out_dtype = test.out_dtype.value_or(dtype);
  ASSERT_EQ(out.dtype(), out_dtype);
  EXPECT_TRUE(out.is_contiguous());
  if (test.rounds_exactly) {
    EXPECT_TRUE(same_bits(out, expected.to(out_dtype)));
    return;
  }

  const auto found = out.to_vector<double>(), wanted = expected.to_vector<double>();
  const auto rounded = absolute(test.rounded ? test.rounded(inputs) : expected).to_vector<double>();
  const auto magnitude = absolute(test.magnitude ? test.magnitude(inputs) : expected).to_vector<double>();
  const double steps = test.steps_of ? test.steps_of(inputs) : test.steps;
  Worst here;
  for (size_t i = 0; i < found.size(); ++i) {
    const double bound =
        unit_roundoff(out_dtype) * rounded[i] + steps * unit_roundoff(DType::float32) * magnitude[i] + kUnderflow;
    here.add(std::abs(found[i] - wanted[i]), bound, [&] {
      return title(test) + ", element " + std::to_string(i) + ": " + std::to_string(found[i]) + " instead of " +
             std::to_string(wanted[i]) + ", bound " + std::to_string(bound);
    });
  }
  EXPECT_LE(here.share, 1.0) << here.where;
  if (here.share > worst.share) worst = here;
}

TEST_P(OpTable, ForwardIsTheComposite) {
  Worst worst;
  each_case([&](const Case& test) { check_forward(test, GetParam().dtype, worst); });
  RecordProperty("largest_share_of_bound", std::to_string(worst.share));
  RecordProperty("at", worst.where);
}

// ---- gradients

// d(sum of out * dout)/d(shift along `direction`), term by term: the central difference of fourth order.
struct Derivative {
  double value = 0.0;
  double magnitude = 0.0;
  int64_t terms = 0;
  double noise =
      0.0;  // of the differences themselves: the composite's own rounding over the step, the step's 4th power
};

Derivative difference(const Case& test, Tensors inputs, size_t input, const std::function<void(double*, double)>& move,
                      const std::vector<double>& dout) {
  constexpr double kStep = 1e-3;
  const Tensor original = inputs[input];
  const auto at = [&](double distance) {
    inputs[input] = original.clone();
    move(inputs[input].data<double>(), distance);
    return test.composite(inputs).to_vector<double>();
  };
  const auto far = at(2 * kStep), near = at(kStep), back = at(-kStep), far_back = at(-2 * kStep);
  Derivative result;
  for (size_t i = 0; i < dout.size(); ++i) {
    const double term = dout[i] * ((far_back[i] - far[i]) + 8 * (near[i] - back[i])) / (12 * kStep);
    result.value += term;
    result.magnitude += std::abs(term);
    result.terms += term != 0.0 ? 1 : 0;
    if (term != 0.0) result.noise += 0x1p-50 * std::abs(dout[i]) * (std::abs(near[i]) + std::abs(back[i])) / kStep;
  }
  result.noise += 1e-10 * result.magnitude;
  return result;
}

std::vector<int64_t> some_elements(int64_t numel, double work) {
  const auto count = static_cast<int64_t>(std::clamp(kMostWork / work, 4.0, kMostElements));
  std::vector<int64_t> elements;
  if (numel <= count) {
    for (int64_t i = 0; i < numel; ++i) elements.push_back(i);
    return elements;
  }
  std::mt19937 engine(99);
  elements = {0, numel - 1};
  while (static_cast<int64_t>(elements.size()) < count) elements.push_back(engine() % numel);
  return elements;
}

struct GradientCheck {
  const Case& test;
  DType dtype;
  Tensors inputs;  // float64, the same numbers
  Tensor dout;
  Tensors gradients;
  Tensors twice;  // with the op called twice on the same inputs and the results added
  double steps = test.steps_of ? test.steps_of(inputs) : test.steps;
  double condition = test.condition_of ? test.condition_of(inputs) : 1.0;
  Worst worst = {};

  double unit() const { return unit_roundoff(test.rounds_between ? dtype : DType::float32); }

  double bound(double magnitude, const Derivative& d) const {
    const double rounding = dout.dtype() == DType::bfloat16 ? unit_roundoff(DType::bfloat16) : 0.0;
    return ((steps + sum_steps(d.terms)) * condition * unit() + rounding) * magnitude + d.noise + kUnderflow;
  }

  // One element after the other, each against its own bound. Returns the largest magnitude seen.
  double check_elements(size_t input) {
    const auto gradient = gradients[input].to_vector<double>();
    const auto doubled = twice[input].to_vector<double>();
    const auto douts = dout.to_vector<double>();
    const Tensor terms = test.grad_magnitude ? test.grad_magnitude(inputs, dout, input) : Tensor();
    const auto given = terms.defined() ? absolute(terms).to_vector<double>() : std::vector<double>();
    const auto elements = some_elements(inputs[input].numel(), work());
    std::vector<Derivative> derivatives;
    double mean = 0.0;
    for (const int64_t element : elements) {
      derivatives.push_back(difference(
          test, inputs, input, [&](double* x, double by) { x[element] += by; }, douts));
      mean += derivatives.back().magnitude / static_cast<double>(elements.size());
    }
    double largest = 0.0;
    for (size_t i = 0; i < elements.size(); ++i) {
      const auto at = static_cast<size_t>(elements[i]);
      const Derivative& d = derivatives[i];
      const double magnitude =
          given.empty() ? d.magnitude + (test.typical_errors || test.rounds_between ? mean : 0.0) : given[at];
      largest = std::max(largest, magnitude);
      const double most = bound(magnitude, d);
      worst.add(std::abs(gradient[at] - d.value), most, [&] {
        return title(test) + ", gradient of " + test.inputs[input].name + " at " + std::to_string(at) + ": " +
               std::to_string(gradient[at]) + " instead of " + std::to_string(d.value) + ", bound " +
               std::to_string(most);
      });
      worst.add(std::abs(doubled[at] - 2.0 * gradient[at]), 2.0 * most, [&] {
        return title(test) + ", gradient of " + test.inputs[input].name + " at " + std::to_string(at) +
               ", used twice: " + std::to_string(doubled[at]) + " is not twice " + std::to_string(gradient[at]);
      });
    }
    return largest;
  }

  // All elements at once, along a random direction of +1 and -1.
  void check_direction(size_t input, double largest) {
    const auto gradient = gradients[input].to_vector<double>();
    std::mt19937 engine(7);
    std::vector<double> direction(gradient.size());
    double along = 0.0, sum = 0.0;
    for (size_t i = 0; i < direction.size(); ++i) {
      direction[i] = engine() % 2 == 0 ? 1.0 : -1.0;
      along += direction[i] * gradient[i];
      sum += std::abs(gradient[i]);
    }
    const Derivative d = difference(
        test, inputs, input,
        [&](double* x, double by) {
          for (size_t i = 0; i < direction.size(); ++i) x[i] += direction[i] * by;
        },
        dout.to_vector<double>());
    const double magnitude = std::max(sum, largest * sum_steps(static_cast<int64_t>(direction.size())));
    const double most = bound(magnitude, d);
    worst.add(std::abs(along - d.value), most, [&] {
      return title(test) + ", all of the gradient of " + test.inputs[input].name + ": " + std::to_string(along) +
             " instead of " + std::to_string(d.value) + ", bound " + std::to_string(most);
    });
  }

 private:
  double work() const { return std::max(test.work, static_cast<double>(8 * dout.numel())); }
};

void check_gradients(const Case& test, DType dtype, DType dout_dtype, Worst& worst) {
  const Tensors host = make_inputs(test, dtype), inputs = all_on_device(host);
  const Tensor forward = test.op(context(), inputs);
  const Tensor dout = random_normal(forward.shape(), dout_dtype, 4321);
  const Result result = run_with_tape(context(), test, inputs, dout);
  // A tape may change what is kept, never what comes out.
  EXPECT_TRUE(same_bits(result.out, forward));

  Case used_twice = test;
  used_twice.op = [&test](Context& ctx, const Tensors& in) {
    return ops::add(ctx, test.op(ctx, in), test.op(ctx, in));
  };
  const Result twice = run_with_tape(context(), used_twice, inputs, dout);

  Tensors exact;
  for (const Tensor& input : host) exact.push_back(is_floating(input.dtype()) ? input.to(DType::float64) : input);
  GradientCheck check{test, dtype, exact, dout, result.gradients, twice.gradients};
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!wants_gradient(test.inputs[i])) continue;
    ASSERT_EQ(result.gradients[i].shape(), inputs[i].shape());
    check.check_direction(i, check.check_elements(i));
  }
  EXPECT_LE(check.worst.share, 1.0) << check.worst.where;
  if (check.worst.share > worst.share) worst = check.worst;
}

TEST_P(OpTable, GradientsAreFiniteDifferences) {
  Worst worst;
  each_case([&](const Case& test) {
    if (!test.differentiable) return;
    for (const DType dout : douts_of(test, GetParam().dtype)) check_gradients(test, GetParam().dtype, dout, worst);
  });
  RecordProperty("largest_share_of_bound", std::to_string(worst.share));
  RecordProperty("at", worst.where);
}

// ---- threads, and runs: every device does the same again

void check_threads(const Case& test, DType dtype) {
  const Tensors inputs = all_on_device(make_inputs(test, dtype));
  const Tensor one = test.op(context(1), inputs);
  for (int threads = 2; threads <= 3; ++threads)
    EXPECT_TRUE(same_bits(test.op(context(threads), inputs), one)) << threads << " threads";
  if (!test.differentiable) return;
  for (const DType dout_dtype : douts_of(test, dtype)) {
    const Tensor dout = random_normal(one.shape(), dout_dtype, 4321);
    const Result expected = run_with_tape(context(1), test, inputs, dout);
    for (int threads = 2; threads <= 3; ++threads) {
      const Result found = run_with_tape(context(threads), test, inputs, dout);
      for (size_t i = 0; i < inputs.size(); ++i)
        if (wants_gradient(test.inputs[i])) {
          EXPECT_TRUE(same_bits(found.gradients[i], expected.gradients[i]))
              << threads << " threads, gradient of " << test.inputs[i].name << ", dout " << name_of(dout_dtype);
        }
    }
  }
}

TEST_P(OpTable, ThreadsDoNotMatter) {
  each_case([&](const Case& test) { check_threads(test, GetParam().dtype); });
}

INSTANTIATE_TEST_SUITE_P(All, OpTable, testing::ValuesIn(params()), name_of_param);

}  // namespace
}  // namespace raedit::test
