#include "train/stage2_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

#include "core/check.h"

namespace raedit::train {
namespace {

template <class T>
constexpr bool kIsOptional = false;
template <class T>
constexpr bool kIsOptional<std::optional<T>> = true;

std::vector<int64_t> read_integers(JsonReader& reader, const char* name) {
  const Json& value = *reader.raw(name);
  if (!value.is_array()) return {reader.int64(name)};
  std::vector<int64_t> integers;
  for (const Json& item : value) {
    const bool fits = item.is_number_integer() && !(item.is_number_unsigned() && item.get<uint64_t>() > INT64_MAX);
    if (!fits) reader.fail(name, "an integer or a list of integers");
    integers.push_back(item.get<int64_t>());
  }
  return integers;
}

std::vector<std::string> read_strings(JsonReader& reader, const char* name) {
  const Json& value = *reader.raw(name);
  if (!value.is_array()) return {reader.string(name)};
  std::vector<std::string> strings;
  for (const Json& item : value) {
    if (!item.is_string()) reader.fail(name, "a string or a list of strings");
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

uint64_t read_seed(JsonReader& reader, const char* name) {
  const int64_t value = reader.int64(name);
  if (value < 0) reader.fail(name, "0 or more");
  return static_cast<uint64_t>(value);
}

// null leaves what need not be set unset, and is a wrong value elsewhere.
template <class T>
void read_value(JsonReader& reader, const char* name, T& value) {
  if constexpr (kIsOptional<T>) {
    value = std::nullopt;
    if (reader.raw(name)->is_null()) return;
    if constexpr (std::is_same_v<T, std::optional<double>>) value = reader.number(name);
    if constexpr (std::is_same_v<T, std::optional<int64_t>>) value = reader.int64(name);
    if constexpr (std::is_same_v<T, std::optional<uint64_t>>) value = read_seed(reader, name);
  } else if constexpr (std::is_same_v<T, bool>) {
    value = reader.boolean(name);
  } else if constexpr (std::is_same_v<T, int64_t>) {
    value = reader.int64(name);
  } else if constexpr (std::is_same_v<T, double>) {
    value = reader.number(name);
  } else if constexpr (std::is_same_v<T, std::string>) {
    value = reader.string(name);
  } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    value = read_strings(reader, name);
  } else {
    value = read_integers(reader, name);
  }
}

// Python's names for all; "resume" is short for its flag.
std::string canonical(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name == "resume" ? "resume_from_checkpoint" : name;
}

Json with_canonical_names(const Json& config, const std::string& where) {
  RAEDIT_CHECK(config.is_object(), {.code = ErrorCode::format,
                                    .what = "not an object",
                                    .where = where,
                                    .found = config.type_name(),
                                    .expected = "names of flags with values"});
  Json named = Json::object();
  for (const auto& [key, value] : config.items()) {
    const std::string name = canonical(key);
    RAEDIT_CHECK(!named.contains(name), {.code = ErrorCode::format,
                                         .what = fmt::format("'{}' is there twice, in two spellings", name),
                                         .where = where});
    // YAML reads no as false.
    const bool yaml_no = name == "mixed_precision" && value.is_boolean() && !value.get<bool>();
    named[name] = yaml_no ? Json("no") : value;
  }
  return named;
}

void add_data_and_models(Stage2Options& o, std::vector<NamedOption>& all) {
  const std::vector<NamedOption> part{
      {"train_data_dir", &o.train_data_dir, OnResume::free},
      {"more_train_data_dir", &o.more_train_data_dir, OnResume::free},
      {"classes", &o.classes, OnResume::free},
      {"resolution", &o.resolution},
      {"center_crop", &o.center_crop},
      {"adm_crop", &o.adm_crop},
      {"random_flip", &o.random_flip},
      {"dataloader_num_workers", &o.dataloader_num_workers, OnResume::free},
      {"skip_broken", &o.skip_broken, OnResume::free},
      {"class_ids", &o.class_ids, OnResume::free},
      {"cache_latents", &o.cache_latents, OnResume::free},
      {"pretrained_rae_model_name_or_path", &o.pretrained_rae_model_name_or_path, OnResume::free},
      {"pretrained_transformer_model_name_or_path", &o.pretrained_transformer_model_name_or_path, OnResume::free},
      {"patch_size", &o.patch_size, OnResume::free},
      {"encoder_hidden_size", &o.hidden_size[0], OnResume::free},
      {"decoder_hidden_size", &o.hidden_size[1], OnResume::free},
      {"encoder_num_layers", &o.num_layers[0], OnResume::free},
      {"decoder_num_layers", &o.num_layers[1], OnResume::free},
      {"encoder_num_attention_heads", &o.num_attention_heads[0], OnResume::free},
      {"decoder_num_attention_heads", &o.num_attention_heads[1], OnResume::free},
      {"mlp_ratio", &o.mlp_ratio, OnResume::free},
      {"class_dropout_prob", &o.class_dropout_prob},
      {"num_classes", &o.num_classes, OnResume::free},
      {"use_qknorm", &o.use_qknorm, OnResume::free},
      {"use_swiglu", &o.use_swiglu, OnResume::free},
      {"use_rope", &o.use_rope, OnResume::free},
      {"use_rmsnorm", &o.use_rmsnorm, OnResume::free},
      {"use_pos_embed", &o.use_pos_embed, OnResume::free},
      {"wo_shift", &o.wo_shift, OnResume::free},
  };
  all.insert(all.end(), part.begin(), part.end());
}

void add_objective_and_steps(Stage2Options& o, std::vector<NamedOption>& all) {
  const std::vector<NamedOption> part{
      {"num_train_timesteps", &o.num_train_timesteps, OnResume::kept},
      {"flow_shift", &o.flow_shift, OnResume::kept},
      {"time_shift_base", &o.time_shift_base, OnResume::kept},
      {"weighting_scheme", &o.weighting_scheme},
      {"logit_mean", &o.logit_mean},
      {"logit_std", &o.logit_std},
      {"mode_scale", &o.mode_scale},
      {"time_distribution", &o.time_distribution},
      {"train_batch_size", &o.train_batch_size},
      {"global_batch_size", &o.global_batch_size},
      {"gradient_accumulation_steps", &o.gradient_accumulation_steps},
      {"num_train_epochs", &o.num_train_epochs},
      {"max_train_steps", &o.max_train_steps},
      {"gradient_checkpointing", &o.gradient_checkpointing, OnResume::free},
      {"mixed_precision", &o.mixed_precision},
      {"seed", &o.seed, OnResume::kept},
  };
  all.insert(all.end(), part.begin(), part.end());
}

void add_optimizer(Stage2Options& o, std::vector<NamedOption>& all) {
  const std::vector<NamedOption> part{
      {"learning_rate", &o.learning_rate},
      {"scale_lr", &o.scale_lr},
      {"adam_beta1", &o.adam_beta1},
      {"adam_beta2", &o.adam_beta2},
      {"adam_weight_decay", &o.adam_weight_decay},
      {"adam_epsilon", &o.adam_epsilon},
      {"decay_matrices_only", &o.decay_matrices_only},
      {"max_grad_norm", &o.max_grad_norm},
      {"lr_scheduler", &o.lr_scheduler},
      {"lr_warmup_steps", &o.lr_warmup_steps},
      {"lr_warmup_epochs", &o.lr_warmup_epochs},
      {"lr_num_cycles", &o.lr_num_cycles},
      {"lr_power", &o.lr_power},
      {"lr_step_rules", &o.lr_step_rules},
      {"lr_final", &o.lr_final},
      {"lr_decay_end_steps", &o.lr_decay_end_steps},
      {"lr_decay_end_epochs", &o.lr_decay_end_epochs},
      {"lr_warmup_from_zero", &o.lr_warmup_from_zero},
      {"ema_decay", &o.ema_decay},
      {"ema_warmup", &o.ema_warmup},
  };
  all.insert(all.end(), part.begin(), part.end());
}

void add_output_and_machine(Stage2Options& o, std::vector<NamedOption>& all) {
  const std::vector<NamedOption> part{
      {"output_dir", &o.output_dir, OnResume::free},
      {"logging_dir", &o.logging_dir, OnResume::free},
      {"report_to", &o.report_to, OnResume::free},
      {"logging_steps", &o.logging_steps, OnResume::free},
      {"checkpointing_steps", &o.checkpointing_steps, OnResume::free},
      {"checkpointing_epochs", &o.checkpointing_epochs, OnResume::free},
      {"checkpoints_total_limit", &o.checkpoints_total_limit, OnResume::free},
      {"resume_from_checkpoint", &o.resume_from_checkpoint, OnResume::free},
      {"validation_steps", &o.validation_steps, OnResume::free},
      {"validation_class_label", &o.validation_class_label, OnResume::free},
      {"num_validation_images", &o.num_validation_images, OnResume::free},
      {"validation_num_inference_steps", &o.validation_num_inference_steps, OnResume::free},
      {"validation_guidance_scale", &o.validation_guidance_scale, OnResume::free},
      {"max_bad_steps", &o.max_bad_steps},
      {"max_restores", &o.max_restores},
      {"restore_lr_factor", &o.restore_lr_factor},
      {"device", &o.device, OnResume::free},
      {"threads", &o.threads, OnResume::free},
      {"zero1", &o.zero1, OnResume::free},
      {"dry_run", &o.dry_run, OnResume::free},
  };
  all.insert(all.end(), part.begin(), part.end());
}

// What `name`, given by somebody who goes before, makes void.
void take_back_others(Stage2Options& o, const std::string& name, const Stage2Options& from) {
  if (name == "center_crop" && from.center_crop) o.adm_crop = false;
  if (name == "adm_crop" && from.adm_crop) o.center_crop = false;
  if (name == "time_shift_base") o.flow_shift.reset();
  if (name == "train_batch_size") o.global_batch_size.reset();
  if (name == "num_train_epochs") o.max_train_steps.reset();
  if (name == "lr_warmup_steps") o.lr_warmup_epochs.reset();
  if (name == "lr_decay_end_steps") o.lr_decay_end_epochs.reset();
  if (name == "checkpointing_steps") o.checkpointing_epochs.reset();
  if (name != "lr_scheduler") return;
  if (from.lr_scheduler != "piecewise_constant") o.lr_step_rules.clear();
  if (from.lr_scheduler.starts_with("upstream-")) return;
  o.lr_final.reset();
  o.lr_decay_end_steps.reset();
  o.lr_decay_end_epochs.reset();
  o.lr_warmup_from_zero = false;
}

}  // namespace

std::vector<NamedOption> named_options(Stage2Options& options) {
  std::vector<NamedOption> all;
  add_data_and_models(options, all);
  add_objective_and_steps(options, all);
  add_optimizer(options, all);
  add_output_and_machine(options, all);
  return all;
}

void take_options(Stage2Options& to, const Stage2Options& from, const std::vector<std::string>& names) {
  for (const std::string& name : names) take_back_others(to, name, from);
  Stage2Options source = from;
  const std::vector<NamedOption> theirs = named_options(source);
  std::vector<NamedOption> ours = named_options(to);
  for (size_t i = 0; i < ours.size(); ++i) {
    if (std::find(names.begin(), names.end(), ours[i].name) == names.end()) continue;
    std::visit([&](auto* value) { *value = *std::get<decltype(value)>(theirs[i].value); }, ours[i].value);
  }
}

void read_options(const Json& config, const std::string& where, Stage2Options& options) {
  const Json named = with_canonical_names(config, where);
  JsonReader reader(named, where);
  for (const NamedOption& option : named_options(options))
    if (reader.raw(option.name) != nullptr)
      std::visit([&](auto* value) { read_value(reader, option.name, *value); }, option.value);
  reader.finish();
}

Json options_json(const Stage2Options& options) {
  Stage2Options copy = options;
  Json json = Json::object();
  for (const NamedOption& option : named_options(copy))
    std::visit(
        [&](const auto* value) {
          if constexpr (!kIsOptional<std::decay_t<decltype(*value)>>)
            json[option.name] = *value;
          else if (*value)
            json[option.name] = **value;
        },
        option.value);
  return json;
}

Json deciding_options(const Stage2Options& options) {
  Json json = options_json(options);
  Stage2Options any;
  for (const NamedOption& option : named_options(any))
    if (option.on_resume == OnResume::free) json.erase(option.name);
  return json;
}

void share_out_batch(Stage2Options& options, int ranks) {
  if (!options.global_batch_size) return;
  const int64_t parts = ranks * options.gradient_accumulation_steps;
  RAEDIT_CHECK(parts > 0 && *options.global_batch_size % parts == 0,
               {.code = ErrorCode::invalid_argument,
                .what = "the batch cannot be shared out evenly",
                .where = "--global-batch-size",
                .found = fmt::to_string(*options.global_batch_size),
                .expected = fmt::format("a multiple of {}: {} rank{} with --gradient-accumulation-steps {}", parts,
                                        ranks, ranks == 1 ? "" : "s", options.gradient_accumulation_steps)});
  options.train_batch_size = *options.global_batch_size / parts;
  options.global_batch_size.reset();
}

}  // namespace raedit::train
