// The elementwise kernels and the engine under them: activations, gates, arithmetic with broadcasting, and the sums of
// products that gradients are.
#include "backend/cpu/elementwise.h"

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/elementwise.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/chunk-inl.h"
#include "backend/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

// (x - mean) * rstd
HWY_INLINE FloatVec normalized(FloatVec x, FloatVec mean, FloatVec rstd) {
  return hn::Mul(hn::Sub(x, mean), rstd);
}

HWY_INLINE FloatVec one_plus(FloatVec x) {
  return hn::Add(x, hn::Set(FloatTag(), 1.0f));
}

void compute_gradient(const OpArgs& args, const float* const* in, float* out, size_t n) {
  using V = FloatVec;
  switch (args.op) {
    case Op::silu_gradient:
      return map(
          n, out, [](V g, V x) { return hn::Mul(g, silu_gradient(x)); }, in[0], in[1]);
    case Op::gelu_gradient:
      return map(
          n, out, [](V g, V x) { return hn::Mul(g, gelu_gradient(x)); }, in[0], in[1]);
    case Op::gelu_tanh_gradient:
      return map(
          n, out, [](V g, V x) { return hn::Mul(g, gelu_tanh_gradient(x)); }, in[0], in[1]);
    case Op::div_gradient:
      return map(
          n, out, [](V g, V a, V b) { return hn::Neg(hn::Div(hn::Mul(g, hn::Div(a, b)), b)); }, in[0], in[1], in[2]);
    case Op::swiglu_gate:
      return map(
          n, out, [](V g, V v, V x) { return hn::Mul(hn::Mul(g, v), silu_gradient(x)); }, in[0], in[1], in[2]);
    case Op::norm_bias:
      return map(
          n, out, [](V g, V s) { return hn::Mul(g, one_plus(s)); }, in[0], in[1]);
    case Op::norm_weight:
      return map(
          n, out, [](V g, V s, V x, V m, V r) { return hn::Mul(hn::Mul(g, one_plus(s)), normalized(x, m, r)); }, in[0],
          in[1], in[2], in[3], in[4]);
    case Op::norm_scale:
      return map(
          n, out, [](V g, V x, V m, V r, V w, V b) { return hn::Mul(g, hn::MulAdd(normalized(x, m, r), w, b)); }, in[0],
          in[1], in[2], in[3], in[4], in[5]);
    default: return;
  }
}

void compute(const OpArgs& args, const float* const* in, float* out, size_t n) {
  using V = FloatVec;
  const auto alpha = hn::Set(FloatTag(), args.alpha);
  const auto beta = hn::Set(FloatTag(), args.beta);
  switch (args.op) {
    case Op::copy:
      return map(
          n, out, [](V x) { return x; }, in[0]);
    case Op::negate:
      return map(
          n, out, [](V x) { return hn::Neg(x); }, in[0]);
    case Op::silu:
      return map(
          n, out, [](V x) { return silu(x); }, in[0]);
    case Op::gelu:
      return map(
          n, out, [](V x) { return gelu(x); }, in[0]);
    case Op::gelu_tanh:
      return map(
          n, out, [](V x) { return gelu_tanh(x); }, in[0]);
    case Op::add:
      return map(
          n, out, [](V a, V b) { return hn::Add(a, b); }, in[0], in[1]);
    case Op::sub:
      return map(
          n, out, [](V a, V b) { return hn::Sub(a, b); }, in[0], in[1]);
    case Op::mul:
      return map(
          n, out, [](V a, V b) { return hn::Mul(a, b); }, in[0], in[1]);
    case Op::div:
      return map(
          n, out, [](V a, V b) { return hn::Div(a, b); }, in[0], in[1]);
    case Op::swiglu:
      return map(
          n, out, [](V v, V x) { return hn::Mul(v, silu(x)); }, in[0], in[1]);
    case Op::add_gated:
      return map(
          n, out, [](V x, V y, V g) { return hn::MulAdd(g, y, x); }, in[0], in[1], in[2]);
    case Op::add_scaled:
      return map(
          n, out, [=](V a, V b) { return hn::Add(a, hn::Mul(alpha, b)); }, in[0], in[1]);
    case Op::clamp:
      return map(
          n, out, [=](V x) { return hn::IfThenElse(hn::IsNaN(x), x, hn::Min(hn::Max(x, alpha), beta)); }, in[0]);
    default: return compute_gradient(args, in, out, n);
  }
}

