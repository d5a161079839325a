// Options by name: config files, what goes before what, upstream's training YAML.
#include "train/stage2_config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "io/yaml.h"
#include "unit/expect_error.h"

namespace raedit {
namespace {

using train::Stage2Options;

// A value other than the default, of the option's type.
Json other_value(const train::NamedOption& option, int64_t number) {
  return std::visit(
      [&](const auto* value) -> Json {
        using T = std::decay_t<decltype(*value)>;
        if constexpr (std::is_same_v<T, bool>) return !*value;
        if constexpr (std::is_same_v<T, double> || std::is_same_v<T, std::optional<double>>)
          return static_cast<double>(number) + 0.25;
        if constexpr (std::is_same_v<T, std::string>) return "text " + std::to_string(number);
        if constexpr (std::is_same_v<T, std::vector<int64_t>>) return Json{number, number + 1};
        if constexpr (std::is_same_v<T, std::vector<std::string>>) return Json{"one", std::to_string(number)};
        return number;
      },
      option.value);
}

TEST(Stage2Config, EveryOptionIsReadBack) {
  Stage2Options defaults;
  Json config = Json::object();
  int64_t number = 100;
  for (const train::NamedOption& option : train::named_options(defaults))
    config[option.name] = other_value(option, ++number);
  ASSERT_GT(config.size(), 80u);
  Stage2Options read;
  train::read_options(config, "run.json", read);
  EXPECT_EQ(train::options_json(read), config);
  EXPECT_EQ(read.hidden_size[1], config["decoder_hidden_size"].get<int64_t>());
  EXPECT_EQ(read.learning_rate, config["learning_rate"].get<double>());
  EXPECT_FALSE(read.use_swiglu);

  Json dashes = Json::object();
  for (const auto& [key, value] : config.items()) {
    std::string name = key;
    std::replace(name.begin(), name.end(), '_', '-');
    dashes[name] = value;
  }
  Stage2Options again;
  train::read_options(dashes, "run.json", again);
  EXPECT_EQ(train::options_json(again), config);
}

TEST(Stage2Config, YamlsWords) {
  Stage2Options o;
  o.max_train_steps = 7;
  train::read_options(parse_yaml("learning-rate: 1e-3\nmixed_precision: no\nmax_train_steps: null\nresume: latest\n"
                                 "validation_class_label: 3\nseed: 18\nmlp_ratio: 4\n",
                                 "run.yaml"),
                      "run.yaml", o);
  EXPECT_EQ(o.learning_rate, 1e-3);
  EXPECT_EQ(o.mixed_precision, "no");
  EXPECT_FALSE(o.max_train_steps.has_value());
  EXPECT_EQ(o.resume_from_checkpoint, "latest");
  EXPECT_EQ(o.validation_class_label, std::vector<int64_t>{3});
  EXPECT_EQ(o.seed, 18u);
}

TEST(Stage2Config, WrongFiles) {
  const auto read = [](const char* text) {
    Stage2Options options;
    train::read_options(parse_json(text, "run.json"), "run.json", options);
  };
  EXPECT_RAEDIT_ERROR(read(R"({"learning_rat": 1})"), ErrorCode::format, "run.json", "unknown key 'learning_rat'",
                      "did you mean 'learning_rate'");
  EXPECT_RAEDIT_ERROR(read(R"({"train-batch-size": "4"})"), ErrorCode::format, "run.json", "'train_batch_size'",
                      "found string \"4\"", "an integer");
  EXPECT_RAEDIT_ERROR(read(R"({"max_train_steps": 1.5})"), ErrorCode::format, "'max_train_steps'", "1.5", "integer");
  EXPECT_RAEDIT_ERROR(read(R"({"random_flip": 1})"), ErrorCode::format, "'random_flip'", "true or false");
  EXPECT_RAEDIT_ERROR(read(R"({"output_dir": 3})"), ErrorCode::format, "'output_dir'", "a string");
  EXPECT_RAEDIT_ERROR(read(R"({"learning_rate": "fast"})"), ErrorCode::format, "'learning_rate'", "a number");
  EXPECT_RAEDIT_ERROR(read(R"({"learning_rate": null})"), ErrorCode::format, "'learning_rate'", "a number");
  EXPECT_RAEDIT_ERROR(read(R"({"validation_class_label": [1, "2"]})"), ErrorCode::format, "list of integers");
  EXPECT_RAEDIT_ERROR(read(R"({"seed": -1})"), ErrorCode::format, "'seed'", "0 or more");
  EXPECT_RAEDIT_ERROR(read(R"({"ema-decay": 0.9, "ema_decay": 0.8})"), ErrorCode::format, "'ema_decay'", "twice");
  EXPECT_RAEDIT_ERROR(read("[1]"), ErrorCode::format, "run.json", "not an object");
}

TEST(Stage2Config, WhatIsGivenGoesBefore) {
  Stage2Options file, line;
  file.learning_rate = 3e-4;
  file.output_dir = "file";
  file.global_batch_size = 64;
  file.adm_crop = true;
  file.max_train_steps = 1000;
  file.flow_shift = 3.0;
  file.lr_scheduler = "upstream-linear";
  file.lr_warmup_epochs = 40;
  file.lr_final = 1e-5;
  line.output_dir = "line";
  line.train_batch_size = 2;
  line.center_crop = true;
  line.num_train_epochs = 3;
  line.time_shift_base = 100;
  line.lr_scheduler = "cosine";
  line.lr_warmup_steps = 5;
  Stage2Options o = file;
  train::take_options(o, line, {});
  EXPECT_EQ(train::options_json(o), train::options_json(file));
  train::take_options(o, line,
                      {"lr_warmup_steps", "output_dir", "train_batch_size", "center_crop", "num_train_epochs",
                       "time_shift_base", "lr_scheduler"});
  EXPECT_EQ(o.output_dir, "line");
  EXPECT_EQ(o.learning_rate, 3e-4);
  EXPECT_EQ(o.train_batch_size, 2);
  EXPECT_FALSE(o.global_batch_size.has_value());
  EXPECT_TRUE(o.center_crop);
  EXPECT_FALSE(o.adm_crop);
  EXPECT_EQ(o.num_train_epochs, 3);
  EXPECT_FALSE(o.max_train_steps.has_value());
  EXPECT_FALSE(o.flow_shift.has_value());
  EXPECT_EQ(o.lr_warmup_steps, 5);
  EXPECT_FALSE(o.lr_warmup_epochs.has_value());
  EXPECT_FALSE(o.lr_final.has_value());

  // Two that exclude each other stay for check() to refuse.
  line.adm_crop = true;
  train::take_options(o, line, {"center_crop", "adm_crop"});
  EXPECT_TRUE(o.center_crop && o.adm_crop);
}

TEST(Stage2Config, TheBatchIsSharedOut) {
  Stage2Options o;
  o.gradient_accumulation_steps = 3;
  train::share_out_batch(o, 2);
  EXPECT_EQ(o.train_batch_size, 4);
  o.global_batch_size = 48;
  train::share_out_batch(o, 2);
  EXPECT_EQ(o.train_batch_size, 8);
  EXPECT_FALSE(o.global_batch_size.has_value());
  o.global_batch_size = 50;
  EXPECT_RAEDIT_ERROR(train::share_out_batch(o, 2), ErrorCode::invalid_argument, "--global-batch-size", "found 50",
                      "a multiple of 6", "2 ranks");
}

// Upstream's shipped training configs, in structure and values.
const char* const kSmall = R"(
stage_1:
  target: stage1.RAE
  params:
    encoder_cls: 'Dinov2withNorm'
    encoder_config_path: 'facebook/dinov2-with-registers-base'
    encoder_input_size: 224
    encoder_params: {dinov2_path: 'facebook/dinov2-with-registers-base', normalize: true}
    decoder_config_path: 'configs/decoder/ViTXL'
    pretrained_decoder_path: 'models/decoders/model.pt'
    noise_tau: 0.0
    normalization_stat_path: 'models/stats/stat.pt'
stage_2:
  target: stage2.models.DDT.DiTwDDTHead
transport:
  params: {path_type: 'Linear', prediction: 'velocity', loss_weight: null, time_dist_type: 'logit-normal_0_1'}
sampler:
  mode: ODE
  params: {sampling_method: 'euler', num_steps: 50, atol: 1.0e-6, rtol: 1.0e-3, reverse: false}
guidance: {method: 'cfg', scale: 1.0, t_min: 0.0, t_max: 1.0}
misc: {latent_size: [768, 16, 16], num_classes: 1000, time_dist_shift_dim: 196608, time_dist_shift_base: 4096}
eval: {eval_interval: 25000, eval_model: true, data_path: 'val/', reference_npz_path: 'r.npz'}
)";
const char* const kTraining = R"(
training:
  epochs: 1400
  global_batch_size: 1024
  grad_accum_steps: 1
  ema_decay: 0.9995
  num_workers: 16
  log_interval: 100
  checkpoint_interval: 10
  sample_every: 2500
  clip_grad: 1.0
  global_seed: 42
  optimizer: {lr: 2.0e-4, betas: [0.9, 0.95], weight_decay: 0.0}
  scheduler: {type: linear, warmup_epochs: 40, decay_end_epoch: 800, base_lr: 2.0e-4, final_lr: 2.0e-5, warmup_from_zero: false}
)";

