// What changes parameters: AdamW, clipping by the global norm, and the moving average of the weights.
// Source: torch/optim/adamw.py and torch/nn/utils/clip_grad.py; bytetriper/RAE train.py (update_ema).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/kernels.h"
#include "raedit/tensor.h"

namespace raedit::train {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 1e-2;  // decoupled: the parameter itself shrinks by lr * weight_decay
};

class AdamW {
 public:
  // Parameters are contiguous float32 and are changed in place. Throws Error(invalid_argument) for options out of
  // range.
  AdamW(std::vector<Tensor> parameters, const AdamWOptions& options);

  // gradients[i] belongs to parameter i and has its shape; all are multiplied by grad_scale first.
  void step(const backend::Kernels& kernels, std::span<const Tensor> gradients, double lr, float grad_scale = 1.0f);

  int64_t steps() const { return steps_; }  // taken so far
  const std::vector<Tensor>& parameters() const { return parameters_; }
  const std::vector<Tensor>& exp_avg() const { return exp_avg_; }
  const std::vector<Tensor>& exp_avg_sq() const { return exp_avg_sq_; }
  // The number of steps that the moments, which are overwritten in place, come from.
  void set_steps(int64_t steps) { steps_ = steps; }

 private:
  AdamWOptions options_;
  std::vector<Tensor> parameters_, exp_avg_, exp_avg_sq_;
  int64_t steps_ = 0;
};

// sqrt of the sum of all squares, in float64.
double global_norm(const backend::Kernels& kernels, std::span<const Tensor> gradients);
// What gradients are multiplied by so that their norm is at most max_norm: min(1, max_norm / (norm + 1e-6)); 1 for a
// max_norm of 0 or less, which is no clipping.
float clip_scale(double norm, double max_norm);

// average = decay * average + (1 - decay) * parameter after every step, from a copy at the start. Without a warm-up, as
// upstream's.
class Ema {
 public:
  Ema(std::vector<Tensor> parameters, double decay);

  void update(const backend::Kernels& kernels);
  const std::vector<Tensor>& averages() const { return averages_; }

 private:
  double decay_;
  std::vector<Tensor> parameters_, averages_;
};

}  // namespace raedit::train
