// Upstream's training YAML as options of ours. Source: bytetriper/RAE src/train.py (keys and defaults, data, seeds),
// utils/optim_utils.py (build_optimizer, build_scheduler), stage2/transport (create_transport).
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/check.h"
#include "train/stage2_config.h"

namespace raedit::train {
namespace {

// A mapping of the file; what nobody asks for is told in the end.
class Section {
 public:
  // Missing and null are an empty one.
  Section(const Json& parent, const std::string& parent_path, const char* name, const std::string& file)
      : path_(parent_path.empty() ? name : parent_path + "." + name), file_(file) {
    const auto found = parent.find(name);
    if (found == parent.end() || found->is_null()) return;
    object_ = *found;
    if (!object_.is_object()) fail("", object_, "a mapping");
  }

  const Json& object() const { return object_; }
  const std::string& path() const { return path_; }
  Section inner(const char* name) {
    asked_.emplace_back(name);
    return Section(object_, path_, name, file_);
  }

  // nullptr for null, too.
  const Json* find(const char* key) {
    asked_.emplace_back(key);
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  bool has(const char* key) const {
    const auto found = object_.find(key);
    return found != object_.end() && !found->is_null();
  }

  double number(const char* key, double fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_number() || !std::isfinite(value->get<double>())) fail(key, *value, "a number");
    return value->get<double>();
  }
  int64_t integer(const char* key, int64_t fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    const double as_number = number(key, 0);
    if (as_number != std::floor(as_number) || std::abs(as_number) > 0x1p53) fail(key, *value, "an integer");
    return static_cast<int64_t>(as_number);
  }
  bool boolean(const char* key, bool fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) fail(key, *value, "true or false");
    return value->get<bool>();
  }
  std::string string(const char* key, const std::string& fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) fail(key, *value, "a string");
    return value->get<std::string>();
  }
  // One number stands for both.
  std::array<double, 2> pair(const char* key, std::array<double, 2> fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (value->is_number()) return {value->get<double>(), value->get<double>()};
    const bool fine = value->is_array() && value->size() == 2 && (*value)[0].is_number() && (*value)[1].is_number();
    if (!fine) fail(key, *value, "a number or a list of two");
    return {(*value)[0].get<double>(), (*value)[1].get<double>()};
  }

  // A key whose only value we have a use for is `value`.
  void accept(const char* key, const Json& value) {
    const auto found = object_.find(key);
    if (found != object_.end() && *found == value) asked_.emplace_back(key);
  }
  void tell_unused(std::vector<std::string>& unused) const {
    for (const auto& [key, value] : object_.items())
      if (std::find(asked_.begin(), asked_.end(), key) == asked_.end()) unused.push_back(path_ + "." + key);
  }

  [[noreturn]] void fail(const std::string& key, const Json& found, std::string expected) const {
    raise({.code = ErrorCode::format,
           .what = "the value is wrong",
           .where = fmt::format("{}: {}{}{}", file_, path_, key.empty() ? "" : ".", key),
           .found = found.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 100),
           .expected = std::move(expected)});
  }

 private:
  Json object_ = Json::object();
  std::string path_, file_;
  std::vector<std::string> asked_;
};

void take_shape(const Json& transformer, const std::string& where, Stage2Options& o) {
  RAEDIT_CHECK(transformer.at("patch_size").is_number_integer(), {.code = ErrorCode::unsupported,
                                                                  .what = "one patch size for both parts, here",
                                                                  .where = where + ": stage_2.params.patch_size",
                                                                  .found = transformer.at("patch_size").dump()});
  o.patch_size = transformer.at("patch_size").get<int64_t>();
  o.hidden_size = transformer.at("hidden_size").get<std::array<int64_t, 2>>();
  o.num_layers = transformer.at("depth").get<std::array<int64_t, 2>>();
  o.num_attention_heads = transformer.at("num_heads").get<std::array<int64_t, 2>>();
  o.mlp_ratio = transformer.at("mlp_ratio").get<double>();
  o.class_dropout_prob = transformer.at("class_dropout_prob").get<double>();
  o.num_classes = transformer.at("num_classes").get<int64_t>();
  o.use_qknorm = transformer.at("use_qknorm").get<bool>();
  o.use_swiglu = transformer.at("use_swiglu").get<bool>();
  o.use_rope = transformer.at("use_rope").get<bool>();
  o.use_rmsnorm = transformer.at("use_rmsnorm").get<bool>();
  o.use_pos_embed = transformer.at("use_pos_embed").get<bool>();
  o.wo_shift = transformer.at("wo_shift").get<bool>();
}