train::UpstreamModels models() {
  return {parse_json(R"({"_class_name": "RAEDiT2DModel", "sample_size": 16, "patch_size": 1, "in_channels": 768,
    "hidden_size": [384, 2048], "depth": [12, 2], "num_heads": [6, 16], "mlp_ratio": 3.0, "class_dropout_prob": 0.2,
    "num_classes": 1000, "use_qknorm": true, "use_swiglu": false, "use_rope": true, "use_rmsnorm": true,
    "wo_shift": true, "use_pos_embed": false})",
                     "models"),
          std::sqrt(48.0)};
}

train::UpstreamTraining read_upstream(const std::string& text, Stage2Options& options) {
  const Json yaml = parse_yaml(text, "u.yaml");
  EXPECT_TRUE(train::is_upstream_training(yaml));
  return train::read_upstream_training(yaml, "u.yaml", models(), options);
}

TEST(UpstreamTraining, TheSmallConfigsModelAndData) {
  Stage2Options o;
  const train::UpstreamTraining more = read_upstream(std::string(kSmall) + kTraining, o);
  EXPECT_EQ(o.hidden_size, (std::array<int64_t, 2>{384, 2048}));
  EXPECT_EQ(o.num_layers, (std::array<int64_t, 2>{12, 2}));
  EXPECT_EQ(o.num_attention_heads, (std::array<int64_t, 2>{6, 16}));
  EXPECT_EQ(o.mlp_ratio, 3.0);
  EXPECT_EQ(o.class_dropout_prob, 0.2);
  EXPECT_EQ(o.num_classes, 1000);
  EXPECT_TRUE(o.use_qknorm && !o.use_swiglu && o.use_rope && o.use_rmsnorm && o.wo_shift && !o.use_pos_embed);
  EXPECT_EQ(o.time_distribution, "logit-normal_0_1");
  EXPECT_NEAR(o.flow_shift.value(), std::sqrt(196608.0 / 4096.0), 1e-12);
  EXPECT_TRUE(o.adm_crop && o.random_flip && !o.center_crop);
  const std::vector<std::string> unused{"eval", "sampler.params.atol", "sampler.params.rtol", "guidance.t_min",
                                        "guidance.t_max"};
  EXPECT_EQ(more.unused, unused);
  EXPECT_EQ(more.convert_autoencoder,
            "raedit convert rae --repo_or_path RAE --encoder_type dinov2 --encoder_name_or_path "
            "facebook/dinov2-with-registers-base --decoder_config_name ViTXL --decoder_checkpoint "
            "models/decoders/model.pt --stats_checkpoint models/stats/stat.pt --encoder_input_size 224 --output_path "
            "VAE");
  EXPECT_EQ(more.convert_transformer, "");
  o.train_data_dir = o.pretrained_rae_model_name_or_path = "x";
  o.validation_class_label = {1};
  EXPECT_NO_THROW(o.check());
}

