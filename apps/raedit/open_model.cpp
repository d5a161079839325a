#include "open_model.h"

#include <filesystem>

#include "convert/conversion.h"
#include "core/check.h"
#include "models/checkpoint.h"

namespace raedit::cli {

namespace {

ConvertPipelineOptions options_of(const FoundModel& model) {
  ConvertPipelineOptions options;
  options.repo_or_path = model.path;
  options.config_path = model.config;
  return options;
}

std::string guide_folder(const FoundModel& model, const std::string& guide) {
  std::error_code error;
  const auto inside = std::filesystem::path(model.path) / guide;
  return std::filesystem::is_directory(inside, error) ? inside.string() : guide;
}

}  // namespace

UpstreamModels upstream_models(const FoundModel& model, const HubOptions& hub) {
  return UpstreamModels(options_of(model), hub);
}

RAEDiTPipeline open_pipeline(const FoundModel& model, const LoadOptions& load, const HubOptions& hub,
                             const std::function<void(const UpstreamPipeline&)>& of_upstream,
                             const std::string& guide_calibration) {
  if (!model.upstream) return RAEDiTPipeline::from_pretrained(model.path, load);
  const UpstreamPipeline upstream = open_upstream(options_of(model), load, hub, guide_calibration);
  if (of_upstream) of_upstream(upstream);
  return upstream.pipeline;
}

void check_guide(const FoundModel& model, const std::string& guide) {
  if (!guide.empty() && !is_guide_of_yaml(model, guide))
    models::read_config(guide_folder(model, guide), "RAEDiT2DModel");
}

bool is_guide_of_yaml(const FoundModel& model, const std::string& guide) {
  return model.upstream && guide == convert::kGuideFolder;
}

RAEDiT2DModel open_guide(const FoundModel& model, const std::optional<RAEDiT2DModel>& of_yaml, const std::string& guide,
                         const LoadOptions& load) {
  if (is_guide_of_yaml(model, guide)) {
    RAEDIT_CHECK(of_yaml.has_value(), {.code = ErrorCode::not_found,
                                       .what = "this model has no guide: its YAML asks for no autoguidance",
                                       .where = model.path,
                                       .found = "--guide " + guide});
    return *of_yaml;
  }
  return RAEDiT2DModel::from_pretrained(guide_folder(model, guide), load);
}

}  // namespace raedit::cli
