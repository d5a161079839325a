// The gradients of norms and gates in one pass over the rows: written or added to, float32 or bfloat16, those of
// operands that were broadcast over the tokens (modulation) or over all rows (weights) summed run by run.
// Formulas: see norm.cpp.
#include <cmath>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/target_row.h"
#include "backend/cpu/targets.h"

#ifndef RAEDIT_BACKEND_CPU_NORM_WRITTEN_
#define RAEDIT_BACKEND_CPU_NORM_WRITTEN_
namespace raedit::backend::cpu {
namespace {

constexpr int64_t kWidest = 2048;  // rows whose operands lie on the stack in float32

// One row of every operand; data is null where there is none.
struct NormGradientRow {
  Row x, dout, scale;
  const float *weight = nullptr, *bias = nullptr;
  TargetRow dx, dweight, dbias, dscale, dshift;
};

struct GateGradientRow {
  Row dout, y, gate;
  TargetRow dy, dgate;
};

}  // namespace
}  // namespace raedit::backend::cpu
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/norm_written.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/chunk-inl.h"
#include "backend/cpu/gradient_store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

// The whole row in float32: where it is, or in `buffer`.
HWY_INLINE const float* widened(const Row& row, size_t size, float* buffer) {
  if (row.dtype == DType::float32) return reinterpret_cast<const float*>(row.data);
  map(
      size, buffer, [](FloatVec v) { return v; }, reinterpret_cast<const bfloat16*>(row.data));
  return buffer;
}

HWY_INLINE FloatVec spread_sum(const float* x, size_t size, FloatVec mean, bool squares) {
  const FloatTag d;
  const auto term = [&](FloatVec v) {
    if (!squares) return v;
    const auto deviation = hn::Sub(v, mean);
    return hn::Mul(deviation, deviation);
  };
  return hn::Set(d, sum_of(size, term, x));
}

void norm_gradient_row(const NormGradientRow& row, int64_t width, NormKind kind, float eps) {
  const FloatTag d;
  const auto size = static_cast<size_t>(width);
  HWY_ALIGN float buffers[3][kWidest];
  const float* x = widened(row.x, size, buffers[0]);
  const float* g = widened(row.dout, size, buffers[1]);
  const float* scale = row.scale.data != nullptr ? widened(row.scale, size, buffers[2]) : nullptr;
  const auto one = hn::Set(d, 1.0f), over = hn::Set(d, 1.0f / static_cast<float>(width));
  const auto mean = kind == NormKind::layer ? hn::Mul(spread_sum(x, size, hn::Zero(d), false), over) : hn::Zero(d);
  const auto variance = hn::Mul(spread_sum(x, size, mean, true), over);
  const auto rstd = hn::Div(one, hn::Sqrt(hn::Add(variance, hn::Set(d, eps))));

  const auto modulated = [&](size_t i, size_t n) {
    const auto v = some(g, i, n);
    return scale != nullptr ? hn::Mul(v, hn::Add(some(scale, i, n), one)) : v;
  };
  const auto inner = [&](size_t i, size_t n) {
    const auto v = modulated(i, n);
    return row.weight != nullptr ? hn::Mul(v, some(row.weight, i, n)) : v;
  };
  const auto xhat = [&](size_t i, size_t n) {
    const auto v = hn::Mul(hn::Sub(some(x, i, n), mean), rstd);
    return n == hn::Lanes(d) ? v : hn::IfThenElseZero(hn::FirstN(d, n), v);
  };
  auto sum = hn::Zero(d), products = hn::Zero(d);
  each_vector(size, [&](size_t i, size_t n) {
    const auto v = inner(i, n);
    sum = hn::Add(sum, v);
    products = hn::MulAdd(v, xhat(i, n), products);
  });
  const auto g_mean = kind == NormKind::layer ? hn::Mul(hn::SumOfLanes(d, sum), over) : hn::Zero(d);
  const auto product_mean = hn::Mul(hn::SumOfLanes(d, products), over);
  each_vector(size, [&](size_t i, size_t n) {
    const auto h = xhat(i, n);
    if (row.dx.data != nullptr)
      put(row.dx, i, n, hn::Mul(rstd, hn::NegMulAdd(h, product_mean, hn::Sub(inner(i, n), g_mean))));
    if (row.dweight.data != nullptr) put(row.dweight, i, n, hn::Mul(modulated(i, n), h));
    if (row.dbias.data != nullptr) put(row.dbias, i, n, modulated(i, n));
    if (row.dscale.data != nullptr) {
      auto y = row.weight != nullptr ? hn::Mul(h, some(row.weight, i, n)) : h;
      if (row.bias != nullptr) y = hn::Add(y, some(row.bias, i, n));
      put(row.dscale, i, n, hn::Mul(some(g, i, n), y));
    }
    if (row.dshift.data != nullptr) put(row.dshift, i, n, some(g, i, n));
  });
}