TEST(UpstreamTraining, TheSmallConfigsSteps) {
  Stage2Options o;
  read_upstream(std::string(kSmall) + kTraining, o);
  EXPECT_EQ(o.num_train_epochs, 1400);
  EXPECT_EQ(o.global_batch_size, 1024);
  EXPECT_EQ(o.gradient_accumulation_steps, 1);
  EXPECT_EQ(o.ema_decay, 0.9995);
  EXPECT_FALSE(o.ema_warmup);
  EXPECT_EQ(o.dataloader_num_workers, 16);
  EXPECT_EQ(o.logging_steps, 100);
  EXPECT_EQ(o.checkpointing_epochs, 10);
  EXPECT_EQ(o.validation_steps, 2500);
  EXPECT_EQ(o.validation_num_inference_steps, 50);
  EXPECT_EQ(o.validation_guidance_scale, 1.0);
  EXPECT_EQ(o.max_grad_norm, 1.0);
  EXPECT_EQ(o.seed, 42u);
  EXPECT_EQ(o.learning_rate, 2e-4);
  EXPECT_EQ(o.adam_beta1, 0.9);
  EXPECT_EQ(o.adam_beta2, 0.95);
  EXPECT_EQ(o.adam_weight_decay, 0.0);
  EXPECT_EQ(o.adam_epsilon, 1e-8);
  EXPECT_EQ(o.lr_scheduler, "upstream-linear");
  EXPECT_EQ(o.lr_warmup_epochs, 40);
  EXPECT_EQ(o.lr_decay_end_epochs, 800);
  EXPECT_EQ(o.lr_final, 2e-5);
  EXPECT_FALSE(o.lr_warmup_from_zero);
}

