// One pass over parameters, gradients and moments. Bound by memory: plain loops are as fast as vectors by hand.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/rows.h"

namespace raedit::backend::cpu {
namespace {

// The unit of work, whatever the number of threads: sums are formed in it and then added in order.
constexpr int64_t kPiece = 4096;

// f(piece, first, end)
template <class F>
void for_pieces(int threads, int64_t numel, const F& f) {
  const int64_t pieces = (numel + kPiece - 1) / kPiece;
  parallel_for(threads, pieces, numel, [&](int64_t i) { f(i, i * kPiece, std::min(numel, (i + 1) * kPiece)); });
}

void adamw(int threads, const AdamWStep& s, const Trained& t) {
  const float* g = t.grad.data<float>();
  float *p = t.param.data<float>(), *m = t.exp_avg.data<float>(), *v = t.exp_avg_sq.data<float>();
  for_pieces(threads, t.param.numel(), [&](int64_t, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) {
      const float gi = g[i] * s.grad_scale;
      m[i] += (gi - m[i]) * s.one_minus_beta1;
      v[i] = v[i] * s.beta2 + gi * gi * s.one_minus_beta2;
      p[i] = p[i] * s.decay - s.step_size * (m[i] / (std::sqrt(v[i]) / s.root + s.eps));
    }
  });
}

void ema(int threads, float decay, const Tensor& value, const Tensor& average) {
  const float* w = value.data<float>();
  float* a = average.data<float>();
  const float rest = 1.0f - decay;
  for_pieces(threads, average.numel(), [&](int64_t, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) a[i] = a[i] * decay + w[i] * rest;
  });
}

}  // namespace

double CpuKernels::sum_of_squares(const Tensor& x) const {
  const float* values = x.data<float>();
  std::vector<double> sums(static_cast<size_t>((x.numel() + kPiece - 1) / kPiece));
  for_pieces(threads_, x.numel(), [&](int64_t piece, int64_t first, int64_t end) {
    double sum = 0;
    for (int64_t i = first; i < end; ++i) sum += static_cast<double>(values[i]) * values[i];
    sums[static_cast<size_t>(piece)] = sum;
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
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float weight = w[i / each], difference = p[i] - t[i];
    sum += static_cast<double>(weight) * difference * difference;
    g[i] = 2.0f * weight * difference / static_cast<float>(count) / static_cast<float>(parts);
  }
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
  for (const Trained& t : set.tensors) {
    adamw(threads_, step, t);
    if (t.average.defined()) ema(threads_, ema_decay, t.param, t.average);
    if (t.rounded.defined()) copy(t.param, t.rounded);
  }
}

}  // namespace raedit::backend::cpu