void gate_gradient_row(const GateGradientRow& row, int64_t width) {
  HWY_ALIGN float buffers[3][kChunk];
  for (int64_t first = 0; first < width; first += kChunk) {
    const auto size = static_cast<size_t>(std::min(kChunk, width - first)), at = static_cast<size_t>(first);
    const float* g = stage(row.dout, first, size, buffers[0]);
    if (row.dy.data != nullptr) {
      const float* gate = stage(row.gate, first, size, buffers[1]);
      each_vector(size, [&](size_t i, size_t n) { put(row.dy, at + i, n, hn::Mul(some(g, i, n), some(gate, i, n))); });
    }
    if (row.dgate.data != nullptr) {
      const float* y = stage(row.y, first, size, buffers[2]);
      each_vector(size, [&](size_t i, size_t n) { put(row.dgate, at + i, n, hn::Mul(some(g, i, n), some(y, i, n))); });
    }
  }
}

template <class T>
HWY_INLINE void add_columns(const T* x, int64_t stride, int64_t rows, int64_t size, float* sums) {
  constexpr int64_t kAtOnce = 4;
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + kAtOnce * lanes <= size; c += kAtOnce * lanes) {
    FloatVec sum[kAtOnce];
    for (int64_t v = 0; v < kAtOnce; ++v) sum[v] = load(sums + c + v * lanes);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t v = 0; v < kAtOnce; ++v) sum[v] = hn::Add(sum[v], load(x + r * stride + c + v * lanes));
    for (int64_t v = 0; v < kAtOnce; ++v) store(sum[v], sums + c + v * lanes);
  }
  for (; c < size; c += lanes) {
    const auto n = static_cast<size_t>(std::min(lanes, size - c));
    auto sum = load_n(sums + c, n);
    for (int64_t r = 0; r < rows; ++r) sum = hn::Add(sum, load_n(x + r * stride + c, n));
    store_n(sum, sums + c, n);
  }
}