TEST(UpstreamTraining, The512ConfigsOldKeys) {
  Stage2Options o;
  const train::UpstreamTraining more = read_upstream(std::string(kSmall) + R"(
training:
  global_seed: 0
  epochs: 1400
  global_batch_size: 1024
  log_every: 100
  ckpt_every: 5000
  sample_every: 10000
  base_lr: 0.0003
  final_lr: 0.00002
  beta: [0.8, 0.96]
  wd: 0.01
  schedule_type: 'cosine'
  decay_start_epoch: 40
  decay_end_epoch: 800
)",
                                                     o);
  EXPECT_EQ(o.lr_scheduler, "upstream-cosine");
  EXPECT_EQ(o.learning_rate, 3e-4);
  EXPECT_EQ(o.lr_final, 2e-5);
  EXPECT_EQ(o.lr_warmup_epochs, 40);
  EXPECT_EQ(o.lr_decay_end_epochs, 800);
  EXPECT_EQ(o.adam_beta1, 0.8);
  EXPECT_EQ(o.adam_beta2, 0.96);
  EXPECT_EQ(o.adam_weight_decay, 0.01);
  EXPECT_EQ(o.checkpointing_steps, 5000);
  EXPECT_FALSE(o.checkpointing_epochs.has_value());
  EXPECT_TRUE(std::none_of(more.unused.begin(), more.unused.end(),
                           [](const std::string& key) { return key.starts_with("training."); }));
}

