#include "convert/stage2.h"

#include <fmt/format.h>

#include <filesystem>

#include "convert/key_rules.h"
#include "convert/upstream_checkpoint.h"
#include "core/check.h"
#include "io/yaml.h"
#include "models/rae_dit_transformer.h"

namespace raedit::convert {
namespace fs = std::filesystem;
namespace {

struct Loaded {
  ModelPlan plan;
  std::string checkpoint;  // its file
  std::string key;
};

std::shared_ptr<const WeightSet> translate(const StateDict& state) {
  return std::make_shared<TranslatedWeights>(state.weights, apply_rules(*state.weights, stage2_rules()));
}

Loaded load(const UpstreamModel& model, const Json& misc, const std::string& checkpoint, const std::string& key,
            bool disable_ema) {
  Loaded loaded;
  loaded.checkpoint = checkpoint;
  const std::vector<std::string> candidates = disable_ema ? std::vector<std::string>{"model", "ema", "state_dict"}
                                                          : std::vector<std::string>{"ema", "model", "state_dict"};
  const StateDict state = open_state_dict(checkpoint, key, candidates);
  loaded.key = state.key;
  loaded.plan.class_name = "RAEDiT2DModel";
  loaded.plan.source.config = transformer_config(model, misc);
  loaded.plan.source.where = model.where;
  loaded.plan.source.weights = translate(state);
  complete_transformer(loaded.plan);
  return loaded;
}

int64_t count_numbers(const ModelPlan& plan) {
  int64_t count = 0;
  for (const std::string& name : plan.source.weights->names())
    if (std::find(plan.computed.begin(), plan.computed.end(), name) == plan.computed.end())
      count += plan.source.weights->info(name).shape.numel();
  return count;
}

Json describe(const Loaded& loaded, const ConvertStage2Options& options) {
  Json config = loaded.plan.source.config;
  config.erase("_class_name");
  Json json{{"checkpoint_path", loaded.checkpoint}};
  json["checkpoint_key"] = or_null(options.checkpoint_key);
  json["state_dict"] = or_null(loaded.key);
  json["prefer_ema"] = !options.disable_ema;
  json["config"] = config;
  json["num_parameters"] = count_numbers(loaded.plan);
  if (!loaded.plan.computed.empty()) json["computed"] = loaded.plan.computed;
  return json;
}

Json metadata_of(const ConvertStage2Options& options, const UpstreamConfig& config,
                 const FlowMatchEulerDiscreteSchedulerConfig& scheduler) {
  const auto param = [&](const char* key, const char* fallback) {
    return config.transport_params.contains(key) ? config.transport_params[key] : Json(fallback);
  };
  Json json;
  json["source"] = {{"weights_repo_or_path", options.repo_or_path},
                    {"config_repo_or_path", or_null(options.config_repo_or_path)},
                    {"config_path", options.config_path},
                    {"vae_model_name_or_path", or_null(options.vae_model_name_or_path)}};
  json["scheduler"] = {{"num_train_timesteps", scheduler.num_train_timesteps},
                       {"shift", scheduler.shift},
                       {"path_type", param("path_type", "Linear")},
                       {"prediction", param("prediction", "velocity")},
                       {"time_dist_type", param("time_dist_type", "uniform")}};
  json["sampler"] = {{"mode", config.sampler.value("mode", Json("ODE"))},
                     {"params", config.sampler.value("params", Json::object())}};
  json["guidance"] = {{"method", config.guidance_method},
                      {"scale", config.guidance_scale},
                      {"t_min", config.guidance_t_min},
                      {"t_max", config.guidance_t_max}};
  json["misc"] = config.misc;
  return json;
}

void note_sampler(const UpstreamConfig& config, std::vector<std::string>& notes) {
  const Json params = config.sampler.value("params", Json::object());
  const Json mode = config.sampler.value("mode", Json("ODE"));
  const Json method = params.is_object() ? params.value("sampling_method", Json("euler")) : Json("euler");
  if (mode != "ODE" || method != "euler")
    notes.push_back(fmt::format("upstream samples with {} {}; the diffusers layout holds an Euler scheduler",
                                mode.dump(), method.dump()));
}

void note_computed(const ModelPlan& plan, std::vector<std::string>& notes) {
  for (const std::string& name : plan.computed)
    notes.push_back(fmt::format("{} is not in the checkpoint: computed as diffusers does", name));
}

}  // namespace

void complete_transformer(ModelPlan& plan) {
  models::RaeDitTransformer model(models::parse_rae_dit_config(plan.source.config, plan.source.where));
  const models::NamedParameters parameters = models::named_parameters(model);
  models::check_parameters(parameters, *plan.source.weights);
  model.complete();  // all of them, since nothing has been loaded
  NamedTensors computed;
  for (const auto& [name, parameter] : parameters)
    if (!plan.source.weights->contains(name) && parameter->source.defined())
      computed.emplace_back(name, parameter->source);
  if (computed.empty()) return;
  for (const auto& [name, tensor] : computed) plan.computed.push_back(name);
  plan.source.weights = std::make_shared<JoinedWeights>(JoinedWeights::Parts{
      plan.source.weights, std::make_shared<MemoryWeights>("computed tables", std::move(computed))});
}

Stage2Inputs open_inputs(const std::string& repo_or_path, const std::string& config_repo_or_path,
                         const std::string& config_path, const HubOptions& hub) {
  // A YAML on this machine says where it is itself.
  const std::string beside = fs::path(config_path).parent_path().string();
  const std::string weights = !repo_or_path.empty() ? repo_or_path : beside.empty() ? "." : beside;
  const hub::Repository repository = hub::Repository::open(weights, hub);
  return {repository, config_repo_or_path.empty() ? repository : hub::Repository::open(config_repo_or_path, hub)};
}

Stage2Plan plan_stage2(const ConvertStage2Options& options, const Stage2Inputs& inputs) {
  RAEDIT_CHECK(!options.config_path.empty(), {.code = ErrorCode::invalid_argument,
                                              .what = "config_path is missing",
                                              .expected = "upstream's YAML of this model"});
  Stage2Plan plan;
  const std::string file = resolve_input(inputs.configs, options.config_path, "config");
  plan.config = parse_upstream_config(read_yaml(file), file);
  RAEDIT_CHECK(plan.config.stage_2.has_value(),
               {.code = ErrorCode::format, .what = "the config has no section stage_2 (or stage2)", .where = file});
  plan.scheduler = scheduler_config(plan.config);
  plan.metadata = metadata_of(options, plan.config, plan.scheduler);
  note_sampler(plan.config, plan.notes);

  const std::string named =
      options.checkpoint_path.empty() ? plan.config.stage_2->ckpt.value_or("") : options.checkpoint_path;
  RAEDIT_CHECK(!named.empty(), {.code = ErrorCode::invalid_argument,
                                .what = "no stage-2 checkpoint is named",
                                .where = file + ": stage_2.ckpt",
                                .hint = "pass checkpoint_path"});
  const std::string checkpoint = resolve_input(inputs.weights, named, "stage-2 checkpoint");
  Loaded main = load(*plan.config.stage_2, plan.config.misc, checkpoint, options.checkpoint_key, options.disable_ema);
  plan.metadata["transformer"] = describe(main, options);
  note_computed(main.plan, plan.notes);
  plan.checkpoints.push_back(checkpoint);
  plan.transformer = std::move(main.plan);

  if (plan.config.guidance_model) {
    const UpstreamModel& model = *plan.config.guidance_model;
    RAEDIT_CHECK(model.ckpt.has_value(),
                 {.code = ErrorCode::format, .what = "the guidance model has no ckpt", .where = model.where});
    const std::string path = resolve_input(inputs.weights, *model.ckpt, "checkpoint of the guidance model");
    Loaded guide = load(model, plan.config.misc, path, "", options.disable_ema);
    plan.metadata["guide_transformer"] = describe(guide, options);
    note_computed(guide.plan, plan.notes);
    plan.checkpoints.push_back(path);
    plan.guide = std::move(guide.plan);
  }
  return plan;
}

}  // namespace raedit::convert
