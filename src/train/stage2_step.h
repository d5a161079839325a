// One optimizer step of the diffusion transformer: the gradients of its micro-batches are added up to those of the
// whole batch, clipped, and given to AdamW; then the moving average follows. All of it runs on the device.
//
// A bfloat16 model is trained in mixed precision: parameters, their gradients, moments and averages are float32, what
// flows through the model and back is bfloat16, and products read copies of the weights that a step rounds.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "io/staged_folder.h"
#include "models/rae_dit_transformer.h"
#include "ops/replay.h"
#include "train/optimizer.h"

namespace raedit::train {

// Tensors of the host or of the device.
struct Stage2Batch {
  Tensor latents;       // [B,C,S,S] float32, normalised as the autoencoder gives them
  Tensor noise;         // the same shape
  Tensor sigmas;        // [B] float32; the time that the model is told, too
  Tensor class_labels;  // [B] int64, dropped ones replaced by the null class
  Tensor weights;       // [B] float32, of the loss
};

struct Stage2StepOptions {
  AdamWOptions adamw = {};
  double max_grad_norm = 1.0;  // 0: no clipping
  std::optional<double> ema_decay;
  // Of each block only what goes in is kept, and the way back computes the rest once more: a third more time, a
  // fraction of the memory, the same numbers.
  bool checkpointing = false;
  bool ema_warmup = false;           // see OptimizerOptions
  bool decay_matrices_only = false;  // biases, weights of norms and tables do not shrink
};

struct Stage2StepResult {
  double loss = 0;       // of the whole batch
  double grad_norm = 0;  // before clipping
  // The first parameter whose gradient is not finite. The step was skipped then: nothing has changed.
  std::string not_finite;
};

class Stage2Step {
 public:
  // The model's parameters become float32 numbers of its own, those of its checkpoint before any rounding, and are
  // changed in place. It must outlive this.
  // They live in the memory of the device whose kernels these are; every Context that comes later must be of it.
  Stage2Step(const backend::Kernels& kernels, models::RaeDitTransformer& model, const Stage2StepOptions& options);

  Stage2Step(const Stage2Step&) = delete;
  Stage2Step& operator=(const Stage2Step&) = delete;

  // Forward and backward of one of `parts` equally large micro-batches. Throws Error(invalid_argument) for operands
  // that do not fit.
  void accumulate(Context& ctx, const Stage2Batch& batch, int64_t parts = 1);
  // With what was accumulated, which is forgotten.
  Stage2StepResult step(Context& ctx, double lr);
  // Both, for a whole batch: where the device has graphs, the second call captures all that the device has to do, and
  // from then on it is asked for at once. Always with the same Context and batches of one shape.
  Stage2StepResult replay(Context& ctx, const Stage2Batch& batch, double lr);

  // FOLDER/{transformer,ema}/ in the diffusers layout, optimizer.safetensors and trainer_state.json; the folder appears
  // whole or not at all. Between steps only. `trainer` is an object whose members follow "step" in trainer_state.json,
  // and `more` may write further files before the folder appears.
  void save(const std::string& folder, const Json& trainer = Json::object(),
            const std::function<void(const StagedFolder&)>& more = {}) const;
  // Brings back every bit of it, also after other steps were taken; the model must have the same config. All of
  // trainer_state.json. Throws Error(format) for a folder that is not of this model, and then nothing has changed.
  Json restore(const std::string& folder);

  const std::vector<std::string>& names() const { return names_; }
  const std::vector<Tensor>& parameters() const { return optimizer_->parameters(); }
  // Empty without ema_decay.
  const std::vector<Tensor>& averages() const { return optimizer_->averages(); }
  int64_t steps() const { return optimizer_->steps(); }

 private:
  Stage2StepResult result_of(const Optimizer::Result& taken) const;

  models::RaeDitTransformer& model_;
  const backend::Kernels& kernels_;
  const bool checkpointing_;
  const bool whole_replay_;  // a graph may hold the update, too: it is told nothing that changes
  std::vector<std::string> names_;
  std::optional<Optimizer> optimizer_;
  std::optional<ops::Replay> replay_;
  int64_t accumulated_ = 0;  // micro-batches whose gradients are there
};

}  // namespace raedit::train
