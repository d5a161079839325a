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
#include "pipeline/model_index.h"

namespace raedit {
namespace convert {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kImageNetClasses = 1000;

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

// Latents of the transformer and of the autoencoder must be the same thing.
void check_fit(const ModelPlan& transformer, const ModelPlan& vae) {
  const Json &t = transformer.source.config, &v = vae.source.config;
  const AutoencoderRAEConfig config = models::parse_autoencoder_rae_config(v, vae.source.where);
  const int64_t channels = t.value("in_channels", int64_t{0}), side = t.value("sample_size", int64_t{0});
  RAEDIT_CHECK(
      channels == config.encoder_hidden_size && side == config.grid(),
      {.code = ErrorCode::format,
       .what = "transformer and autoencoder do not fit together",
       .where = transformer.source.where,
       .found = fmt::format("latents [{}, {}, {}]", channels, side, side),
       .expected = fmt::format("[{0}, {1}, {1}] of the autoencoder", config.encoder_hidden_size, config.grid())});
}

void make_pipeline(Conversion& c, ModelPlan vae, const std::string& labels_path, bool imagenet_by_default) {
  check_fit(c.models.front().second, vae);
  const int64_t classes = c.models.front().second.source.config.value("num_classes", int64_t{0});
  if (!labels_path.empty()) {
    c.id2label = read_labels(labels_path);
  } else if (imagenet_by_default && classes == kImageNetClasses) {
    c.id2label = imagenet_1k_labels();
    c.notes.push_back("the model has 1000 classes: they get the names of ImageNet-1k");
  }
  c.metadata["pipeline"] = {{"saved", true},
                            {"id2label_json_path", labels_path.empty() ? Json(nullptr) : Json(labels_path)}};
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

struct PipelinePlan {
  Stage2Plan stage2;
  ModelPlan vae;
  Json vae_metadata;
  std::vector<std::string> vae_checkpoints, notes;
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

  PipelinePlan plan{plan_stage2(stage2, inputs), {}, {}, {}, {}};
  if (!o.vae_model_name_or_path.empty()) {
    plan.vae = open_vae(o.vae_model_name_or_path, hub);
    return plan;
  }
  RAEDIT_CHECK(plan.stage2.config.stage_1.has_value(),
               {.code = ErrorCode::format,
                .what = "the config has no section stage_1, which describes the autoencoder",
                .where = plan.stage2.config.where,
                .hint = "pass vae_model_name_or_path"});
  const RaeParts parts =
      find_rae_parts(o, plan.stage2.config, inputs.weights, inputs.configs, hub, encoder_optional, plan.notes);
  RaePlan rae = plan_rae(parts);
  plan.vae = std::move(rae.vae);
  plan.vae.source.without_encoder = parts.encoder.weights == nullptr;
  plan.vae_metadata = std::move(rae.metadata);
  plan.vae_checkpoints = std::move(rae.checkpoints);
  plan.notes.insert(plan.notes.end(), rae.notes.begin(), rae.notes.end());
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
    PipelinePlan plan = plan_pipeline(options, output.hub, false);
    Conversion c = conversion_of(std::move(plan.stage2));
    make_pipeline(c, std::move(plan.vae), options.id2label_json_path, true);
    if (!plan.vae_metadata.is_null()) c.metadata["autoencoder"] = std::move(plan.vae_metadata);
    c.checkpoints.insert(c.checkpoints.end(), plan.vae_checkpoints.begin(), plan.vae_checkpoints.end());
    c.notes.insert(c.notes.end(), plan.notes.begin(), plan.notes.end());
    return run(c, output);
  });
}

UpstreamPipeline open_upstream(const ConvertPipelineOptions& options, const LoadOptions& load, const HubOptions& hub) {
  return guarded("open_upstream", [&] {
    PipelinePlan plan = plan_pipeline(options, hub, true);
    const UpstreamConfig& config = plan.stage2.config;
    Conversion c = conversion_of(plan.stage2);
    const ModelPlan vae = plan.vae;
    make_pipeline(c, vae, options.id2label_json_path, true);
    UpstreamPipeline result{RAEDiTPipeline(RAEDiT2DModel::from_source(plan.stage2.transformer.source, load),
                                           AutoencoderRAE::from_source(vae.source, load),
                                           FlowMatchEulerDiscreteScheduler(plan.stage2.scheduler), c.id2label),
                            std::nullopt,
                            config.where,
                            c.notes,
                            config.num_steps,
                            config.guidance_scale,
                            config.guidance_t_min,
                            config.guidance_t_max};
    result.notes.insert(result.notes.end(), plan.notes.begin(), plan.notes.end());
    if (plan.stage2.guide && config.guidance_method == "autoguidance")
      result.guide_transformer = RAEDiT2DModel::from_source(plan.stage2.guide->source, load);
    return result;
  });
}

}  // namespace raedit
