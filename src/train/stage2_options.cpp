// What the options of a training run may be, each alone and with the others.
#include "train/stage2_options.h"

#include <fmt/format.h>

#include <cmath>

#include "core/check.h"
#include "core/text.h"
#include "diffusion/loss_weighting.h"
#include "diffusion/time_sampling.h"
#include "raedit/context.h"
#include "train/lr_schedule.h"

namespace raedit::train {
namespace {

constexpr double kPolynomialEnd = 1e-7;  // LrSchedule::lr_end
constexpr int64_t kMostThreads = 4096;

void require(bool fine, const char* flag, std::string found, std::string expected) {
  RAEDIT_CHECK(fine, {.code = ErrorCode::invalid_argument,
                      .what = "the value is out of range",
                      .where = flag,
                      .found = std::move(found),
                      .expected = std::move(expected)});
}

void at_least(const char* flag, int64_t value, int64_t least) {
  require(value >= least, flag, fmt::to_string(value), fmt::format("{} or more", least));
}
void at_least(const char* flag, const std::optional<int64_t>& value, int64_t least) {
  if (value) at_least(flag, *value, least);
}
void at_least(const char* flag, double value, double least) {
  require(std::isfinite(value) && value >= least, flag, fmt::to_string(value), fmt::format("{} or more", least));
}
void at_least(const char* flag, const std::optional<double>& value, double least) {
  if (value) at_least(flag, *value, least);
}
void above_zero(const char* flag, double value) {
  require(std::isfinite(value) && value > 0, flag, fmt::to_string(value), "above 0");
}
void above_zero(const char* flag, const std::optional<double>& value) {
  if (value) above_zero(flag, *value);
}
// [0, 1)
void below_one(const char* flag, double value) {
  require(value >= 0 && value < 1, flag, fmt::to_string(value), "0 or more, and below 1");
}

void given(const char* flag, const std::string& value, const char* what) {
  RAEDIT_CHECK(!value.empty(),
               {.code = ErrorCode::invalid_argument, .what = "is required", .where = flag, .expected = what});
}

void one_of(const char* flag, const std::string& value, const std::vector<std::string>& words, std::string hint = "") {
  for (const std::string& word : words)
    if (word == value) return;
  if (hint.empty()) hint = did_you_mean(value, words);
  raise({.code = ErrorCode::invalid_argument,
         .what = "no such choice",
         .where = flag,
         .found = "'" + value + "'",
         .expected = join(words, " or "),
         .hint = std::move(hint)});
}

void exclude(bool both, const char* what, const char* hint) {
  RAEDIT_CHECK(!both, {.code = ErrorCode::invalid_argument, .what = what, .hint = hint});
}

// What `parse` finds wrong, told of the flag.
template <class F>
void parsed(const char* flag, F&& parse) {
  try {
    parse();
  } catch (const Error& error) {
    ErrorInfo info = error.info();
    info.code = ErrorCode::invalid_argument;
    info.where = flag;
    throw Error(std::move(info));
  }
}

void check_data(const Stage2Options& o) {
  given("--train-data-dir", o.train_data_dir, "a folder of class folders, or tar shards");
  at_least("--resolution", o.resolution, 1);
  at_least("--dataloader-num-workers", o.dataloader_num_workers, 0);
  exclude(o.center_crop && o.adm_crop, "--center-crop and --adm-crop exclude each other",
          "both say which part of a picture is taken");
  exclude(!o.cache_latents.empty() && !o.center_crop && !o.adm_crop, "--cache-latents cannot keep random crops",
          "add --center-crop or --adm-crop");
  if (!o.class_ids.empty()) one_of("--class-ids", o.class_ids, {"by-order", "by-name"});
}

void check_shape(const Stage2Options& o) {
  at_least("--patch-size", o.patch_size, 1);
  const char* const flags[2][3] = {{"--encoder-hidden-size", "--encoder-num-layers", "--encoder-num-attention-heads"},
                                   {"--decoder-hidden-size", "--decoder-num-layers", "--decoder-num-attention-heads"}};
  for (size_t i = 0; i < 2; ++i) {
    at_least(flags[i][0], o.hidden_size[i], 1);
    at_least(flags[i][1], o.num_layers[i], 1);
    at_least(flags[i][2], o.num_attention_heads[i], 1);
    require(o.hidden_size[i] % o.num_attention_heads[i] == 0, flags[i][0], fmt::to_string(o.hidden_size[i]),
            fmt::format("a multiple of {}, which is {}", flags[i][2], o.num_attention_heads[i]));
  }
  above_zero("--mlp-ratio", o.mlp_ratio);
  require(o.class_dropout_prob >= 0 && o.class_dropout_prob <= 1, "--class-dropout-prob",
          fmt::to_string(o.class_dropout_prob), "from 0 to 1");
  at_least("--num-classes", o.num_classes, 1);
}

void check_models(const Stage2Options& o) {
  given("--pretrained-rae-model-name-or-path", o.pretrained_rae_model_name_or_path,
        "the autoencoder, a folder or a name");
  if (o.pretrained_transformer_model_name_or_path.empty()) check_shape(o);
}

void check_objective(const Stage2Options& o) {
  at_least("--num-train-timesteps", o.num_train_timesteps, 1);
  above_zero("--flow-shift", o.flow_shift);
  above_zero("--time-shift-base", o.time_shift_base);
  parsed("--weighting-scheme", [&] { diffusion::weighting_scheme_from_name(o.weighting_scheme); });
  require(std::isfinite(o.logit_mean), "--logit-mean", fmt::to_string(o.logit_mean), "a finite number");
  at_least("--logit-std", o.logit_std, 0.0);
  require(std::isfinite(o.mode_scale), "--mode-scale", fmt::to_string(o.mode_scale), "a finite number");
  if (o.time_distribution == "table") return;
  parsed("--time-distribution", [&] {
    try {
      (void)diffusion::TimeDistribution::parse(o.time_distribution, 1);
    } catch (const Error& error) {
      ErrorInfo info = error.info();
      info.hint = "\"table\" is the lookup of diffusers' trainer";
      throw Error(std::move(info));
    }
  });
  exclude(o.weighting_scheme == "logit_normal" || o.weighting_scheme == "mode",
          "--time-distribution and --weighting-scheme both say which times are drawn",
          "sigma_sqrt, cosmap and none go with every distribution");
  if (o.flow_shift)
    require(*o.flow_shift >= 1, "--flow-shift", fmt::to_string(*o.flow_shift),
            "1 or more, as --time-distribution is not table");
}

void check_steps(const Stage2Options& o) {
  at_least("--train-batch-size", o.train_batch_size, 1);
  at_least("--global-batch-size", o.global_batch_size, 1);
  at_least("--gradient-accumulation-steps", o.gradient_accumulation_steps, 1);
  at_least("--num-train-epochs", o.num_train_epochs, 1);
  at_least("--max-train-steps", o.max_train_steps, 1);
  one_of("--mixed-precision", o.mixed_precision, {"no", "bf16"},
         o.mixed_precision == "fp16" ? "use bf16: it has the range of float32 and needs no loss scaling" : "");
}

void check_schedule(const Stage2Options& o) {
  one_of("--lr-scheduler", o.lr_scheduler,
         {"constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial",
          "piecewise_constant", "upstream-linear", "upstream-cosine"});
  at_least("--lr-warmup-steps", o.lr_warmup_steps, 0);
  above_zero("--lr-num-cycles", o.lr_num_cycles);
  above_zero("--lr-power", o.lr_power);
  if (o.lr_scheduler == "polynomial")
    require(o.learning_rate > kPolynomialEnd, "--learning-rate", fmt::to_string(o.learning_rate),
            "more than 1e-07, where --lr-scheduler polynomial ends");
  if (o.lr_scheduler == "piecewise_constant") {
    given("--lr-step-rules", o.lr_step_rules, "rules for piecewise_constant, such as 1:10,0.1:20,0.01");
    parsed("--lr-step-rules", [&] { (void)PiecewiseConstantLr::parse(o.lr_step_rules, o.learning_rate); });
  }
  exclude(o.lr_scheduler != "piecewise_constant" && !o.lr_step_rules.empty(),
          "--lr-step-rules are for --lr-scheduler piecewise_constant alone", "leave one of them out");
  at_least("--lr-final", o.lr_final, 0.0);
  at_least("--lr-decay-end-steps", o.lr_decay_end_steps, 0);
  at_least("--lr-warmup-epochs", o.lr_warmup_epochs, 0.0);
  at_least("--lr-decay-end-epochs", o.lr_decay_end_epochs, 0.0);
  exclude(!o.lr_scheduler.starts_with("upstream-") &&
              (o.lr_final || o.lr_decay_end_steps || o.lr_decay_end_epochs || o.lr_warmup_from_zero),
          "--lr-final, --lr-decay-end-steps, --lr-decay-end-epochs and --lr-warmup-from-zero are for --lr-scheduler "
          "upstream-linear and upstream-cosine alone",
          "leave them out, or choose one of these");
}

void check_optimizer(const Stage2Options& o) {
  above_zero("--learning-rate", o.learning_rate);
  below_one("--adam-beta1", o.adam_beta1);
  below_one("--adam-beta2", o.adam_beta2);
  at_least("--adam-weight-decay", o.adam_weight_decay, 0.0);
  at_least("--adam-epsilon", o.adam_epsilon, 0.0);
  at_least("--max-grad-norm", o.max_grad_norm, 0.0);
  check_schedule(o);
  if (o.ema_decay) below_one("--ema-decay", *o.ema_decay);
  exclude(o.ema_warmup && !o.ema_decay, "--ema-warmup needs --ema-decay", "without a decay there are no averages");
}

void check_output(const Stage2Options& o) {
  given("--output-dir", o.output_dir, "a folder");
  given("--logging-dir", o.logging_dir, "a folder below --output-dir");
  one_of("--report-to", o.report_to, {"tensorboard", "none"},
         o.report_to == "wandb" ? "metrics.jsonl is always written, for other tools" : "");
  at_least("--logging-steps", o.logging_steps, 1);
  at_least("--checkpointing-steps", o.checkpointing_steps, 1);
  above_zero("--checkpointing-epochs", o.checkpointing_epochs);
  at_least("--checkpoints-total-limit", o.checkpoints_total_limit, 1);
}

void check_validation(const Stage2Options& o) {
  exclude(o.validation_steps && o.validation_class_label.empty(), "--validation-steps needs --validation-class-label",
          "which classes are to be drawn?");
  exclude(!o.validation_steps && !o.validation_class_label.empty(), "--validation-class-label needs --validation-steps",
          "after how many steps each?");
  at_least("--validation-steps", o.validation_steps, 1);
  for (const int64_t label : o.validation_class_label) at_least("--validation-class-label", label, 0);
  at_least("--num-validation-images", o.num_validation_images, 1);
  at_least("--validation-num-inference-steps", o.validation_num_inference_steps, 1);
  at_least("--validation-guidance-scale", o.validation_guidance_scale, 1.0);
}

void check_guard_and_machine(const Stage2Options& o) {
  at_least("--max-bad-steps", o.max_bad_steps, 1);
  at_least("--max-restores", o.max_restores, 0);
  require(o.restore_lr_factor > 0 && o.restore_lr_factor <= 1, "--restore-lr-factor",
          fmt::to_string(o.restore_lr_factor), "above 0, up to 1");
  parsed("--device", [&] { (void)Device::from_name(o.device); });
  require(o.threads >= 0 && o.threads <= kMostThreads, "--threads", fmt::to_string(o.threads),
          fmt::format("from 0 to {}", kMostThreads));
}

}  // namespace

void Stage2Options::check() const {
  check_data(*this);
  check_models(*this);
  check_objective(*this);
  check_steps(*this);
  check_optimizer(*this);
  check_output(*this);
  check_validation(*this);
  check_guard_and_machine(*this);
}

}  // namespace raedit::train
