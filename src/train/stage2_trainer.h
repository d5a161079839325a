// Training the diffusion transformer from options to files: data, steps, checkpoints, validation, the final model.
// What it replaces: diffusers' examples of pull request 13231 (train_rae_dit.py) and bytetriper/RAE src/train.py.
//
//   output_dir/checkpoint-N/   transformer/ ema/ scheduler/ optimizer.safetensors trainer_state.json
//   output_dir/validation/step-N/image-I.png
//   output_dir/logs/           TensorBoard event files
//   output_dir/metrics.jsonl
//   output_dir/transformer/ scheduler/ id2label.json   the result: moving averages where there are any; and, so that
//   output_dir/model_index.json vae/                   the folder is a pipeline
#pragma once

#include <cstdint>
#include <string>

#include "dist/communicator.h"
#include "raedit/progress.h"
#include "train/stage2_options.h"

namespace raedit::train {

struct StepReport {
  int64_t step = 0, max_train_steps = 0;  // steps taken, and how many there will be
  double epoch = 0;
  double loss = 0, lr = 0, grad_norm = 0;  // means over the steps since the last report, but for lr
  double images_per_second = 0;            // of all ranks, since the last report
  double seconds_left = 0;
  int64_t bad_steps = 0;  // skipped so far
};

// What a person watches. Called on the thread that trains, of the first rank only.
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  // A line that stays.
  virtual void note(const std::string&) {}
  // Other work than steps: "latents", "validation", "checkpoint". done 0 begins it, done == total ends it.
  virtual void phase(const std::string& name, int64_t done, int64_t total) { (void)name, (void)done, (void)total; }
  virtual void step(const StepReport&) {}
};

struct TrainingResult {
  int64_t steps = 0;
  bool interrupted = false;  // the token was used: a checkpoint was written and the run can be resumed
  int64_t bad_steps = 0, broken_pictures = 0;
  std::string checkpoint;  // the last one, if any
};

// Throws Error before any work for options and data that do not fit together; what is in output_dir stays.
TrainingResult train_stage2(const Stage2Options& options, dist::Communicator& ranks, TrainObserver& observer,
                            const CancelToken& cancel = {});

// What --dry-run prints: the memory that a step needs, by kind, and how the run is made up.
std::string describe_stage2_plan(const Stage2Options& options, int ranks);

}  // namespace raedit::train
