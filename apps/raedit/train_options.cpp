#include "train_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "convert/upstream_config.h"
#include "core/check.h"
#include "core/text.h"
#include "io/files.h"
#include "io/yaml.h"
#include "train/stage2_config.h"
#include "values.h"

namespace raedit::cli {
namespace {

struct Help {
  const char* name;  // as in named_options()
  const char* type;
  const char* text;
};

// A group of options in --help. {} stands for the default.
struct HelpGroup {
  const char* title;
  std::vector<Help> options;
};

const std::vector<HelpGroup>& help_groups() {
  static const std::vector<HelpGroup> groups{
      {"Data",
       {{"train_data_dir", "DIR", "pictures in class folders, or tar shards (required)"},
        {"more_train_data_dir", "DIR", "further data, as often as you like; what is there twice counts twice"},
        {"classes", "NAME", "these classes of the data alone, as often as you like (default: all)"},
        {"resolution", "N", "pixels along an edge of a picture (default: what the autoencoder gives)"},
        {"center_crop", "", "take the middle of each picture instead of a random part"},
        {"adm_crop", "", "take the middle as upstream does: halved, then bicubic"},
        {"random_flip", "", "mirror every other picture"},
        {"dataloader_num_workers", "N", "threads that read pictures; 0 is none of their own (default {})"},
        {"skip_broken", "", "go on without pictures that cannot be read, and count them"},
        {"class_ids", "HOW",
         "by-order: as the folders are sorted; by-name: as the pretrained transformer\ncalls them (default: by-name "
         "where it has names)"},
        {"cache_latents", "DIR", "encode every picture once and keep the latents there"}}},
      {"Models",
       {{"pretrained_rae_model_name_or_path", "DIR|NAME", "the autoencoder (required)"},
        {"pretrained_transformer_model_name_or_path", "DIR|NAME",
         "to go on from, instead of random weights of this shape:"},
        {"patch_size", "N", "latents along an edge of a token (default {})"},
        {"encoder_hidden_size", "N", "(default {})"},
        {"decoder_hidden_size", "N", "(default {})"},
        {"encoder_num_layers", "N", "(default {})"},
        {"decoder_num_layers", "N", "(default {})"},
        {"encoder_num_attention_heads", "N", "(default {})"},
        {"decoder_num_attention_heads", "N", "(default {})"},
        {"mlp_ratio", "X", "(default {})"},
        {"class_dropout_prob", "P", "how often a picture loses its class, for guidance (default {})"},
        {"num_classes", "N", "(default: as many as the data has)"},
        {"use_qknorm", "", "norms on queries and keys"},
        {"use_swiglu", "", "SwiGLU in the MLPs (default); or else --no-use-swiglu"},
        {"use_rope", "", "rotary positions (default); or else --no-use-rope"},
        {"use_rmsnorm", "", "RMS norms (default); or else --no-use-rmsnorm"},
        {"use_pos_embed", "", "sine positions (default); or else --no-use-pos-embed"},
        {"wo_shift", "", "adaptive norms without shift"}}},
      {"Objective",
       {{"num_train_timesteps", "N", "(default {})"},
        {"flow_shift", "X", "towards noise (default: sqrt(latent elements / --time-shift-base))"},
        {"time_shift_base", "X", "(default {})"},
        {"weighting_scheme", "NAME", "sigma_sqrt, logit_normal, mode, cosmap or none (default {})"},
        {"logit_mean", "X", "of logit_normal (default {})"},
        {"logit_std", "X", "of logit_normal (default {})"},
        {"mode_scale", "X", "of mode (default {})"},
        {"time_distribution", "NAME",
         "table: a place in the scheduler's table; or upstream's continuous uniform\nor logit-normal_MU_SIGMA (default "
         "{})"}}},
      {"Steps",
       {{"train_batch_size", "N", "pictures of one micro-batch of one rank (default {})"},
        {"global_batch_size", "N", "pictures of one step, of all ranks and micro-batches, instead"},
        {"gradient_accumulation_steps", "N", "micro-batches of a step (default {})"},
        {"num_train_epochs", "N", "(default {})"},
        {"max_train_steps", "N", "goes before --num-train-epochs"},
        {"gradient_checkpointing", "", "less memory, more time: blocks run again for their gradients"},
        {"mixed_precision", "TYPE", "no or bf16 (default {})"},
        {"seed", "N", "of everything that is drawn (default: drawn, and told)"}}},
      {"Optimizer",
       {{"learning_rate", "X", "(default {})"},
        {"scale_lr", "", "times ranks, accumulation and batch size"},
        {"adam_beta1", "X", "(default {})"},
        {"adam_beta2", "X", "(default {})"},
        {"adam_weight_decay", "X", "(default {})"},
        {"adam_epsilon", "X", "(default {})"},
        {"decay_matrices_only", "", "no decay of biases, norms and tables"},
        {"max_grad_norm", "X", "longer gradients are cut to this; 0 is no limit (default {})"},
        {"lr_scheduler", "NAME",
         "constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial,\npiecewise_constant; "
         "upstream-linear, upstream-cosine (default {})"},
        {"lr_warmup_steps", "N", "(default {})"},
        {"lr_warmup_epochs", "X", "instead, in epochs"},
        {"lr_num_cycles", "X", "of cosine_with_restarts (default {})"},
        {"lr_power", "X", "of polynomial (default {})"},
        {"lr_step_rules", "RULES", "of piecewise_constant: 1:10,0.1:20,0.01"},
        {"lr_final", "X", "where upstream-* end (default: --learning-rate)"},
        {"lr_decay_end_steps", "N", "when upstream-* end (default: the last step)"},
        {"lr_decay_end_epochs", "X", "instead, in epochs"},
        {"lr_warmup_from_zero", "", "upstream-* grow during warm-up instead of staying at the rate"},
        {"ema_decay", "X", "keep moving averages of the weights, and give those in the end"},
        {"ema_warmup", "", "a decay of (1 + step) / (10 + step) where that is less"}}},
      {"Output",
       {{"output_dir", "DIR", "(default {})"},
        {"logging_dir", "DIR", "below --output-dir (default {})"},
        {"report_to", "NAME", "tensorboard or none; metrics.jsonl is always there (default {})"},
        {"logging_steps", "N", "steps from report to report (default {})"},
        {"checkpointing_steps", "N", "steps from checkpoint to checkpoint (default {})"},
        {"checkpointing_epochs", "X", "instead, in epochs"},
        {"checkpoints_total_limit", "N", "older ones than the last N are removed"},
        {"resume_from_checkpoint", "DIR|latest", "go on from there; short: --resume"}}},
      {"Validation",
       {{"validation_steps", "N", "draw pictures every N steps"},
        {"validation_class_label", "ID", "of this class; as often as you like"},
        {"num_validation_images", "N", "of each class (default {})"},
        {"validation_num_inference_steps", "N", "(default {})"},
        {"validation_guidance_scale", "X", "(default {})"}}},
      {"Guard and machine",
       {{"max_bad_steps", "N", "so many steps in a row that are not finite: back to the last checkpoint (default {})"},
        {"max_restores", "N", "so often, then the run stops (default {})"},
        {"restore_lr_factor", "X", "of the learning rate, after each (default {})"},
        {"device", "NAME", "cpu (default), cuda or cuda:N"},
        {"threads", "N", "threads to use; 0 is all (default {})"},
        {"zero1", "", "ranks share the optimizer's state out among them"},
        {"dry_run", "", "print what the run would be and need, and stop"}}},
  };
  return groups;
}

std::string dashed(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

// "--center-crop,--center_crop"; the first is the one that help shows.
std::string spellings(const std::string& name) {
  return dashed(name) == name ? "--" + name : "--" + dashed(name) + ",--" + name;
}

// argparse's BooleanOptionalAction says --no-use_swiglu.
std::string negations(const std::string& name) {
  return fmt::format(",!--no-{},!--no-{},!--no_{}", dashed(name), name, name);
}

template <class T>
CLI::Option* add_value(CLI::App& app, const std::string& names, T& value, const std::string& help) {
  CLI::Option* option = app.add_option(names, value, help);
  if constexpr (std::is_same_v<T, std::optional<uint64_t>>)
    option->check(whole_number(0));
  else if constexpr (std::is_same_v<T, double> || std::is_same_v<T, std::optional<double>>)
    option->check(number(-std::numeric_limits<double>::infinity()));
  else if constexpr (!std::is_same_v<T, std::string> && !std::is_same_v<T, std::vector<std::string>>)
    option->check(whole_number(std::numeric_limits<int64_t>::min()));
  if constexpr (std::is_same_v<T, std::vector<int64_t>> || std::is_same_v<T, std::vector<std::string>>)
    option->allow_extra_args(false);
  return option;
}

std::string help_text(const Help& help, const train::OptionPointer& value) {
  return std::visit(
      [&](const auto* v) -> std::string {
        using T = std::decay_t<decltype(*v)>;
        if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, double> || std::is_same_v<T, std::string>)
          return fmt::format(fmt::runtime(help.text), *v);
        else
          return help.text;
      },
      value);
}

void add_named(CLI::App& app, const Help& help, const train::OptionPointer& value, const char* group) {
  const std::string name = help.name, text = help_text(help, value);
  std::string names = spellings(name);
  if (name == "resume_from_checkpoint") names += ",--resume";
  CLI::Option* option = std::visit(
      [&](auto* v) -> CLI::Option* {
        if constexpr (std::is_same_v<decltype(v), bool*>)
          return app.add_flag(names + (*v ? negations(name) : ""), *v, text)->disable_flag_override();
        else
          return add_value(app, names, *v, text)->type_name(help.type);
      },
      value);
  option->group(group);
  if (name == "device") option->check(device_name());
}

Json read_config(const std::string& path) {
  if (path.ends_with(".json")) return parse_json(read_file(path), path);
  return read_yaml(path);
}

void require_converted(const std::string& path, const char* flag, const std::string& command,
                       const std::string& where) {
  RAEDIT_CHECK(!path.empty() || command.empty(),
               {.code = ErrorCode::invalid_argument,
                .what = fmt::format("{} names weights that have to be converted once", where),
                .where = flag,
                .hint = fmt::format("run '{}' and name the result", command)});
}

// Upstream's YAML, and what of it goes unused.
void take_upstream(const Json& yaml, const std::string& where, TrainRequest& request, train::UpstreamTraining& more) {
  const convert::UpstreamConfig config = convert::parse_upstream_config(yaml, where);
  RAEDIT_CHECK(config.stage_2.has_value(), {.code = ErrorCode::format,
                                            .what = "the section is missing",
                                            .where = where + ": stage_2",
                                            .hint = "upstream's training configs have it; flags go without sections"});
  train::UpstreamModels models;
  models.transformer = convert::transformer_config(*config.stage_2, config.misc);
  models.shift = convert::scheduler_config(config).shift;
  more = train::read_upstream_training(yaml, where, models, request.options);
  if (!more.unused.empty())
    request.notes.push_back(fmt::format("{}: nothing here goes by {}", where, join(more.unused)));
}

// Upstream draws classes of the batch; here they have to be named.
void settle_validation(TrainRequest& request, const std::vector<std::string>& given) {
  train::Stage2Options& o = request.options;
  const bool asked = std::find(given.begin(), given.end(), "validation_steps") != given.end();
  if (!o.validation_steps || !o.validation_class_label.empty() || asked) return;
  request.notes.push_back(
      fmt::format("training.sample_every {}: name classes with --validation-class-label, and they "
                  "are drawn that often",
                  *o.validation_steps));
  o.validation_steps.reset();
}

}  // namespace

void add_train_options(CLI::App& app, TrainOptions& o) {
  const std::vector<train::NamedOption> all = train::named_options(o.stage2);
  size_t helped = 0;
  for (const HelpGroup& group : help_groups())
    for (const Help& help : group.options)
      for (const train::NamedOption& option : all)
        if (std::string(option.name) == help.name) {
          add_named(app, help, option.value, group.title);
          ++helped;
        }
  RAEDIT_CHECK(helped == all.size(), {.code = ErrorCode::internal, .what = "an option of training without help"});
  app.add_option("--config", o.config,
                 "YAML or JSON with names of these options, or upstream's training YAML; the command line goes before")
      ->type_name("FILE");
  add_hub_options(app, o.hub);
  add_switch(app, "--allow-tf32,--allow_tf32", o.allow_tf32,
             "accepted for the script's sake: float32 products stay float32");
  add_switch(app, "--json", o.json, "print one JSON object with the result in the end");
  add_switch(app, "--quiet", o.quiet, "no progress on stderr");
}

std::vector<std::string> given_train_options(const CLI::App& app) {
  std::vector<std::string> given;
  for (const HelpGroup& group : help_groups())
    for (const Help& help : group.options)
      if (app.count("--" + dashed(help.name)) > 0) given.emplace_back(help.name);
  return given;
}

TrainRequest make_train_request(const TrainOptions& o, const std::vector<std::string>& given) {
  TrainRequest request;
  train::UpstreamTraining upstream;
  bool is_upstream = false;
  bool allow_tf32 = o.allow_tf32;
  if (!o.config.empty()) {
    Json config = read_config(o.config);
    is_upstream = train::is_upstream_training(config);
    for (const char* name : {"allow_tf32", "allow-tf32"})  // says nothing about the run
      if (config.is_object() && config.contains(name) && config[name].is_boolean()) {
        allow_tf32 = allow_tf32 || config[name].get<bool>();
        config.erase(name);
      }
    if (is_upstream)
      take_upstream(config, o.config, request, upstream);
    else
      train::read_options(config, o.config, request.options);
  }
  train::take_options(request.options, o.stage2, given);
  if (is_upstream) settle_validation(request, given);
  if (allow_tf32) request.notes.emplace_back("--allow-tf32 changes nothing: float32 products stay float32");
  const train::Stage2Options& result = request.options;
  require_converted(result.pretrained_rae_model_name_or_path, "--pretrained-rae-model-name-or-path",
                    upstream.convert_autoencoder, o.config + ": stage_1");
  require_converted(result.pretrained_transformer_model_name_or_path, "--pretrained-transformer-model-name-or-path",
                    upstream.convert_transformer, o.config + ": stage_2.ckpt");
  result.check();
  return request;
}

}  // namespace raedit::cli