// compute() on elements [first, first + n) of the input rows, n <= kChunk.
void compute_chunk(const OpArgs& args, const Row* in, int count, int64_t first, size_t n, float* out) {
  HWY_ALIGN float buffers[RowLoop::kMaxOperands][kChunk];
  const float* staged[RowLoop::kMaxOperands];
  for (int k = 0; k < count; ++k) staged[k] = stage(in[k], first, n, buffers[k]);
  compute(args, staged, out, n);
}

void op_store(const OpArgs& args, const Row* in, int count, const Row& out, int64_t begin, int64_t end) {
  HWY_ALIGN float buffer[kChunk];
  for (int64_t first = begin; first < end; first += kChunk) {
    const auto n = static_cast<size_t>(std::min(kChunk, end - first));
    float* result = staged_output(out, first, buffer);
    compute_chunk(args, in, count, first, n, result);
    unstage(out, first, n, result);
  }
}

void op_add(const OpArgs& args, const Row* in, int count, const Row& out, int64_t begin, int64_t end) {
  HWY_ALIGN float buffer[kChunk];
  for (int64_t first = begin; first < end; first += kChunk) {
    const auto n = static_cast<size_t>(std::min(kChunk, end - first));
    compute_chunk(args, in, count, first, n, buffer);
    add_to(out, first, n, buffer);
  }
}

// sums[i] += op at element first + i
void op_add_sums(const OpArgs& args, const Row* in, int count, int64_t first, size_t n, float* sums) {
  HWY_ALIGN float buffer[kChunk];
  compute_chunk(args, in, count, first, n, buffer);
  map(
      n, sums, [](FloatVec a, FloatVec b) { return hn::Add(a, b); }, sums, buffer);
}

double op_row_sum(const OpArgs& args, const Row* in, int count, int64_t size) {
  HWY_ALIGN float buffer[kChunk];
  double sum = 0;
  for (int64_t first = 0; first < size; first += kChunk) {
    const auto n = static_cast<size_t>(std::min(kChunk, size - first));
    compute_chunk(args, in, count, first, n, buffer);
    sum += sum_of(
        n, [](FloatVec v) { return v; }, buffer);
  }
  return sum;
}

