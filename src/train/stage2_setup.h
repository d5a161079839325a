// A run as its options, its data and its models make it, checked before any work: what the trainer and the plan both
// begin with. Nothing is encoded, and no weights are read but headers.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/picture_loader.h"
#include "models/checkpoint.h"
#include "raedit/autoencoder_rae.h"
#include "raedit/flow_match_euler_discrete.h"
#include "raedit/rae_dit_transformer.h"
#include "train/sample_plan.h"
#include "train/stage2_options.h"

namespace raedit::train {

struct Stage2Setup {
  std::shared_ptr<const data::PictureSet> pictures;
  data::PictureTransform transform;
  std::string vae_folder;
  AutoencoderRAEConfig vae;
  RAEDiT2DModelConfig model;
  std::optional<models::ModelSource> pretrained;
  FlowMatchEulerDiscreteScheduler scheduler;
  std::vector<int64_t> class_ids;  // of the model, for each of the data's
  std::map<int64_t, std::string> id2label;
  Shape latent_shape;  // [C,h,w]
  BatchCut cut;
  int64_t max_train_steps = 0, checkpointing_steps = 0;
  std::function<double(int64_t step)> lr;
  std::vector<std::string> notes;

  double steps_per_epoch() const {
    return static_cast<double>(pictures->size()) / static_cast<double>(cut.global_batch());
  }
  DType dtype = DType::float32;  // of what is computed
};

// Throws Error for what does not fit together: classes, labels, latents, schedules.
Stage2Setup make_stage2_setup(const Stage2Options& options, int rank, int ranks);

// The learning rate over the optimizer's steps: one of the schedules of lr_schedule.h. `steps_per_epoch` for what is
// given in epochs.
std::function<double(int64_t)> make_lr(const Stage2Options& options, double base_lr, int64_t max_train_steps,
                                       double steps_per_epoch);

// ceil(epochs * pictures / global batch), unless max_train_steps says otherwise.
int64_t training_steps(const Stage2Options& options, int64_t pictures, int64_t global_batch);

}  // namespace raedit::train