// Rows [first, end) of x [.., size] into sums [size].
void column_sums(const Row& x, int64_t stride, int64_t first, int64_t end, int64_t size, float* sums) {
  if (x.dtype == DType::float32)
    add_columns(reinterpret_cast<const float*>(x.data) + first * stride, stride, end - first, size, sums);
  else
    add_columns(reinterpret_cast<const bfloat16*>(x.data) + first * stride, stride, end - first, size, sums);
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace raedit::backend::cpu {

HWY_EXPORT(norm_gradient_row);
HWY_EXPORT(gate_gradient_row);
HWY_EXPORT(column_sums);

namespace {

bool is_row_wise(const Tensor& t) {
  return !t.defined() || t.stride(-1) == 1 || t.dim(-1) == 1;
}

// The rows of a tensor [B,N,D], which may be undefined.
class TokenRows {
 public:
  TokenRows() = default;
  explicit TokenRows(const Tensor& t) {
    if (!t.defined()) return;
    first_ = row_of(t, 0, 1);
    const auto size = static_cast<int64_t>(size_of(t.dtype()));
    per_picture_ = t.stride(0) * size;
    per_token_ = t.stride(1) * size;
  }
  Row at(int64_t b, int64_t n) const {
    if (first_.data == nullptr) return {};
    return {first_.data + b * per_picture_ + n * per_token_, first_.dtype, 1};
  }

 private:
  Row first_;
  int64_t per_picture_ = 0, per_token_ = 0;  // bytes
};

// The gradient of an operand of [B,N,D], row by row. Where the operand was broadcast, rows are summed run by run in
// `sums` and finish() adds those up: over the tokens of a picture, or over everything for a vector [D].
class Target {
 public:
  Target(const CpuKernels& kernels, const Gradient& gradient, const Runs& runs, int64_t width)
      : gradient_(gradient), runs_(runs), width_(width), of_all_(gradient.wanted() && gradient.at.rank() == 1) {
    if (!gradient.wanted()) return;
    if (!of_all_) rows_ = TokenRows(gradient.at);
    const bool of_picture = !of_all_ && gradient.at.stride(1) == 0 && runs.tokens > 1;
    // Where one run is a whole picture its sum can be in the gradient itself.
    summed_ = of_all_ || (of_picture && (runs.per_picture > 1 || gradient.fresh));
    if (summed_) sums_ = kernels.scratch({runs.count(), width});
  }

  // Not this way: what was broadcast over pictures, too, or along the row.
  static bool fits(const Gradient& gradient) {
    if (!gradient.wanted() || gradient.at.rank() == 1) return is_row_wise(gradient.at);
    return is_row_wise(gradient.at) && (gradient.at.stride(0) != 0 || gradient.at.dim(0) == 1);
  }

  TargetRow row(int64_t run, int64_t token) const {
    if (!gradient_.wanted()) return {};
    if (summed_) return {reinterpret_cast<std::byte*>(sums_.data<float>() + run * width_), DType::float32, true};
    const Row row = rows_.at(runs_.picture(run), token);
    return {row.data, row.dtype, !gradient_.fresh};
  }

  void finish(const CpuKernels& kernels) const {
    if (!summed_) return;
    if (of_all_) return kernels.column_sums_into(sums_, gradient_);
    for (int64_t b = 0; b < runs_.batch; ++b)
      kernels.column_sums_into(sums_.slice(0, b * runs_.per_picture, (b + 1) * runs_.per_picture),
                               {gradient_.at.select(0, b).select(0, 0), gradient_.fresh});
  }

 private:
  Gradient gradient_;
  Runs runs_;
  int64_t width_;
  bool of_all_, summed_ = false;
  TokenRows rows_;
  Tensor sums_;
};

}  // namespace

void CpuKernels::norm_backward_into(const Tensor& dout, const NormArgs& args, const NormGradients& grads) const {
  const Shape& shape = args.x.shape();
  bool fits = shape.numel() > 0 && shape[2] <= kWidest;
  for (const Tensor* t : {&args.x, &dout, &args.scale, &args.weight, &args.bias}) fits = fits && is_row_wise(*t);
  for (const Gradient* g : {&grads.x, &grads.weight, &grads.bias, &grads.scale, &grads.shift})
    fits = fits && Target::fits(*g);
  if (!fits) return Kernels::norm_backward_into(dout, args, grads);
  const Runs runs(shape[0], shape[1]);
  const int64_t width = shape[2];
  const Target x(*this, grads.x, runs, width), weight(*this, grads.weight, runs, width),
      bias(*this, grads.bias, runs, width), scale(*this, grads.scale, runs, width),
      shift(*this, grads.shift, runs, width);
  const TokenRows in(args.x), gradient(dout), scales(args.scale);
  const float* weights = args.weight.defined() ? args.weight.data<float>() : nullptr;
  const float* biases = args.bias.defined() ? args.bias.data<float>() : nullptr;
  const auto one_row = HWY_DYNAMIC_DISPATCH(norm_gradient_row);
  parallel_for(threads_, runs.count(), shape.numel(), [&](int64_t run) {
    const int64_t b = runs.picture(run);
    for (int64_t n = runs.first(run); n < runs.end(run); ++n)
      one_row({in.at(b, n), gradient.at(b, n), scales.at(b, n), weights, biases, x.row(run, n), weight.row(run, n),
               bias.row(run, n), scale.row(run, n), shift.row(run, n)},
              width, args.kind, args.eps);
  });
  for (const Target* target : {&x, &weight, &bias, &scale, &shift}) target->finish(*this);
}

void CpuKernels::add_gated_backward_into(const Tensor& dout, const Tensor& y, const Tensor& gate, const Gradient& dy,
                                         const Gradient& dgate) const {
  const Shape& shape = y.shape();
  bool fits = shape.rank() == 3 && shape.numel() > 0 && Target::fits(dy) && Target::fits(dgate);
  for (const Tensor* t : {&dout, &y, &gate}) fits = fits && is_row_wise(*t);
  if (!fits) return Kernels::add_gated_backward_into(dout, y, gate, dy, dgate);
  const Runs runs(shape[0], shape[1]);
  const Target branch(*this, dy, runs, shape[2]), of_gate(*this, dgate, runs, shape[2]);
  const TokenRows gradient(dout), branches(y), gates(gate);
  const auto one_row = HWY_DYNAMIC_DISPATCH(gate_gradient_row);
  parallel_for(threads_, runs.count(), shape.numel(), [&](int64_t run) {
    const int64_t b = runs.picture(run);
    for (int64_t n = runs.first(run); n < runs.end(run); ++n)
      one_row({gradient.at(b, n), branches.at(b, n), gates.at(b, n), branch.row(run, n), of_gate.row(run, n)},
              shape[2]);
  });
  branch.finish(*this);
  of_gate.finish(*this);
}

void CpuKernels::column_sums_into(const Tensor& x, const Gradient& out) const {
  if (!out.wanted()) return;
  if (x.dim(0) == 0 || !is_row_wise(x) || out.at.dtype() != DType::float32) return Kernels::column_sums_into(x, out);
  const Runs runs(1, x.dim(0));
  const int64_t size = x.dim(1);
  const Tensor sums = scratch({runs.count(), size});
  const auto add_rows = HWY_DYNAMIC_DISPATCH(column_sums);
  float* const partial = sums.data<float>();
  parallel_for(threads_, runs.count(), x.numel(), [&](int64_t run) {
    add_rows(row_of(x, 0, 1), x.stride(0), runs.first(run), runs.end(run), size, partial + run * size);
  });
  add_rows(row_of(sums, size, 1), size, 0, runs.count() - 1, size, partial);
  float* const target = out.at.data<float>();
  const int64_t stride = out.at.stride(0);
  for (int64_t i = 0; i < size; ++i) target[i * stride] = (out.fresh ? 0.0f : target[i * stride]) + partial[i];
}

}  // namespace raedit::backend::cpu

#endif  // HWY_ONCE