void op_flush(const Row& target, int64_t first, size_t n, float* sums) {
  add_to(target, first, n, sums);
  std::fill_n(sums, n, 0.0f);
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <vector>

namespace raedit::backend::cpu {

HWY_EXPORT(op_store);
HWY_EXPORT(op_add);
HWY_EXPORT(op_add_sums);
HWY_EXPORT(op_row_sum);
HWY_EXPORT(op_flush);

namespace {

// Rows whose contributions to one place are summed before they are added to it: keeps long sums accurate.
constexpr int64_t kRunRows = 64;

// The inputs and, last, the target of an operation.
class Plan {
 public:
  Plan(const OpArgs& args, std::initializer_list<const Tensor*> inputs, const Tensor& target)
      : args_(args),
        inputs_(static_cast<int>(inputs.size())),
        tensors_(join(inputs, target)),
        loop_(std::span(tensors_.data(), inputs.size() + 1)) {
    if (!loop_.repeats(inputs_)) loop_.walk_along(inputs_);
  }

  using Rows = std::array<Row, RowLoop::kMaxOperands>;

  Rows rows(const RowLoop::Offsets& offsets) const {
    Rows result;
    for (size_t k = 0; k <= static_cast<size_t>(inputs_); ++k)
      result[k] = row_of(*tensors_[k], offsets[k], loop_.inner.strides[k]);
    return result;
  }

  void each_element(bool add, int threads) const {
    const auto run = add ? HWY_DYNAMIC_DISPATCH(op_add) : HWY_DYNAMIC_DISPATCH(op_store);
    parallel_rows(threads, loop_, [&](const RowLoop::Offsets& offsets, int64_t begin, int64_t end) {
      const Rows operands = rows(offsets);
      run(args_, operands.data(), inputs_, operands[target_index()], begin, end);
    });
  }

  // The target keeps the inner dimension: threads share out its columns, and each sums the rows in order.
  void sum_columns(int threads) const {
    const int64_t share = (size() / (2 * threads) + 63) / 64 * 64;
    const int64_t width = std::clamp<int64_t>(share, 64, kChunk);
    const auto add = HWY_DYNAMIC_DISPATCH(op_add_sums);
    const auto flush = HWY_DYNAMIC_DISPATCH(op_flush);
    parallel_for(threads, (size() + width - 1) / width, loop_.rows * size(), [&](int64_t block) {
      const int64_t first = block * width;
      const auto n = static_cast<size_t>(std::min(width, size() - first));
      alignas(64) float sums[kChunk] = {};
      Row target;
      RowLoop::Cursor cursor = loop_.cursor(0);
      for (int64_t row = 0; row < loop_.rows; ++row, loop_.advance(cursor)) {
        const Rows operands = rows(cursor.offsets);
        const Row& next = operands[target_index()];
        if (row > 0 && (next.data != target.data || row % kRunRows == 0)) flush(target, first, n, sums);
        target = next;
        add(args_, operands.data(), inputs_, first, n, sums);
      }
      flush(target, first, n, sums);
    });
  }

  // The target repeats along the inner dimension: every row is one number.
  void sum_rows(int threads) const {
    std::vector<double> sums(static_cast<size_t>(loop_.rows));
    const auto run = HWY_DYNAMIC_DISPATCH(op_row_sum);
    parallel_for(threads, loop_.rows, loop_.rows * size(), [&](int64_t row) {
      sums[static_cast<size_t>(row)] = run(args_, rows(loop_.offsets(row)).data(), inputs_, size());
    });
    double sum = 0;
    float* target = nullptr;
    for (int64_t row = 0; row < loop_.rows; ++row) {
      auto* next = reinterpret_cast<float*>(rows(loop_.offsets(row))[target_index()].data);
      if (next != target && target != nullptr) {
        *target += static_cast<float>(sum);
        sum = 0;
      }
      target = next;
      sum += sums[static_cast<size_t>(row)];
    }
    *target += static_cast<float>(sum);
  }

  void accumulate(int threads) const {
    if (loop_.rows == 0 || size() == 0) return;
    if (!loop_.repeats(inputs_)) return each_element(true, threads);
    if (loop_.inner.strides[target_index()] == 0) return sum_rows(threads);
    sum_columns(threads);
  }

 private:
  static std::array<const Tensor*, RowLoop::kMaxOperands> join(std::initializer_list<const Tensor*> inputs,
                                                               const Tensor& target) {
    std::array<const Tensor*, RowLoop::kMaxOperands> result{};
    *std::copy(inputs.begin(), inputs.end(), result.begin()) = &target;
    return result;
  }

  int64_t size() const { return loop_.inner.size; }
  size_t target_index() const { return static_cast<size_t>(inputs_); }

  OpArgs args_;
  int inputs_;
  std::array<const Tensor*, RowLoop::kMaxOperands> tensors_;
  RowLoop loop_;
};

Op op_of(Activation kind) {
  switch (kind) {
    case Activation::none: return Op::copy;
    case Activation::silu: return Op::silu;
    case Activation::gelu: return Op::gelu;
    case Activation::gelu_tanh: return Op::gelu_tanh;
  }
  return Op::copy;
}

Op op_of(Binary kind) {
  switch (kind) {
    case Binary::add: return Op::add;
    case Binary::sub: return Op::sub;
    case Binary::mul: return Op::mul;
    case Binary::div: return Op::div;
  }
  return Op::copy;
}

// The halves of [..., 2D].
Tensor first_half(const Tensor& x) {
  return x.defined() ? x.slice(-1, 0, x.dim(-1) / 2) : x;
}

Tensor second_half(const Tensor& x) {
  return x.defined() ? x.slice(-1, x.dim(-1) / 2, x.dim(-1)) : x;
}

}  // namespace

void evaluate(const OpArgs& args, std::initializer_list<const Tensor*> inputs, const Tensor& out, int threads) {
  Plan(args, inputs, out).each_element(false, threads);
}

void accumulate_op(const OpArgs& args, std::initializer_list<const Tensor*> inputs, const Tensor& target, int threads) {
  if (target.defined()) Plan(args, inputs, target).accumulate(threads);
}

void CpuKernels::activation(Activation kind, const Tensor& x, const Tensor& out) const {
  evaluate({op_of(kind)}, {&x}, out, threads_);
}

void CpuKernels::activation_backward(Activation kind, const Tensor& dout, const Tensor& x, const Tensor& dx) const {
  switch (kind) {
    case Activation::none: return accumulate_op({Op::copy}, {&dout}, dx, threads_);
    case Activation::silu: return accumulate_op({Op::silu_gradient}, {&dout, &x}, dx, threads_);
    case Activation::gelu: return accumulate_op({Op::gelu_gradient}, {&dout, &x}, dx, threads_);
    case Activation::gelu_tanh: return accumulate_op({Op::gelu_tanh_gradient}, {&dout, &x}, dx, threads_);
  }
}

void CpuKernels::swiglu(const Tensor& x, const Tensor& out) const {
  const Tensor value = first_half(x), gate = second_half(x);
  evaluate({Op::swiglu}, {&value, &gate}, out, threads_);
}

void CpuKernels::swiglu_backward(const Tensor& dout, const Tensor& x, const Tensor& dx) const {
  const Tensor value = first_half(x), gate = second_half(x);
  accumulate_op({Op::swiglu}, {&dout, &gate}, first_half(dx), threads_);
  accumulate_op({Op::swiglu_gate}, {&dout, &value, &gate}, second_half(dx), threads_);
}

void CpuKernels::add_gated(const Tensor& x, const Tensor& y, const Tensor& gate, const Tensor& out) const {
  evaluate({Op::add_gated}, {&x, &y, &gate}, out, threads_);
}

void CpuKernels::add_gated_backward(const Tensor& dout, const Tensor& y, const Tensor& gate, const Tensor& dx,
                                    const Tensor& dy, const Tensor& dgate) const {
  accumulate_op({Op::copy}, {&dout}, dx, threads_);
  accumulate_op({Op::mul}, {&dout, &gate}, dy, threads_);
  accumulate_op({Op::mul}, {&dout, &y}, dgate, threads_);
}

void CpuKernels::binary(Binary kind, const Tensor& a, const Tensor& b, const Tensor& out) const {
  evaluate({op_of(kind)}, {&a, &b}, out, threads_);
}

void CpuKernels::binary_backward(Binary kind, const Tensor& dout, const Tensor& a, const Tensor& b, const Tensor& da,
                                 const Tensor& db) const {
  switch (kind) {
    case Binary::add:
      accumulate_op({Op::copy}, {&dout}, da, threads_);
      return accumulate_op({Op::copy}, {&dout}, db, threads_);
    case Binary::sub:
      accumulate_op({Op::copy}, {&dout}, da, threads_);
      return accumulate_op({Op::negate}, {&dout}, db, threads_);
    case Binary::mul:
      accumulate_op({Op::mul}, {&dout, &b}, da, threads_);
      return accumulate_op({Op::mul}, {&dout, &a}, db, threads_);
    case Binary::div:
      accumulate_op({Op::div}, {&dout, &b}, da, threads_);
      return accumulate_op({Op::div_gradient}, {&dout, &a, &b}, db, threads_);
  }
}

void CpuKernels::add_scaled(const Tensor& a, float alpha, const Tensor& b, const Tensor& out) const {
  evaluate({Op::add_scaled, alpha}, {&a, &b}, out, threads_);
}

void CpuKernels::clamp(const Tensor& x, float low, float high, const Tensor& out) const {
  evaluate({Op::clamp, low, high}, {&x}, out, threads_);
}

}  // namespace raedit::backend::cpu

#endif  // HWY_ONCE
