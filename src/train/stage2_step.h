// One optimizer step of the diffusion transformer: the gradients of its micro-batches are added up to those of the
// whole batch, clipped, and given to AdamW; then the moving average follows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/rae_dit_transformer.h"
#include "train/optimizer.h"

namespace raedit::train {

struct Stage2Batch {
  Tensor latents;              // [B,C,S,S] float32, normalised as the autoencoder gives them
  Tensor noise;                // the same shape
  std::vector<float> sigmas;   // [B]; the time that the model is told, too
  Tensor class_labels;         // [B] int64, dropped ones replaced by the null class
  std::vector<float> weights;  // [B], of the loss
};

struct Stage2StepOptions {
  AdamWOptions adamw = {};
  double max_grad_norm = 1.0;  // 0: no clipping
  std::optional<double> ema_decay;
};

struct Stage2StepResult {
  double loss = 0;       // of the whole batch
  double grad_norm = 0;  // before clipping
  // The first parameter whose gradient is not finite. The step was skipped then: nothing has changed.
  std::string not_finite;
};

class Stage2Step {
 public:
  // The model's parameters become float32 numbers of its own and are changed in place. It must outlive this.
  // They live in the memory of the device whose kernels these are; every Context that comes later must be of it.
  Stage2Step(const backend::Kernels& kernels, models::RaeDitTransformer& model, const Stage2StepOptions& options);

  // Forward and backward of one of `parts` equally large micro-batches. Throws Error(invalid_argument) for operands
  // that do not fit.
  void accumulate(Context& ctx, const Stage2Batch& batch, int64_t parts = 1);
  // With what was accumulated, which is forgotten.
  Stage2StepResult step(Context& ctx, double lr);

  // FOLDER/{transformer,ema}/ in the diffusers layout, optimizer.safetensors and trainer_state.json; the folder appears
  // whole or not at all. Between steps only. restore() brings back every bit of it; the model must have the same
  // config. Throws Error(format) for a folder that is not of this model, and then nothing has changed.
  void save(const std::string& folder) const;
  void restore(const std::string& folder);

  const std::vector<std::string>& names() const { return names_; }
  const std::vector<Tensor>& parameters() const { return adamw_->parameters(); }
  // Empty without ema_decay.
  std::vector<Tensor> averages() const { return ema_ ? ema_->averages() : std::vector<Tensor>{}; }
  int64_t steps() const { return adamw_->steps(); }

 private:
  models::RaeDitTransformer& model_;
  Stage2StepOptions options_;
  std::vector<std::string> names_;
  std::vector<Tensor> gradients_;
  std::optional<AdamW> adamw_;
  std::optional<Ema> ema_;
  double loss_ = 0;
};

}  // namespace raedit::train