void take_optimizer(Section& training, std::vector<std::string>& unused, Stage2Options& o) {
  Section optimizer = training.inner("optimizer");
  std::string type = optimizer.string("type", "adamw");
  for (char& c : type) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  if (type != "adamw") optimizer.fail("type", type, "adamw");
  // The 512 config still has the keys of an older upstream: base_lr, beta, wd.
  o.learning_rate = optimizer.number("lr", training.number("base_lr", 2e-4));
  const std::array<double, 2> betas =
      optimizer.pair("betas", optimizer.pair("beta", training.pair("beta", {0.9, 0.95})));
  o.adam_beta1 = betas[0];
  o.adam_beta2 = betas[1];
  o.adam_weight_decay = optimizer.number("weight_decay", optimizer.number("wd", training.number("wd", 0.0)));
  o.adam_epsilon = optimizer.number("eps", 1e-8);
  optimizer.tell_unused(unused);
}

// Steps where they are given, or else epochs.
void take_warmup_and_end(Section& scheduler, Section& training, Stage2Options& o) {
  const double warmup_epochs = scheduler.number("warmup_epochs", training.number("decay_start_epoch", 0));
  o.lr_warmup_steps = std::max<int64_t>(scheduler.integer("warmup_steps", 0), 0);
  o.lr_warmup_epochs = scheduler.has("warmup_steps") ? std::nullopt : std::optional(std::max(warmup_epochs, 0.0));
  const bool has_end = scheduler.has("decay_end_epoch") || training.has("decay_end_epoch");
  const double end_epoch = scheduler.number("decay_end_epoch", training.number("decay_end_epoch", 0));
  o.lr_decay_end_steps.reset();
  o.lr_decay_end_epochs.reset();
  if (scheduler.has("decay_end_steps"))
    o.lr_decay_end_steps = std::max<int64_t>(scheduler.integer("decay_end_steps", 0), 0);
  else if (has_end)
    o.lr_decay_end_epochs = std::max(end_epoch, 0.0);
  else if (o.lr_warmup_epochs)
    o.lr_decay_end_epochs = o.lr_warmup_epochs;
  else
    o.lr_decay_end_steps = o.lr_warmup_steps;
}

// Upstream fails without training.scheduler; the older schedule_type is as good, and neither is a constant rate.
void take_schedule(Section& training, std::vector<std::string>& unused, Stage2Options& o) {
  Section scheduler = training.inner("scheduler");
  if (scheduler.object().empty() && !training.has("schedule_type")) {
    o.lr_scheduler = "constant";
    o.lr_warmup_steps = 0;
    return;
  }
  std::string type = scheduler.string("type", training.string("schedule_type", "linear"));
  for (char& c : type) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  if (type != "linear" && type != "cosine") scheduler.fail("type", type, "linear or cosine");
  o.lr_scheduler = "upstream-" + type;
  const double optimizer_lr = o.learning_rate;
  o.learning_rate = scheduler.number("base_lr", training.number("base_lr", optimizer_lr));
  o.lr_final = scheduler.number("final_lr", training.number("final_lr", optimizer_lr));
  o.lr_warmup_from_zero = scheduler.boolean("warmup_from_zero", false);
  take_warmup_and_end(scheduler, training, o);
  scheduler.tell_unused(unused);
}

void take_steps(Section& training, Stage2Options& o) {
  o.num_train_epochs = training.integer("epochs", 1400);
  o.train_batch_size = training.integer("batch_size", 16);
  o.global_batch_size.reset();
  if (training.has("global_batch_size")) o.global_batch_size = training.integer("global_batch_size", 0);
  o.gradient_accumulation_steps = training.integer("grad_accum_steps", 1);
  const bool clips = !training.object().contains("clip_grad") || training.has("clip_grad");
  o.max_grad_norm = clips ? std::max(training.number("clip_grad", 1.0), 0.0) : 0.0;
  (void)training.find("clip_grad");
  o.ema_decay = training.number("ema_decay", 0.9995);
  o.dataloader_num_workers = training.integer("num_workers", 4);
  const int64_t seed = training.integer("global_seed", 0);
  if (seed < 0) training.fail("global_seed", seed, "0 or more");
  o.seed = static_cast<uint64_t>(seed);
  o.logging_steps = std::max<int64_t>(training.integer("log_interval", training.integer("log_every", 100)), 1);
  o.checkpointing_epochs.reset();
  if (training.has("ckpt_every") && !training.has("checkpoint_interval"))
    o.checkpointing_steps = training.integer("ckpt_every", 0);
  else
    o.checkpointing_epochs = training.number("checkpoint_interval", 4);
  const int64_t sample_every = training.integer("sample_every", 2500);
  o.validation_steps = sample_every > 0 ? std::optional(sample_every) : std::nullopt;
}

