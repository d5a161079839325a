// Everything that can be said about a training run of the diffusion transformer. Names and defaults are those of the
// flags of diffusers' trainer (examples of pull request 13231, train_rae_dit.py); what it does not have is marked.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace raedit::train {

struct Stage2Options {
  // ---- data
  std::string train_data_dir;                    // a folder of class folders, or tar shards (data/picture_set.h)
  std::vector<std::string> more_train_data_dir;  // ours: further ones; a set that is there twice counts twice
  std::vector<std::string> classes;              // ours: of the data, these alone; none: all
  std::optional<int64_t> resolution;             // of the pictures; default: the autoencoder's input size
  bool center_crop = false;                      // or else a random one
  bool adm_crop = false;                         // ours: upstream's centre crop
  bool random_flip = false;
  int64_t dataloader_num_workers = 4;
  bool skip_broken = false;  // ours
  // ours: which ids the data's classes have. "by-order": as they are sorted, as in the PR. "by-name": those that the
  // pretrained transformer's model_index.json gives their names; new names are new classes behind its own. "": by-name
  // where there are names.
  std::string class_ids;
  std::string cache_latents;  // ours: folder of a latent cache, made if it is not there; "": pictures are encoded anew

  // ---- models
  std::string pretrained_rae_model_name_or_path;          // the autoencoder: vae/ or a folder that has one
  std::string pretrained_transformer_model_name_or_path;  // to go on from; "": random weights of the shape below
  int64_t patch_size = 1;
  std::array<int64_t, 2> hidden_size = {1152, 2048};  // encoder_hidden_size, decoder_hidden_size
  std::array<int64_t, 2> num_layers = {28, 2};        // encoder_num_layers, decoder_num_layers
  std::array<int64_t, 2> num_attention_heads = {16, 16};
  double mlp_ratio = 4.0;
  double class_dropout_prob = 0.1;
  std::optional<int64_t> num_classes;  // default: the data's
  bool use_qknorm = false, use_swiglu = true, use_rope = true, use_rmsnorm = true, use_pos_embed = true;
  bool wo_shift = false;

  // ---- objective
  int64_t num_train_timesteps = 1000;
  std::optional<double> flow_shift;  // default: sqrt(latent elements / time_shift_base)
  double time_shift_base = 4096;
  std::string weighting_scheme = "none";
  double logit_mean = 0.0, logit_std = 1.0, mode_scale = 1.29;
  // ours: "table" is the PR's lookup; "uniform" and "logit-normal_MU_SIGMA" are upstream's continuous times
  std::string time_distribution = "table";

  // ---- steps
  int64_t train_batch_size = 4;  // of one rank, of one micro-batch
  // ours: pictures of one step, of all ranks and micro-batches; wins over train_batch_size (share_out_batch)
  std::optional<int64_t> global_batch_size;
  int64_t gradient_accumulation_steps = 1;
  int64_t num_train_epochs = 10;
  std::optional<int64_t> max_train_steps;  // wins over epochs
  bool gradient_checkpointing = false;
  std::string mixed_precision = "no";  // or bf16; fp16 is refused
  std::optional<uint64_t> seed;        // default: drawn, printed and kept in checkpoints

  // ---- optimizer
  double learning_rate = 1e-4;
  bool scale_lr = false;  // times accumulation, batch size and ranks
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_weight_decay = 1e-2, adam_epsilon = 1e-8;
  bool decay_matrices_only = false;  // ours: biases, norms and tables do not decay
  double max_grad_norm = 1.0;        // 0: no clipping
  // constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial, piecewise_constant; ours:
  // upstream-linear, upstream-cosine
  std::string lr_scheduler = "cosine";
  int64_t lr_warmup_steps = 500;
  double lr_num_cycles = 1.0, lr_power = 1.0;
  std::string lr_step_rules;                  // piecewise_constant: "1:10,0.1:20,0.01"
  std::optional<double> lr_final;             // upstream-*: default learning_rate
  std::optional<int64_t> lr_decay_end_steps;  // upstream-*: default the last step
  bool lr_warmup_from_zero = false;           // upstream-*
  // Upstream's YAML counts these in epochs; they win over the counts in steps.
  std::optional<double> lr_warmup_epochs, lr_decay_end_epochs;
  std::optional<double> ema_decay;  // ours: none without it
  bool ema_warmup = false;          // ours: min(decay, (1 + step) / (10 + step))

  // ---- output
  std::string output_dir = "rae-dit";
  std::string logging_dir = "logs";       // below output_dir
  std::string report_to = "tensorboard";  // or none; metrics.jsonl is always written
  int64_t logging_steps = 10;             // ours
  int64_t checkpointing_steps = 1000;
  std::optional<double> checkpointing_epochs;  // ours, as upstream's YAML counts; wins over the count in steps
  std::optional<int64_t> checkpoints_total_limit;
  std::string resume_from_checkpoint;  // a folder, or "latest"; "": a new run

  // ---- validation
  std::optional<int64_t> validation_steps;
  std::vector<int64_t> validation_class_label;  // the PR takes one
  int64_t num_validation_images = 1;            // of each class
  int64_t validation_num_inference_steps = 25;
  double validation_guidance_scale = 1.0;

  // ---- guard (ours): steps whose loss or gradient is not finite are skipped
  int64_t max_bad_steps = 5;       // so many in a row: back to the last good checkpoint
  int64_t max_restores = 2;        // so often, then the run stops with an error
  double restore_lr_factor = 0.5;  // of the learning rate after each

  // ---- machine (ours)
  std::string device = "cpu";
  int64_t threads = 0;  // 0: as many as the process may use
  bool zero1 = false;   // optimizer moments shared out among the ranks
  bool dry_run = false;

  // Throws Error(invalid_argument) for values that are out of range or exclude each other, named as flags ("--...").
  void check() const;
};

}  // namespace raedit::train
