// What changes parameters: AdamW, clipping by the global norm, and the moving average of the weights; all of it on the
// device, in one go over everything.
// Source: torch/optim/adamw.py and torch/nn/utils/clip_grad.py; bytetriper/RAE train.py (update_ema).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "backend/kernels.h"
#include "raedit/tensor.h"

namespace raedit::train {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 1e-2;  // decoupled: the parameter itself shrinks by lr * weight_decay
};

struct OptimizerOptions {
  AdamWOptions adamw = {};
  // Gradients longer than this, all together, are scaled by max_grad_norm / (norm + 1e-6). 0: no clipping.
  double max_grad_norm = 1.0;
  // average = decay * average + (1 - decay) * parameter after every step, from a copy at the start. Without a warm-up,
  // as upstream's.
  std::optional<double> ema_decay = {};
  // Keeps bfloat16 copies of the parameters, too.
  bool rounded = false;
  // The decay of step t, counted from 1, is min(ema_decay, (1 + t) / (10 + t)): the copy at the start is soon
  // forgotten.
  bool ema_warmup = false;
  // For each parameter, whether weight_decay is for it. Empty: it is for all.
  std::vector<bool> decays = {};
  // For each parameter, whether it is changed here; for the others there are gradients alone, no moments and averages.
  // Empty: all are.
  std::vector<bool> owned = {};
};

class Optimizer {
 public:
  // Parameters are contiguous float32 in the memory of the device, and are changed in place. Those that are views of
  // one storage have gradients, moments, averages and copies that are views of one, too.
  // Throws Error(invalid_argument) for options out of range.
  Optimizer(const backend::Kernels& kernels, std::vector<Tensor> parameters, const OptimizerOptions& options);

  struct Result {
    double loss = 0;       // what was added to loss() since the last step
    double grad_norm = 0;  // before clipping
    bool finite = true;    // both of them; else nothing has changed
  };
  // With gradients() as they are, which stay. Waits for the device.
  Result step(const backend::Kernels& kernels, double lr);
  // What step() does before it waits: launches alone, which a graph may hold. set_lr() comes before.
  void set_lr(double lr);
  void launch(const backend::Kernels& kernels);
  Result finish();

  // Where the caller adds its losses up, float64 [1], and where it leaves the gradients, one for each parameter.
  const Tensor& loss() const { return loss_; }
  const std::vector<Tensor>& gradients() const { return gradients_; }

  int64_t steps() const { return steps_; }  // taken so far
  const std::vector<Tensor>& parameters() const { return parameters_; }
  const std::vector<Tensor>& exp_avg() const { return exp_avg_; }
  const std::vector<Tensor>& exp_avg_sq() const { return exp_avg_sq_; }
  // Those above and averages: undefined where the parameter is not owned. Empty without ema_decay, and without
  // `rounded`.
  const std::vector<Tensor>& averages() const { return averages_; }
  const std::vector<Tensor>& rounded() const { return rounded_; }
  // After parameters that are not owned were overwritten in place: their rounded copies.
  void refresh(const backend::Kernels& kernels) const;
  // After parameters and moments were overwritten in place: the number of steps that the moments come from. A loss that
  // was added up is forgotten.
  void restored(const backend::Kernels& kernels, int64_t steps);

 private:
  // Parameters that one set of numbers is for.
  struct Share {
    std::shared_ptr<const backend::TrainedSet> set;
    double weight_decay = 0;
    Tensor numbers;
  };

  bool owned(size_t i) const { return options_.owned.empty() || options_.owned[i]; }
  void add_shares(const backend::Kernels& kernels, const std::vector<backend::Trained>& trained);
  void set_numbers(const Share& share, double lr) const;
  float ema_decay() const;
  void round_all(const backend::Kernels& kernels) const;

  OptimizerOptions options_;
  std::vector<Tensor> parameters_, gradients_, exp_avg_, exp_avg_sq_, averages_, rounded_;
  Tensor state_, loss_;
  std::shared_ptr<const backend::TrainedSet> set_;  // all, of which the norm is taken
  std::vector<Share> shares_;
  int64_t steps_ = 0;
};

}  // namespace raedit::train