TEST(UpstreamTraining, WithoutASchedulerTheRateIsConstant) {
  Stage2Options o;
  const auto more = read_upstream(std::string(kSmall) + "training: {batch_size: 8, clip_grad: null, epohcs: 3}\n", o);
  EXPECT_EQ(o.lr_scheduler, "constant");
  EXPECT_EQ(o.lr_warmup_steps, 0);
  EXPECT_EQ(o.learning_rate, 2e-4);
  EXPECT_EQ(o.train_batch_size, 8);
  EXPECT_FALSE(o.global_batch_size.has_value());
  EXPECT_EQ(o.max_grad_norm, 0);
  EXPECT_EQ(o.num_train_epochs, 1400);
  EXPECT_EQ(o.checkpointing_epochs, 4);
  EXPECT_EQ(more.unused.back(), "training.epohcs");
}

TEST(UpstreamTraining, SchedulesInSteps) {
  Stage2Options o;
  const std::string start = std::string(kSmall) + "training: {clip_grad: -1, scheduler: ";
  read_upstream(start + "{type: Cosine, warmup_steps: 30, decay_end_steps: 90, warmup_from_zero: true}}\n", o);
  EXPECT_EQ(o.lr_scheduler, "upstream-cosine");
  EXPECT_EQ(o.lr_warmup_steps, 30);
  EXPECT_FALSE(o.lr_warmup_epochs.has_value());
  EXPECT_EQ(o.lr_decay_end_steps, 90);
  EXPECT_TRUE(o.lr_warmup_from_zero);
  EXPECT_EQ(o.lr_final, 2e-4);
  EXPECT_EQ(o.max_grad_norm, 0);
  // Without an end, it comes with the end of the warm-up.
  read_upstream(start + "{warmup_steps: 30}}\n", o);
  EXPECT_EQ(o.lr_decay_end_steps, 30);
  read_upstream(start + "{warmup_epochs: 2.5}}\n", o);
  EXPECT_EQ(o.lr_decay_end_epochs, 2.5);
  EXPECT_FALSE(o.lr_decay_end_steps.has_value());
}

TEST(UpstreamTraining, WrongFiles) {
  Stage2Options o;
  const std::string start = std::string(kSmall) + "training: ";
  EXPECT_RAEDIT_ERROR(read_upstream(start + "{epochs: many}", o), ErrorCode::format, "u.yaml: training.epochs",
                      "\"many\"", "a number");
  EXPECT_RAEDIT_ERROR(read_upstream(start + "{num_workers: 1.5}", o), ErrorCode::format, "training.num_workers",
                      "an integer");
  EXPECT_RAEDIT_ERROR(read_upstream(start + "{optimizer: {type: lion}}", o), ErrorCode::format,
                      "training.optimizer.type", "lion", "adamw");
  EXPECT_RAEDIT_ERROR(read_upstream(start + "{optimizer: {betas: [0.9]}}", o), ErrorCode::format,
                      "training.optimizer.betas", "a list of two");
  EXPECT_RAEDIT_ERROR(read_upstream(start + "{scheduler: {type: step}}", o), ErrorCode::format,
                      "training.scheduler.type", "linear or cosine");
  EXPECT_RAEDIT_ERROR(read_upstream(start + "{scheduler: {warmup_from_zero: 1}}", o), ErrorCode::format,
                      "training.scheduler.warmup_from_zero", "true or false");
  EXPECT_RAEDIT_ERROR(read_upstream(start + "[1]", o), ErrorCode::format, "u.yaml: training", "a mapping");
  EXPECT_FALSE(train::is_upstream_training(parse_yaml("learning_rate: 1", "run.yaml")));
}

TEST(UpstreamTraining, ACheckpointHasToBeConverted) {
  Stage2Options o;
  const auto more = read_upstream("stage_2: {ckpt: 'models/DiTs/stage2_model.pt'}\n", o);
  EXPECT_EQ(more.convert_transformer,
            "raedit convert stage2 --repo_or_path RAE --config_path u.yaml --output_path DIT");
  EXPECT_EQ(more.convert_autoencoder, "");
}

}  // namespace
}  // namespace raedit
