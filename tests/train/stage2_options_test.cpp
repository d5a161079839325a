// What a training run may be told, and the words for what it may not.
#include "train/stage2_options.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "unit/expect_error.h"

namespace raedit {
namespace {

using train::Stage2Options;

Stage2Options fine() {
  Stage2Options options;
  options.train_data_dir = "pictures";
  options.pretrained_rae_model_name_or_path = "vae";
  return options;
}

struct Case {
  std::function<void(Stage2Options&)> change;
  std::string flag, part;
};

void expect_refused(const std::vector<Case>& cases) {
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    Stage2Options options = fine();
    cases[i].change(options);
    EXPECT_RAEDIT_ERROR(options.check(), ErrorCode::invalid_argument, cases[i].flag, cases[i].part);
  }
}

TEST(Stage2Options, DefaultsAreFine) {
  EXPECT_NO_THROW(fine().check());
  Stage2Options nothing;
  EXPECT_RAEDIT_ERROR(nothing.check(), ErrorCode::invalid_argument, "--train-data-dir", "is required");
  nothing.train_data_dir = "pictures";
  EXPECT_RAEDIT_ERROR(nothing.check(), ErrorCode::invalid_argument, "--pretrained-rae-model-name-or-path", "required");
}

TEST(Stage2Options, Ranges) {
  using O = Stage2Options;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  expect_refused({
      {[](O& o) { o.resolution = 0; }, "--resolution", "found 0, expected 1 or more"},
      {[](O& o) { o.dataloader_num_workers = -1; }, "--dataloader-num-workers", "found -1, expected 0 or more"},
      {[](O& o) { o.patch_size = 0; }, "--patch-size", "1 or more"},
      {[](O& o) { o.hidden_size[0] = 0; }, "--encoder-hidden-size", "1 or more"},
      {[](O& o) { o.hidden_size[1] = 2050; }, "--decoder-hidden-size", "a multiple of --decoder-num-attention-heads"},
      {[](O& o) { o.num_layers[1] = 0; }, "--decoder-num-layers", "1 or more"},
      {[](O& o) { o.num_attention_heads[0] = 0; }, "--encoder-num-attention-heads", "1 or more"},
      {[](O& o) { o.mlp_ratio = 0; }, "--mlp-ratio", "above 0"},
      {[](O& o) { o.class_dropout_prob = 1.5; }, "--class-dropout-prob", "found 1.5, expected from 0 to 1"},
      {[](O& o) { o.num_classes = 0; }, "--num-classes", "1 or more"},
      {[](O& o) { o.num_train_timesteps = 0; }, "--num-train-timesteps", "1 or more"},
      {[](O& o) { o.flow_shift = 0; }, "--flow-shift", "above 0"},
      {[](O& o) { o.time_shift_base = -4; }, "--time-shift-base", "above 0"},
      {[&](O& o) { o.logit_mean = nan; }, "--logit-mean", "finite"},
      {[](O& o) { o.logit_std = -1; }, "--logit-std", "0 or more"},
      {[&](O& o) { o.mode_scale = nan; }, "--mode-scale", "finite"},
      {[](O& o) { o.train_batch_size = 0; }, "--train-batch-size", "1 or more"},
      {[](O& o) { o.global_batch_size = 0; }, "--global-batch-size", "1 or more"},
      {[](O& o) { o.gradient_accumulation_steps = 0; }, "--gradient-accumulation-steps", "1 or more"},
      {[](O& o) { o.num_train_epochs = 0; }, "--num-train-epochs", "1 or more"},
      {[](O& o) { o.max_train_steps = 0; }, "--max-train-steps", "1 or more"},
      {[](O& o) { o.learning_rate = 0; }, "--learning-rate", "above 0"},
      {[&](O& o) { o.learning_rate = nan; }, "--learning-rate", "above 0"},
      {[](O& o) { o.adam_beta1 = 1; }, "--adam-beta1", "below 1"},
      {[](O& o) { o.adam_beta2 = -0.1; }, "--adam-beta2", "below 1"},
      {[](O& o) { o.adam_weight_decay = -1; }, "--adam-weight-decay", "0 or more"},
      {[](O& o) { o.adam_epsilon = -1; }, "--adam-epsilon", "0 or more"},
      {[](O& o) { o.max_grad_norm = -1; }, "--max-grad-norm", "0 or more"},
      {[](O& o) { o.lr_warmup_steps = -1; }, "--lr-warmup-steps", "0 or more"},
      {[](O& o) { o.lr_num_cycles = 0; }, "--lr-num-cycles", "above 0"},
      {[](O& o) { o.lr_power = 0; }, "--lr-power", "above 0"},
      {[](O& o) { o.ema_decay = 1; }, "--ema-decay", "below 1"},
      {[](O& o) { o.logging_steps = 0; }, "--logging-steps", "1 or more"},
      {[](O& o) { o.checkpointing_steps = 0; }, "--checkpointing-steps", "1 or more"},
      {[](O& o) { o.checkpointing_epochs = 0; }, "--checkpointing-epochs", "above 0"},
      {[](O& o) { o.checkpoints_total_limit = 0; }, "--checkpoints-total-limit", "1 or more"},
      {[](O& o) { o.num_validation_images = 0; }, "--num-validation-images", "1 or more"},
      {[](O& o) { o.validation_num_inference_steps = 0; }, "--validation-num-inference-steps", "1 or more"},
      {[](O& o) { o.validation_guidance_scale = 0.5; }, "--validation-guidance-scale", "found 0.5, expected 1 or more"},
      {[](O& o) { o.max_bad_steps = 0; }, "--max-bad-steps", "1 or more"},
      {[](O& o) { o.max_restores = -1; }, "--max-restores", "0 or more"},
      {[](O& o) { o.restore_lr_factor = 1.5; }, "--restore-lr-factor", "above 0, up to 1"},
      {[](O& o) { o.threads = -1; }, "--threads", "from 0"},
      {[](O& o) { o.output_dir = ""; }, "--output-dir", "is required"},
  });
}

TEST(Stage2Options, Choices) {
  using O = Stage2Options;
  expect_refused({
      {[](O& o) { o.lr_scheduler = "cosin"; }, "--lr-scheduler", "did you mean 'cosine'"},
      {[](O& o) { o.mixed_precision = "fp16"; }, "--mixed-precision", "use bf16"},
      {[](O& o) { o.mixed_precision = "fp8"; }, "--mixed-precision", "no or bf16"},
      {[](O& o) { o.report_to = "wandb"; }, "--report-to", "tensorboard or none"},
      {[](O& o) { o.weighting_scheme = "logit-normal"; }, "--weighting-scheme", "logit_normal"},
      {[](O& o) { o.time_distribution = "logitnormal"; }, "--time-distribution", "logit-normal_MU_SIGMA"},
      {[](O& o) { o.time_distribution = "tabel"; }, "--time-distribution", "\"table\" is the lookup"},
      {[](O& o) { o.class_ids = "by-nam"; }, "--class-ids", "did you mean 'by-name'"},
      {[](O& o) { o.device = "gpu"; }, "--device", "gpu"},
      {[](O& o) { o.lr_scheduler = "piecewise_constant", o.lr_step_rules = "1:x,1"; }, "--lr-step-rules", "1:x"},
  });
}

TEST(Stage2Options, WhatDoesNotGoTogether) {
  using O = Stage2Options;
  expect_refused({
      {[](O& o) { o.center_crop = o.adm_crop = true; }, "--center-crop and --adm-crop", "exclude"},
      {[](O& o) { o.cache_latents = "cache"; }, "--cache-latents", "--center-crop or --adm-crop"},
      {[](O& o) { o.validation_steps = 10; }, "--validation-steps needs", "--validation-class-label"},
      {[](O& o) { o.validation_class_label = {1}; }, "--validation-class-label needs", "--validation-steps"},
      {[](O& o) { o.validation_class_label = {1}, o.validation_steps = 0; }, "--validation-steps", "1 or more"},
      {[](O& o) {
         o.validation_class_label = {2, -1}, o.validation_steps = 5;
       },
       "--validation-class-label", "found -1"},
      {[](O& o) { o.time_distribution = "uniform", o.weighting_scheme = "mode"; }, "--time-distribution",
       "which times"},
      {[](O& o) { o.time_distribution = "uniform", o.flow_shift = 0.5; }, "--flow-shift", "1 or more"},
      {[](O& o) { o.lr_scheduler = "polynomial", o.learning_rate = 1e-8; }, "--learning-rate", "polynomial"},
      {[](O& o) { o.lr_scheduler = "piecewise_constant"; }, "--lr-step-rules", "is required"},
      {[](O& o) { o.lr_step_rules = "1:10,0.1"; }, "--lr-step-rules", "piecewise_constant"},
      {[](O& o) { o.lr_final = 1e-5; }, "--lr-final", "upstream-linear and upstream-cosine"},
      {[](O& o) { o.lr_warmup_from_zero = true; }, "--lr-warmup-from-zero", "upstream-linear"},
      {[](O& o) { o.ema_warmup = true; }, "--ema-warmup", "needs --ema-decay"},
  });
}

TEST(Stage2Options, WhatGoesTogether) {
  using O = Stage2Options;
  const std::vector<std::function<void(O&)>> changes{
      [](O& o) { o.cache_latents = "cache", o.adm_crop = true; },
      [](O& o) {
        o.validation_class_label = {0, 3}, o.validation_steps = 1;
      },
      [](O& o) { o.time_distribution = "logit-normal_0_1", o.weighting_scheme = "cosmap", o.flow_shift = 6.9; },
      [](O& o) { o.lr_scheduler = "upstream-cosine", o.lr_final = 0, o.lr_decay_end_steps = 0; },
      [](O& o) { o.lr_scheduler = "piecewise_constant", o.lr_step_rules = "1:10,0.1:20,0.01"; },
      [](O& o) { o.lr_scheduler = "polynomial", o.lr_power = 2; },
      [](O& o) { o.ema_decay = 0, o.ema_warmup = true; },
      [](O& o) { o.max_grad_norm = 0, o.mixed_precision = "bf16", o.report_to = "none"; },
      // The shape is that of the pretrained one.
      [](O& o) {
        o.pretrained_transformer_model_name_or_path = "t", o.hidden_size = {7, 9};
      },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    Stage2Options options = fine();
    changes[i](options);
    EXPECT_NO_THROW(options.check()) << i;
  }
}

}  // namespace
}  // namespace raedit
