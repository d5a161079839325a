// The table of ops: one row per op, from which op_table_test.cpp makes every check there is (forward against the
// float64 composite, gradients against finite differences of it, the same bits for any number of threads, nothing
// written or read outside). After ggml's tests/test-backend-ops.cpp; error bounds after gemma.cpp's ops/matmul_test.cc:
// derived from the dtype and the length of the sums, never picked by hand.
//
// To add an op: write its Cases in the table_*.cpp of its family and append them in that file's function. A Case says
// what the inputs are, how to call the op, what its composite is, and how its rounding errors grow.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::test {

using Tensors = std::vector<Tensor>;

enum class Kind {
  compute,  // float32 or bfloat16, whatever the test runs in
  float32,  // parameters, which stay float32
  ids,      // int64 in [0, Input::limit)
};

// Random normal numbers (mean + N(0,1) * deviation) from a fixed seed.
struct Input {
  std::string name;
  Shape shape;
  Kind kind = Kind::compute;
  bool gradient = true;  // ignored for ids
  double deviation = 1.0;
  double mean = 0.0;
  double keep_from_zero = 0.0;  // smallest magnitude
  int64_t limit = 0;
};

struct Case {
  std::string name;  // what is special about it: "rms, weight, shift [B,1,D]"
  std::vector<Input> inputs;
  std::function<Tensor(Context&, const Tensors&)> op;
  std::function<Tensor(const Tensors&)> composite;

  // |out - composite| <= u(dtype) * rounded + steps * u(float32) * magnitude, element by element.
  // magnitude: what the sums and products would amount to if nothing cancelled; default |composite|.
  // rounded: the sum of all values that are rounded to the compute dtype on the way; default |composite|.
  double steps = 1.0;
  std::function<double(const Tensors&)> steps_of = nullptr;  // instead, where they depend on the numbers
  std::function<Tensor(const Tensors&)> magnitude = nullptr;
  std::function<Tensor(const Tensors&)> rounded = nullptr;
  bool rounds_exactly = false;  // no bound: the composite rounded to the dtype, bit for bit

  // The same for gradients: (steps + sqrt(terms)) * condition_of * u(float32) * magnitude. By default the magnitude is
  // the sum of |dout * d(out)/d(input)| over `out`, and terms how many of them are not 0: both come from the finite
  // differences. Where a backward formula cancels on the way, grad_magnitude says how large its terms are (undefined:
  // the default).
  bool differentiable = true;
  std::function<double(const Tensors&)> condition_of = nullptr;
  std::function<Tensor(const Tensors&, const Tensor& dout, size_t input)> grad_magnitude = nullptr;
  // A gradient that is small by chance (its operand was) is as inexact as the typical one: the mean magnitude is added.
  bool typical_errors = false;
  // Intermediate results are kept in the compute dtype, so gradients are that coarse. Implies typical_errors.
  bool rounds_between = false;
  // In a run in bfloat16 the gradients are checked with a bfloat16 dout as well, which may take another way: every term
  // may be rounded once on it, so u(bfloat16) * magnitude is added to the bound.
  bool rounds_terms = false;

  // Multiply-adds of one composite, which limits how many elements the finite differences visit.
  double work = 0.0;
  bool float32_only = false;
  std::optional<DType> out_dtype = {};  // default: that of the run
};

struct Op {
  std::string name;
  std::vector<Case> cases;
};

// Families, each in a file of its own.
void add_linear_ops(std::vector<Op>& table);
void add_int8_ops(std::vector<Op>& table);
void add_norm_ops(std::vector<Op>& table);
void add_attention_ops(std::vector<Op>& table);
void add_elementwise_ops(std::vector<Op>& table);
void add_position_ops(std::vector<Op>& table);
void add_moving_ops(std::vector<Op>& table);
void add_chains(std::vector<Op>& table);

const std::vector<Op>& op_table();

// ---- what the families are written with

// The unit roundoff: half the distance from 1 to the next number.
double unit_roundoff(DType dtype);
// Rounding errors of a sum of n terms grow like sqrt(n) (Higham and Mary, "A New Approach to Probabilistic Rounding
// Error Analysis", 2019), measured against the sum of the terms' magnitudes.
double sum_steps(int64_t n);
// Float operations in a row that one exp, division and polynomial cost.
inline constexpr double kFunctionSteps = 12.0;

Tensor random_normal(const Shape& shape, DType dtype, uint64_t seed);
// Values of `input`, in the middle of a storage that is NaN (or an absurd id) before and behind.
Tensor make_input(const Input& input, DType compute, uint64_t seed);
inline constexpr int64_t kGuard = 37;  // elements on either side

Tensor map(const Tensor& x, const std::function<double(double)>& f);
Tensor map(const Tensor& x, const Tensor& y, const std::function<double(double, double)>& f);  // y broadcasts to x
Tensor absolute(const Tensor& x);
Tensor plus(const Tensor& x, const Tensor& y);

}  // namespace raedit::test
