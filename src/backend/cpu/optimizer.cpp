// One pass over parameters, gradients, moments, averages and rounded copies: bound by memory. No multiply-add is fused,
// so every instruction set gets the same bits.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/targets.h"

#ifndef RAEDIT_BACKEND_CPU_TRAINEE_
#define RAEDIT_BACKEND_CPU_TRAINEE_
namespace raedit::backend::cpu {
namespace {

// The numbers of one Trained; the last two may be null.
struct Trainee {
  const float* grad;
  float *param, *exp_avg, *exp_avg_sq, *average;
  bfloat16* rounded;
};

}  // namespace
}  // namespace raedit::backend::cpu
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/optimizer.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

void update_piece(const AdamWStep& s, float ema_decay, const Trainee& t, int64_t first, int64_t end) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto all = [&](float value) { return hn::Set(d, value); };
  const auto read = [&](const float* p, size_t n, bool whole) { return whole ? load(p) : load_n(p, n); };
  const auto write = [&](FloatVec v, auto* p, size_t n, bool whole) { whole ? store(v, p) : store_n(v, p, n); };
  for (int64_t i = first; i < end; i += lanes) {
    const bool whole = i + lanes <= end;
    const auto n = static_cast<size_t>(end - i);
    const auto g = hn::Mul(read(t.grad + i, n, whole), all(s.grad_scale));
    auto m = read(t.exp_avg + i, n, whole), v = read(t.exp_avg_sq + i, n, whole), p = read(t.param + i, n, whole);
    m = hn::Add(m, hn::Mul(hn::Sub(g, m), all(s.one_minus_beta1)));
    v = hn::Add(hn::Mul(v, all(s.beta2)), hn::Mul(hn::Mul(g, g), all(s.one_minus_beta2)));
    const auto root = hn::Add(hn::Div(hn::Sqrt(v), all(s.root)), all(s.eps));
    p = hn::Sub(hn::Mul(p, all(s.decay)), hn::Mul(all(s.step_size), hn::Div(m, root)));
    write(m, t.exp_avg + i, n, whole);
    write(v, t.exp_avg_sq + i, n, whole);
    write(p, t.param + i, n, whole);
    if (t.average != nullptr) {
      const auto a = read(t.average + i, n, whole);
      write(hn::Add(hn::Mul(a, all(ema_decay)), hn::Mul(p, all(1.0f - ema_decay))), t.average + i, n, whole);
    }
    if (t.rounded != nullptr) write(p, t.rounded + i, n, whole);
  }
}

// In float64, in eight partial sums.
double squares(const float* x, int64_t count) {
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int64_t k = 0; k < 8; ++k) sums[k] += static_cast<double>(x[i + k]) * static_cast<double>(x[i + k]);
  for (; i < count; ++i) sums[i % 8] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace raedit::backend::cpu {

HWY_EXPORT(update_piece);
HWY_EXPORT(squares);

namespace {

// The unit of work, whatever the number of threads: sums are formed in it and then added in order.
constexpr int64_t kPiece = 4096;

// f(piece, first, end)
template <class F>
void for_pieces(int threads, int64_t numel, const F& f) {
  const int64_t pieces = (numel + kPiece - 1) / kPiece;
  parallel_for(threads, pieces, numel, [&](int64_t i) { f(i, i * kPiece, std::min(numel, (i + 1) * kPiece)); });
}

}  // namespace

double CpuKernels::sum_of_squares(const Tensor& x) const {
  const float* values = x.data<float>();
  std::vector<double> sums(static_cast<size_t>((x.numel() + kPiece - 1) / kPiece));
  for_pieces(threads_, x.numel(), [&](int64_t piece, int64_t first, int64_t end) {
    sums[static_cast<size_t>(piece)] = HWY_DYNAMIC_DISPATCH(squares)(values + first, end - first);
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

void CpuKernels::flow_matching(const Tensor& latents, const Tensor& noise, const Tensor& sigmas, const Tensor& noisy,
                               const Tensor& target) const {
  const float *z = latents.data<float>(), *n = noise.data<float>(), *sigma = sigmas.data<float>();
  float *x = noisy.data<float>(), *v = target.data<float>();
  const int64_t each = latents.numel() / latents.dim(0);
  for_pieces(threads_, latents.numel(), [&](int64_t, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) {
      const float s = sigma[i / each];
      x[i] = s * n[i] + (1.0f - s) * z[i];
      v[i] = n[i] - z[i];
    }
  });
}

void CpuKernels::velocity_loss(const Tensor& prediction, const Tensor& target, const Tensor& weights, int64_t parts,
                               const Tensor& gradient, const Tensor& loss) const {
  const Tensor wide = in_float32(*this, prediction);
  const float *p = wide.data<float>(), *t = target.data<float>(), *w = weights.data<float>();
  float* g = gradient.data<float>();
  const int64_t count = wide.numel(), each = count / wide.dim(0);
  std::vector<double> sums(static_cast<size_t>((count + kPiece - 1) / kPiece));
  for_pieces(threads_, count, [&](int64_t piece, int64_t first, int64_t end) {
    double part = 0;
    for (int64_t i = first; i < end; ++i) {
      const float weight = w[i / each], difference = p[i] - t[i];
      part += static_cast<double>(weight) * difference * difference;
      g[i] = 2.0f * weight * difference / static_cast<float>(count) / static_cast<float>(parts);
    }
    sums[static_cast<size_t>(piece)] = part;
  });
  double sum = 0;
  for (const double part : sums) sum += part;
  *loss.data<double>() += sum / static_cast<double>(count) / static_cast<double>(parts);
}

void CpuKernels::gradient_norm(const TrainedSet& set, const Tensor& state) const {
  double sum = 0;
  for (const Trained& trained : set.tensors) sum += sum_of_squares(trained.grad);
  auto* numbers = state.data<double>();
  numbers[1] = std::sqrt(sum);
  numbers[2] = std::isfinite(numbers[0]) && std::isfinite(numbers[1]) ? 1.0 : 0.0;
}

void CpuKernels::update(const TrainedSet& set, const Tensor& state, double max_norm, const Tensor& numbers,
                        float ema_decay) const {
  const auto* at = state.data<double>();
  if (at[2] == 0.0) return;
  AdamWStep step;
  static_assert(sizeof(step) == 8 * sizeof(float));
  std::memcpy(&step, numbers.raw(), sizeof(step));
  step.grad_scale = max_norm > 0 ? static_cast<float>(std::min(1.0, max_norm / (at[1] + 1e-6))) : 1.0f;
  const auto run = HWY_DYNAMIC_DISPATCH(update_piece);
  for (const Trained& t : set.tensors) {
    const auto data = [](const Tensor& tensor) { return tensor.defined() ? tensor.data<float>() : nullptr; };
    const Trainee all{t.grad.data<float>(),    t.param.data<float>(),
                      t.exp_avg.data<float>(), t.exp_avg_sq.data<float>(),
                      data(t.average),         t.rounded.defined() ? t.rounded.data<bfloat16>() : nullptr};
    for_pieces(threads_, t.param.numel(),
               [&](int64_t, int64_t first, int64_t end) { run(step, ema_decay, all, first, end); });
  }
}

}  // namespace raedit::backend::cpu

#endif  // HWY_ONCE
