#include "open_model.h"

namespace raedit::cli {

UpstreamPipeline open_upstream(const FoundModel& model, const LoadOptions& load, const HubOptions& hub) {
  ConvertPipelineOptions options;
  options.repo_or_path = model.path;
  options.config_path = model.config;
  return raedit::open_upstream(options, load, hub);
}

RAEDiTPipeline open_pipeline(const FoundModel& model, const LoadOptions& load, const HubOptions& hub,
                             const std::function<void(const UpstreamPipeline&)>& of_upstream) {
  if (!model.upstream) return RAEDiTPipeline::from_pretrained(model.path, load);
  const UpstreamPipeline upstream = open_upstream(model, load, hub);
  if (of_upstream) of_upstream(upstream);
  return upstream.pipeline;
}

}  // namespace raedit::cli
