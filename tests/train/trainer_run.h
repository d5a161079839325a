// A small training run for tests: noise pictures in class folders, the tiny autoencoder of the pipeline fixture, and
// an observer that remembers.
#pragma once

#include <cstdlib>
#include <string>
#include <vector>

#include "io/files.h"
#include "io/io_test_util.h"
#include "raedit/image.h"
#include "train/picture_folder.h"
#include "train/stage2_trainer.h"

namespace raedit::train {

inline const std::string kPipeline = std::string(RAEDIT_TEST_DATA) + "/pipeline";

class Watcher final : public TrainObserver {
 public:
  void note(const std::string& line) override { notes += line + "\n"; }
  void phase(const std::string& name, int64_t done, int64_t total) override {
    if (name == "latents" && done == total) ++latents_made;
  }
  void step(const StepReport& report) override {
    reports.push_back(report);
    if (report.step == cancel_at) cancel.cancel();
  }

  std::string notes;
  std::vector<StepReport> reports;
  int latents_made = 0;
  int64_t cancel_at = -1;
  CancelToken cancel;
};

// `classes` folders with `pictures` pictures each.
template <class Scratch>
std::string make_pictures(const Scratch& scratch, int classes = 3, int pictures = 4) {
  const std::string folder = scratch / "pictures";
  unsigned seed = 1;
  for (int c = 0; c < classes; ++c) {
    const std::string name = folder + "/class-" + std::to_string(c);
    create_directories(name);
    for (int i = 0; i < pictures; ++i)
      save_png(test::noise_image(60, 50, seed++), name + "/" + std::to_string(i) + ".png");
  }
  return folder;
}

template <class Scratch>
Stage2Options small_run(const Scratch& scratch, const std::string& pictures) {
  Stage2Options o;
  o.train_data_dir = pictures;
  o.output_dir = scratch / "run";
  o.pretrained_rae_model_name_or_path = kPipeline;
  o.hidden_size = {32, 48};
  o.num_layers = {2, 1};
  o.num_attention_heads = {4, 4};
  o.mlp_ratio = 2.0;
  o.num_classes = 4;
  o.center_crop = true;
  o.train_batch_size = 2;
  o.max_train_steps = 2;
  o.learning_rate = 1e-3;
  o.lr_scheduler = "constant";
  o.lr_warmup_steps = 0;
  o.checkpointing_steps = 1000;
  o.logging_steps = 1;
  o.dataloader_num_workers = 2;
  o.seed = 11;
  return o;
}

inline TrainingResult train(const Stage2Options& options, Watcher& watcher) {
  const auto ranks = dist::single_rank();
  return train_stage2(options, *ranks, watcher, watcher.cancel);
}

inline TrainingResult train(const Stage2Options& options) {
  Watcher watcher;
  return train(options, watcher);
}

}  // namespace raedit::train