void take_sampling(const Json& yaml, const std::string& where, Section& training, std::vector<std::string>& unused,
                   Stage2Options& o) {
  Section sampler(yaml, "", "sampler", where);
  Section params = sampler.inner("params");
  sampler.accept("mode", "ODE");
  params.accept("sampling_method", "euler");
  params.accept("reverse", false);
  o.validation_num_inference_steps = params.integer("num_steps", 50);
  Section guidance(yaml, "", "guidance", where);
  guidance.accept("method", "cfg");
  o.validation_guidance_scale = training.number("cfg_scale", guidance.number("scale", 1.0));
  for (Section* section : {&sampler, &params, &guidance}) section->tell_unused(unused);
}

void take_transport(const Json& yaml, const std::string& where, const UpstreamModels& models,
                    std::vector<std::string>& unused, Stage2Options& o) {
  Section transport(yaml, "", "transport", where);
  Section params = transport.inner("params");
  o.time_distribution = params.string("time_dist_type", "uniform");
  o.weighting_scheme = "none";  // a velocity's loss has no weight, whatever loss_weight says
  o.flow_shift = models.shift;
  // The scheduler was made from these.
  for (const char* key : {"path_type", "prediction", "num_train_timesteps"}) (void)params.find(key);
  params.accept("loss_weight", nullptr);
  transport.tell_unused(unused);
  params.tell_unused(unused);
  Section misc(yaml, "", "misc", where);
  for (const char* key : {"latent_size", "num_classes", "time_dist_shift_dim", "time_dist_shift_base"})
    (void)misc.find(key);
  misc.accept("null_label", o.num_classes.value_or(0));
  misc.tell_unused(unused);
}

const char* first_name(const Json& yaml, const char* name, const char* other) {
  return yaml.contains(name) ? name : other;
}

std::string autoencoder_command(const Json& yaml, const std::string& where) {
  Section stage_1(yaml, "", first_name(yaml, "stage_1", "stage1"), where);
  Section params = stage_1.inner("params");
  if (params.object().empty()) return "";
  const std::string encoder = params.string("encoder_cls", "Dinov2withNorm");
  const char* type = encoder == "SigLIP2wNorm" ? "siglip2" : encoder == "MAEwNorm" ? "mae" : "dinov2";
  std::string command = fmt::format("raedit convert rae --repo_or_path RAE --encoder_type {}", type);
  for (const auto& [key, flag] :
       std::vector<std::pair<const char*, const char*>>{{"encoder_config_path", "encoder_name_or_path"},
                                                        {"decoder_config_path", "decoder_config_name"},
                                                        {"pretrained_decoder_path", "decoder_checkpoint"},
                                                        {"normalization_stat_path", "stats_checkpoint"}}) {
    std::string value = params.string(key, "");
    if (std::string(key) == "decoder_config_path" && value.starts_with("configs/decoder/"))
      value = value.substr(value.rfind('/') + 1);
    if (!value.empty()) command += fmt::format(" --{} {}", flag, value);
  }
  if (params.has("encoder_input_size"))
    command += fmt::format(" --encoder_input_size {}", params.integer("encoder_input_size", 0));
  if (params.has("decoder_patch_size"))
    command += fmt::format(" --patch_size {}", params.integer("decoder_patch_size", 0));
  return command + " --output_path VAE";
}

std::string transformer_command(const Json& yaml, const std::string& where) {
  Section stage_2(yaml, "", first_name(yaml, "stage_2", "stage2"), where);
  if (stage_2.string("ckpt", "").empty()) return "";
  return fmt::format("raedit convert stage2 --repo_or_path RAE --config_path {} --output_path DIT", where);
}

}  // namespace

bool is_upstream_training(const Json& yaml) {
  if (!yaml.is_object()) return false;
  for (const char* section : {"stage_1", "stage_2", "stage1", "stage2", "transport", "training"})
    if (yaml.contains(section)) return true;
  return false;
}

UpstreamTraining read_upstream_training(const Json& yaml, const std::string& where, const UpstreamModels& models,
                                        Stage2Options& o) {
  UpstreamTraining result;
  for (const auto& [key, value] : yaml.items()) {
    constexpr std::array kSections{"stage_1",  "stage_2", "stage1",   "stage2", "transport",
                                   "guidance", "sampler", "training", "misc"};
    if (std::find(kSections.begin(), kSections.end(), key) == kSections.end()) result.unused.push_back(key);
  }
  take_shape(models.transformer, where, o);
  take_transport(yaml, where, models, result.unused, o);
  o.adm_crop = true;
  o.center_crop = false;
  o.random_flip = true;
  Section training(yaml, "", "training", where);
  take_steps(training, o);
  take_optimizer(training, result.unused, o);
  take_schedule(training, result.unused, o);
  take_sampling(yaml, where, training, result.unused, o);
  training.tell_unused(result.unused);
  result.convert_autoencoder = autoencoder_command(yaml, where);
  result.convert_transformer = transformer_command(yaml, where);
  return result;
}

}  // namespace raedit::train
