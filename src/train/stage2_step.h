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
#include "dist/communicator.h"
#include "io/staged_folder.h"
#include "models/rae_dit_transformer.h"
#include "ops/replay.h"
#include "train/optimizer.h"
#include "train/stage2_ranks.h"

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
  bool zero1 = false;                // each rank keeps moments and averages of a part of the parameters
};

struct Stage2StepResult {
  double loss = 0;       // of the whole batch
  double grad_norm = 0;  // before clipping
  // Where a number that is not finite came up: a parameter, "loss", or the parameter whose gradient has it first on the
  // way back. The step was skipped then: nothing has changed.
  std::string not_finite;
};

class Stage2Step {
 public:
  // The model's parameters become float32 numbers of its own, those of its checkpoint before any rounding, and are
  // changed in place. It must outlive this.
  // They live in the memory of the device whose kernels these are; every Context that comes later must be of it.
  // Several ranks train one model, which starts as that of the first. All of them call the same functions, those marked
  // "together" at the same time, and get the same results. They must outlive this, too.
  Stage2Step(const backend::Kernels& kernels, models::RaeDitTransformer& model, const Stage2StepOptions& options,
             dist::Communicator* ranks = nullptr);

  Stage2Step(const Stage2Step&) = delete;
  Stage2Step& operator=(const Stage2Step&) = delete;

  // Forward and backward of one of `parts` equally large micro-batches, those of all ranks counted. The last one of a
  // rank sends gradients on their way to the others as it goes: together. Throws Error(invalid_argument) for operands
  // that do not fit.
  void accumulate(Context& ctx, const Stage2Batch& batch, int64_t parts = 1);
  // With what was accumulated, which is forgotten. Together.
  Stage2StepResult step(Context& ctx, double lr);
  // Both, for a whole batch: where the device has graphs, the second call captures all that the device has to do, and
  // from then on it is asked for at once. Always with the same Context and batches of one shape. Among ranks it
  // is never captured: gradients go out in between.
  Stage2StepResult replay(Context& ctx, const Stage2Batch& batch, double lr);

  // FOLDER/{transformer,ema}/ in the diffusers layout, optimizer.safetensors and trainer_state.json; the folder appears
  // whole or not at all. Between steps only. `trainer` is an object whose members follow "step" in trainer_state.json,
  // and `more` may write further files before the folder appears. Together; the first rank writes, its own `trainer`
  // and `more`, whatever the others say, and the files are the same for any number of ranks.
  void save(const std::string& folder, const Json& trainer = Json::object(),
            const std::function<void(const StagedFolder&)>& more = {}) const;
  // Brings back every bit of it, also after other steps were taken; the model must have the same config. Together; the
  // first rank reads. All of trainer_state.json. Throws Error(format) for a folder that is not of this model, and then
  // nothing has changed.
  Json restore(const std::string& folder);

  const std::vector<std::string>& names() const { return names_; }
  const std::vector<Tensor>& parameters() const { return optimizer_->parameters(); }
  // Empty without ema_decay. With zero1 those of other ranks are undefined here.
  const std::vector<Tensor>& averages() const { return optimizer_->averages(); }
  // All of them, on all ranks: the others' are copies on the host. Together.
  std::vector<Tensor> all_averages() const;
  int64_t steps() const { return optimizer_->steps(); }

 private:
  std::vector<Tensor> gather(const std::vector<Tensor>& owned, bool everywhere) const;
  std::vector<Tensor> places() const;
  Json read(const std::string& folder, std::vector<Tensor>& contents) const;
  Stage2StepResult result_of(const Optimizer::Result& taken) const;

  models::RaeDitTransformer& model_;
  const backend::Kernels& kernels_;
  const bool checkpointing_;
  const bool whole_replay_;  // a graph may hold the update, too: it is told nothing that changes
  std::vector<std::string> names_;
  std::optional<Stage2Ranks> ranks_;  // where there are several
  std::optional<Optimizer> optimizer_;
  std::optional<ops::Replay> replay_;
  int64_t accumulated_ = 0;  // micro-batches whose gradients are there
};

}  // namespace raedit::train
