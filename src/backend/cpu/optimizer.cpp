// One pass over parameters, gradients and moments. Bound by memory: plain loops are as fast as vectors by hand.
#include <cmath>
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

}  // namespace

void CpuKernels::adamw(const AdamWStep& s, const Tensor& grad, const Tensor& param, const Tensor& exp_avg,
                       const Tensor& exp_avg_sq) const {
  const float* g = grad.data<float>();
  float *p = param.data<float>(), *m = exp_avg.data<float>(), *v = exp_avg_sq.data<float>();
  for_pieces(threads_, param.numel(), [&](int64_t, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) {
      const float gi = g[i] * s.grad_scale;
      m[i] += (gi - m[i]) * s.one_minus_beta1;
      v[i] = v[i] * s.beta2 + gi * gi * s.one_minus_beta2;
      p[i] = p[i] * s.decay - s.step_size * (m[i] / (std::sqrt(v[i]) / s.root + s.eps));
    }
  });
}

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

void CpuKernels::ema(float decay, const Tensor& value, const Tensor& average) const {
  const float* w = value.data<float>();
  float* a = average.data<float>();
  const float rest = 1.0f - decay;
  for_pieces(threads_, average.numel(), [&](int64_t, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) a[i] = a[i] * decay + w[i] * rest;
  });
}

}  // namespace raedit::backend::cpu
