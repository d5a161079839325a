// raedit train stage2: help, spellings, wrong flags and config files. Nothing here gets as far as data.
#include <algorithm>
#include <regex>

#include "convert_cli.h"

namespace raedit::cli_test {
namespace {

// Of train_rae_dit.py, in its order, and then ours.
const char* const kScriptsFlags[] = {"train_data_dir",
                                     "output_dir",
                                     "logging_dir",
                                     "report_to",
                                     "seed",
                                     "resolution",
                                     "center_crop",
                                     "random_flip",
                                     "train_batch_size",
                                     "dataloader_num_workers",
                                     "num_train_epochs",
                                     "max_train_steps",
                                     "gradient_accumulation_steps",
                                     "gradient_checkpointing",
                                     "max_grad_norm",
                                     "learning_rate",
                                     "scale_lr",
                                     "adam_beta1",
                                     "adam_beta2",
                                     "adam_weight_decay",
                                     "adam_epsilon",
                                     "lr_scheduler",
                                     "lr_warmup_steps",
                                     "mixed_precision",
                                     "allow_tf32",
                                     "checkpointing_steps",
                                     "checkpoints_total_limit",
                                     "resume_from_checkpoint",
                                     "pretrained_rae_model_name_or_path",
                                     "pretrained_transformer_model_name_or_path",
                                     "patch_size",
                                     "encoder_hidden_size",
                                     "decoder_hidden_size",
                                     "encoder_num_layers",
                                     "decoder_num_layers",
                                     "encoder_num_attention_heads",
                                     "decoder_num_attention_heads",
                                     "mlp_ratio",
                                     "class_dropout_prob",
                                     "num_classes",
                                     "use_qknorm",
                                     "use_swiglu",
                                     "use_rope",
                                     "use_rmsnorm",
                                     "wo_shift",
                                     "use_pos_embed",
                                     "num_train_timesteps",
                                     "flow_shift",
                                     "time_shift_base",
                                     "weighting_scheme",
                                     "logit_mean",
                                     "logit_std",
                                     "mode_scale",
                                     "validation_steps",
                                     "validation_class_label",
                                     "num_validation_images",
                                     "validation_num_inference_steps",
                                     "validation_guidance_scale"};
const char* const kOurFlags[] = {"adm_crop",
                                 "skip_broken",
                                 "class_ids",
                                 "cache_latents",
                                 "time_distribution",
                                 "global_batch_size",
                                 "decay_matrices_only",
                                 "lr_step_rules",
                                 "lr_final",
                                 "lr_decay_end_steps",
                                 "lr_decay_end_epochs",
                                 "lr_warmup_epochs",
                                 "lr_warmup_from_zero",
                                 "lr_num_cycles",
                                 "lr_power",
                                 "ema_decay",
                                 "ema_warmup",
                                 "logging_steps",
                                 "checkpointing_epochs",
                                 "max_bad_steps",
                                 "max_restores",
                                 "restore_lr_factor",
                                 "device",
                                 "threads",
                                 "zero1",
                                 "dry_run",
                                 "config",
                                 "quiet",
                                 "json",
                                 "offline"};

std::string dashed(std::string word) {
  std::replace(word.begin(), word.end(), '_', '-');
  return word;
}

// A command line that is wrong only in what `more` says, and in that there is no data.
Words train_words(const Words& more = {}) {
  return Words{"train", "stage2", "--train-data-dir", "nowhere", "--pretrained-rae-model-name-or-path", "nothing"} +
         more;
}

class TrainOptions : public CliTest {};

TEST_F(TrainOptions, HelpNamesEveryFlagOnce) {
  const std::string help = expect_success({"train", "stage2", "--help"});
  EXPECT_EQ(expect_success({"help", "train", "stage2"}), help);
  Words names(std::begin(kScriptsFlags), std::end(kScriptsFlags));
  names.insert(names.end(), std::begin(kOurFlags), std::end(kOurFlags));
  for (const std::string& name : names) {
    const std::regex line("\n  --" + dashed(name) + "[ \n]");
    EXPECT_EQ(std::distance(std::sregex_iterator(help.begin(), help.end(), line), std::sregex_iterator()), 1) << name;
  }
  for (const char* word : {"--no-use-swiglu", "--no-use-rope", "--no-use-rmsnorm", "--no-use-pos-embed", "--resume",
                           "(default 0.0001)", "(default rae-dit)", "Examples:\n  raedit train stage2"})
    EXPECT_TRUE(holds(help, word)) << word;
  const Result bare = run({"train"});
  EXPECT_EQ(bare.exit_code, 2);
  EXPECT_EQ(bare.err, expect_success({"train", "--help"}));
}

// Both spellings are known: what is wrong is then the value.
TEST_F(TrainOptions, NumbersHaveToBeNumbers) {
  const Words numbers{"resolution",
                      "train_batch_size",
                      "max_train_steps",
                      "gradient_accumulation_steps",
                      "learning_rate",
                      "adam_weight_decay",
                      "adam_epsilon",
                      "flow_shift",
                      "lr_warmup_steps",
                      "encoder_hidden_size",
                      "mlp_ratio",
                      "validation_class_label",
                      "checkpoints_total_limit",
                      "ema_decay",
                      "seed",
                      "threads",
                      "lr_final",
                      "lr_decay_end_steps",
                      "restore_lr_factor"};
  for (const std::string& name : numbers)
    for (const std::string& flag : {"--" + dashed(name), "--" + name})
      expect_failure({"train", "stage2", flag, "many"}, 2, {"--" + dashed(name) + ": must be a", "(found 'many')"});
}

TEST_F(TrainOptions, WrongValues) {
  struct Case {
    const char *flag, *value, *part;
  };
  for (const Case& c : std::vector<Case>{
           {"--train-batch-size", "0", "--train-batch-size: the value is out of range (found 0, expected 1 or more)"},
           {"--max_train_steps", "0", "--max-train-steps: the value is out of range"},
           {"--learning-rate", "-1", "--learning-rate: the value is out of range (found -1, expected above 0)"},
           {"--class-dropout-prob", "2", "--class-dropout-prob: the value is out of range"},
           {"--adam-beta2", "1", "--adam-beta2: the value is out of range"},
           {"--seed", "-3", "--seed: must be 0 or more (found -3)"},
           {"--train-batch-size", "1.5", "--train-batch-size: must be a whole number (found '1.5')"},
           {"--mixed-precision", "fp16",
            "--mixed-precision: no such choice (found 'fp16', expected no or bf16); use bf16"},
           {"--report-to", "wandb", "--report-to: no such choice (found 'wandb', expected tensorboard or none)"},
           {"--lr-scheduler", "consine", "did you mean 'cosine'"},
           {"--weighting-scheme", "mod", "--weighting-scheme"},
           {"--time-distribution", "normal", "--time-distribution"},
           {"--device", "gpu", "--device: must be cpu, cuda or cuda:N (found 'gpu')"},
           {"--cache-latents", "cache", "--cache-latents cannot keep random crops"},
           {"--validation-steps", "5", "--validation-steps needs --validation-class-label"},
           {"--validation-class-label", "5", "--validation-class-label needs --validation-steps"},
           {"--lr-final", "1e-5", "upstream-linear and upstream-cosine"},
           {"--encoder-hidden-size", "1150", "a multiple of --encoder-num-attention-heads, which is 16"},
           {"--global-batch-size", "0", "--global-batch-size"}})
    expect_failure(train_words({c.flag, c.value}), 2, {c.part});
  expect_failure(train_words({"--center-crop", "--adm_crop"}), 2, {"--center-crop and --adm-crop exclude each other"});
  expect_failure(train_words({"--global-batch-size", "9", "--gradient-accumulation-steps", "2"}), 2,
                 {"--global-batch-size", "found 9", "a multiple of 2"});
  expect_failure(train_words({"--zero1=3"}), 2, {"zero1 was given a disallowed flag override"});
}

TEST_F(TrainOptions, WhatIsMissingOrMisspelt) {
  expect_failure({"train", "stage2"}, 2, {"--train-data-dir: is required"});
  expect_failure({"train", "stage2", "--train-data-dir", "d"}, 2, {"--pretrained-rae-model-name-or-path: is required"});
  expect_failure(train_words({"--learning-rat", "1"}), 2,
                 {"unknown option '--learning-rat' of 'raedit train stage2'", "did you mean '--learning-rate'?"});
  expect_failure(train_words({"--learning_rat", "1"}), 2, {"did you mean '--learning_rate'?"});
  expect_failure(train_words({"--no-use-swigl"}), 2, {"did you mean '--no-use-swiglu'"});
  expect_failure(train_words({"--weight-decay", "0"}), 2, {"unknown option '--weight-decay'"});
  expect_failure(train_words({"--epsilon", "0"}), 2, {"unknown option '--epsilon'"});
  expect_failure(train_words({"--no-zero1"}), 2, {"unknown option '--no-zero1'"});
  expect_failure({"train", "stage1"}, 2, {"unknown command 'stage1' of 'raedit train'", "'stage2'"});
}

// With flags that are all fine, the data is what is missing.
TEST_F(TrainOptions, PairsOfFlagsAreTheScripts) {
  for (const char* name : {"use_swiglu", "use_rope", "use_rmsnorm", "use_pos_embed"})
    for (const std::string& flag : {"--" + dashed(name), "--no-" + dashed(name), std::string("--") + name,
                                    std::string("--no-") + name, std::string("--no_") + name}) {
      const Result result = run(train_words({flag}));
      EXPECT_FALSE(holds(result.err, "unknown option")) << result.err;
      EXPECT_TRUE(holds(result.err, "nothing") || holds(result.err, "nowhere")) << result.err;
    }
}

TEST_F(TrainOptions, ConfigFiles) {
  spit(path("run.yaml"), "train-data-dir: nowhere\npretrained_rae_model_name_or_path: nothing\nlearning_rate: -1\n");
  expect_failure({"train", "stage2", "--config", "run.yaml"}, 2, {"--learning-rate", "found -1"});
  // The command line goes before.
  const Result result = run({"train", "stage2", "--config", "run.yaml", "--learning-rate", "1e-4"});
  EXPECT_FALSE(holds(result.err, "--learning-rate")) << result.err;
  EXPECT_TRUE(holds(result.err, "nothing") || holds(result.err, "nowhere")) << result.err;
  expect_failure({"train", "stage2", "--config", "run.yaml", "--learning-rate", "-2"}, 2, {"found -2"});
  spit(path("run.json"), R"({"train_data_dir": "nowhere", "use-swiglu": "yes"})");
  expect_failure({"train", "stage2", "--config", "run.json"}, 1,
                 {"run.json: 'use_swiglu' is wrong (found string \"yes\", expected true or false)"});
  spit(path("run.json"), R"({"train_datadir": "nowhere"})");
  expect_failure({"train", "stage2", "--config", "run.json"}, 1,
                 {"run.json: unknown key 'train_datadir'; did you mean 'train_data_dir'?"});
  spit(path("run.json"), "{");
  expect_failure({"train", "stage2", "--config", "run.json"}, 1, {"run.json"});
  expect_failure({"train", "stage2", "--config", "none.yaml"}, 1, {"none.yaml"});
}

std::string upstream_yaml(const std::string& path_type, const std::string& ckpt) {
  return "stage_1:\n  params: {encoder_cls: SigLIP2wNorm, encoder_config_path: google/siglip2-base-patch16-256,\n"
         "    pretrained_decoder_path: models/d.pt}\n"
         "stage_2:\n  target: stage2.models.DDT.DiTwDDTHead\n" +
         ckpt +
         "  params: {input_size: 4, in_channels: 8, hidden_size: [32, 64], depth: [2, 1], num_heads: [4, 4]}\n"
         "transport: {params: {path_type: " +
         path_type +
         ", prediction: velocity, time_dist_type: logit-normal_0_1}}\n"
         "misc: {latent_size: [8, 4, 4], num_classes: 4, time_dist_shift_base: 64}\n"
         "eval: {eval_interval: 1}\n"
         "training: {epochs: 2, global_batch_size: 6, optimizer: {lr: 1.0e-3}}\n";
}

TEST_F(TrainOptions, UpstreamsYaml) {
  const Words words{"train", "stage2", "--config", "up.yaml", "--train-data-dir", "nowhere"};
  const Words with_vae = words + Words{"--pretrained-rae-model-name-or-path", "nothing"};
  spit(path("up.yaml"), upstream_yaml("Linear", ""));
  expect_failure(words, 2,
                 {"--pretrained-rae-model-name-or-path: up.yaml: stage_1", "raedit convert rae",
                  "--encoder_type siglip2 --encoder_name_or_path google/siglip2-base-patch16-256 "
                  "--decoder_checkpoint models/d.pt"});
  expect_failure(with_vae + Words{"--gradient-accumulation-steps", "4"}, 2, {"--global-batch-size", "found 6"});
  const Result result = run(with_vae);
  EXPECT_TRUE(holds(result.err, "note: up.yaml: nothing here goes by eval")) << result.err;
  EXPECT_TRUE(holds(result.err, "note: training.sample_every 2500: name classes with --validation-class-label"));
  EXPECT_TRUE(holds(result.err, "raedit: error: "));
  spit(path("up.yaml"), upstream_yaml("Linear", "  ckpt: models/DiTs/m.pt\n"));
  expect_failure(with_vae, 2,
                 {"--pretrained-transformer-model-name-or-path: up.yaml: stage_2.ckpt", "raedit convert stage2"});
  spit(path("up.yaml"), upstream_yaml("GVP", ""));
  expect_failure(with_vae, 1, {"up.yaml: transport.params.path_type", "found GVP"});
  spit(path("up.yaml"), "training: {epochs: 2}\n");
  expect_failure(with_vae, 1, {"up.yaml: stage_2", "the section is missing"});
}

TEST_F(TrainOptions, Notes) {
  const Result result = run(train_words({"--allow_tf32"}));
  EXPECT_TRUE(holds(result.err, "note: --allow-tf32 changes nothing: float32 products stay float32")) << result.err;
  EXPECT_FALSE(holds(run(train_words({"--allow-tf32", "--quiet"})).err, "note"));
}

}  // namespace
}  // namespace raedit::cli_test
