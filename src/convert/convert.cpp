// The public conversions: each plans its models and runs the plan.
#include "raedit/convert.h"

#include <fmt/format.h>

#include <filesystem>

#include "convert/conversion.h"
#include "convert/imagenet_labels.h"
#include "convert/rae.h"
#include "convert/stage2.h"
#include "convert/upstream_folder.h"
#include "core/guard.h"
#include "io/files.h"
#include "models/autoencoder_rae.h"
#include "models/rae_dit_transformer.h"
#include "pipeline/latent_fit.h"
#include "pipeline/model_index.h"

namespace raedit {
namespace convert {
namespace {

namespace fs = std::filesystem;

std::map<int64_t, std::string> read_labels(const std::string& path) {
  const Json json = parse_json(read_file(path), path);
  return read_id2label(Json{{"id2label", json}}, path);
}

// An AutoencoderRAE in the diffusers layout: a folder, or a name.
ModelPlan open_vae(const std::string& name_or_path, const HubOptions& hub) {
  const std::string folder =
      is_model_name(name_or_path) ? download_model(name_or_path, {"*.json", "*.safetensors"}, hub) : name_or_path;
  return {"AutoencoderRAE", models::open_model(folder, "AutoencoderRAE", {}), {}};
}

Conversion conversion_of(Stage2Plan plan) {
  Conversion c;
  c.models.emplace_back("transformer", std::move(plan.transformer));
  if (plan.guide) c.models.emplace_back(kGuideFolder, std::move(*plan.guide));
  c.scheduler = plan.scheduler;
  c.metadata = std::move(plan.metadata);
  c.notes = std::move(plan.notes);
  c.checkpoints = std::move(plan.checkpoints);
  return c;
}

void make_pipeline(Conversion& c, ModelPlan vae, const std::string& labels_path, bool imagenet_by_default) {
  const models::ModelSource& transformer = c.models.front().second.source;
  const RAEDiT2DModelConfig config = models::parse_rae_dit_config(transformer.config, transformer.where);
  check_latents_fit(config, models::parse_autoencoder_rae_config(vae.source.config, vae.source.where),
                    transformer.where);
  if (!labels_path.empty()) {
    c.id2label = read_labels(labels_path);
  } else if (imagenet_by_default && config.num_classes == kImageNetClasses) {
    c.id2label = imagenet_1k_labels();
    c.notes.push_back("the model has 1000 classes: they get the names of ImageNet-1k");
  }
  c.metadata["pipeline"] = {{"saved", true}, {"id2label_json_path", or_null(labels_path)}};
  c.models.emplace_back("vae", std::move(vae));
  c.is_pipeline = true;
}

Conversion plan_stage2_conversion(const ConvertStage2Options& o, const HubOptions& hub) {
  const Stage2Inputs inputs = open_inputs(o.repo_or_path, o.config_repo_or_path, o.config_path, hub);
  Conversion c = conversion_of(plan_stage2(o, inputs));
  if (!o.vae_model_name_or_path.empty()) {
    RAEDIT_CHECK(o.transformer_subfolder == "transformer" && o.scheduler_subfolder == "scheduler",
                 {.code = ErrorCode::invalid_argument,
                  .what = "a pipeline has its models in transformer/ and scheduler/",
                  .found = o.transformer_subfolder + "/ and " + o.scheduler_subfolder + "/",
                  .hint = "leave out vae_model_name_or_path, or the subfolders"});
    make_pipeline(c, open_vae(o.vae_model_name_or_path, hub), o.id2label_json_path, false);
  }
  for (const std::string* folder : {&o.transformer_subfolder, &o.scheduler_subfolder})
    RAEDIT_CHECK(!folder->empty() && folder->find('/') == folder->npos && *folder != ".." && *folder != ".",
                 {.code = ErrorCode::invalid_argument,
                  .what = "a subfolder must be a plain name",
                  .found = "'" + *folder + "'"});
  for (const auto& [folder, plan] : c.models)
    RAEDIT_CHECK(&plan == &c.models.front().second || folder != o.transformer_subfolder,
                 {.code = ErrorCode::invalid_argument,
                  .what = "two models would be written to one subfolder",
                  .where = "transformer_subfolder",
                  .found = "'" + folder + "'"});
  c.models.front().first = o.transformer_subfolder;
  c.scheduler_subfolder = o.scheduler_subfolder;
  return c;
}

// The whole pipeline: transformer first, vae last.
struct PipelinePlan {
  UpstreamConfig config;
  Conversion conversion;
};

PipelinePlan plan_pipeline(const ConvertPipelineOptions& o, const HubOptions& hub, bool encoder_optional) {
  ConvertStage2Options stage2;
  stage2.repo_or_path = o.repo_or_path;
  stage2.config_repo_or_path = o.config_repo_or_path;
  stage2.config_path = o.config_path;
  stage2.checkpoint_path = o.checkpoint_path;
  stage2.checkpoint_key = o.checkpoint_key;
  stage2.disable_ema = o.disable_ema;
  stage2.vae_model_name_or_path = o.vae_model_name_or_path;
  const Stage2Inputs inputs = open_inputs(o.repo_or_path, o.config_repo_or_path, o.config_path, hub);
  if (stage2.config_path.empty()) stage2.config_path = only_pipeline_config(inputs.configs);

  Stage2Plan planned = plan_stage2(stage2, inputs);
  PipelinePlan plan{planned.config, {}};
  Conversion& c = plan.conversion;
  c = conversion_of(std::move(planned));
  if (!o.vae_model_name_or_path.empty()) {
    make_pipeline(c, open_vae(o.vae_model_name_or_path, hub), o.id2label_json_path, true);
    return plan;
  }
  RAEDIT_CHECK(plan.config.stage_1.has_value(),
               {.code = ErrorCode::format,
                .what = "the config has no section stage_1, which describes the autoencoder",
                .where = plan.config.where,
                .hint = "pass vae_model_name_or_path"});
  std::vector<std::string> notes;
  const RaeParts parts = find_rae_parts(o, plan.config, inputs.weights, inputs.configs, hub, encoder_optional, notes);
  RaePlan rae = plan_rae(parts);
  rae.vae.source.without_encoder = parts.encoder.weights == nullptr;
  make_pipeline(c, std::move(rae.vae), o.id2label_json_path, true);
  c.metadata["autoencoder"] = std::move(rae.metadata);
  c.checkpoints.insert(c.checkpoints.end(), rae.checkpoints.begin(), rae.checkpoints.end());
  c.notes.insert(c.notes.end(), notes.begin(), notes.end());
  c.notes.insert(c.notes.end(), rae.notes.begin(), rae.notes.end());
  return plan;
}

}  // namespace
}  // namespace convert

using namespace convert;

ConvertReport convert_stage2(const ConvertStage2Options& options, const ConvertOutput& output) {
  return guarded("convert_stage2", [&] {
    check_output(output);
    return run(plan_stage2_conversion(options, output.hub), output);
  });
}

ConvertReport convert_rae(const ConvertRaeOptions& options, const ConvertOutput& output) {
  return guarded("convert_rae", [&] {
    check_output(output);
    RaePlan plan = plan_rae(find_rae_parts(options, output.hub));
    Conversion c;
    c.models.emplace_back("", std::move(plan.vae));
    c.metadata = {{"source", {{"repo_or_path", options.repo_or_path}}}, {"autoencoder", std::move(plan.metadata)}};
    c.notes = std::move(plan.notes);
    c.checkpoints = std::move(plan.checkpoints);
    return run(c, output);
  });
}

ConvertReport convert_pipeline(const ConvertPipelineOptions& options, const ConvertOutput& output) {
  return guarded("convert_pipeline", [&] {
    check_output(output);
    return run(plan_pipeline(options, output.hub, false).conversion, output);
  });
}

struct UpstreamModels::State {
  PipelinePlan plan;
};

UpstreamModels::UpstreamModels(const ConvertPipelineOptions& options, const HubOptions& hub) {
  guarded("UpstreamModels", [&] { state_ = std::make_shared<const State>(State{plan_pipeline(options, hub, true)}); });
}

RAEDiT2DModel UpstreamModels::transformer(const LoadOptions& load) const {
  return RAEDiT2DModel::from_source(state_->plan.conversion.models.front().second.source, load);
}

std::optional<RAEDiT2DModel> UpstreamModels::guide_transformer(const LoadOptions& load) const {
  if (state_->plan.config.guidance_method != "autoguidance") return std::nullopt;
  for (const auto& [folder, plan] : state_->plan.conversion.models)
    if (folder == kGuideFolder) return RAEDiT2DModel::from_source(plan.source, load);
  return std::nullopt;
}

AutoencoderRAE UpstreamModels::vae(const LoadOptions& load) const {
  return AutoencoderRAE::from_source(state_->plan.conversion.models.back().second.source, load);
}

RAEDiTPipeline UpstreamModels::pipeline(RAEDiT2DModel transformer, const LoadOptions& load) const {
  return guarded("UpstreamModels::pipeline", [&] {
    const Conversion& c = state_->plan.conversion;
    return RAEDiTPipeline(std::move(transformer), vae(load), FlowMatchEulerDiscreteScheduler(*c.scheduler), c.id2label);
  });
}

UpstreamPipeline open_upstream(const ConvertPipelineOptions& options, const LoadOptions& load, const HubOptions& hub,
                               const std::string& guide_calibration) {
  return guarded("open_upstream", [&] {
    const UpstreamModels models(options, hub);
    LoadOptions load_guide = load;
    load_guide.calibration = guide_calibration;
    const auto& [config, conversion] = models.state_->plan;
    return UpstreamPipeline{models.pipeline(models.transformer(load), load),
                            models.guide_transformer(load_guide),
                            config.where,
                            conversion.notes,
                            config.num_steps,
                            config.guidance_scale,
                            config.guidance_t_min,
                            config.guidance_t_max};
  });
}

}  // namespace raedit
