// Upstream's DiTwDDTHead becomes RAEDiT2DModel: planned in full before anything is written, so that a dry run, a
// conversion and running upstream's folder as it is are one and the same up to the last step.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "convert/inputs.h"
#include "convert/model_writer.h"
#include "convert/upstream_config.h"

namespace raedit::convert {

struct Stage2Plan {
  UpstreamConfig config;
  ModelPlan transformer;
  std::optional<ModelPlan> guide;
  FlowMatchEulerDiscreteSchedulerConfig scheduler;
  Json metadata;  // the script's, without the digests
  std::vector<std::string> notes;
  std::vector<std::string> checkpoints;
};

// The repositories that a stage-2 conversion reads.
struct Stage2Inputs {
  hub::Repository weights, configs;
};
Stage2Inputs open_inputs(const std::string& repo_or_path, const std::string& config_repo_or_path,
                         const std::string& config_path, const HubOptions& hub);

// `config_file` is the YAML on this machine, config_path as the user named it. Strict: every tensor of the model is in
// the checkpoint and has its shape, and nothing else is, but for position tables, which are computed as diffusers does.
Stage2Plan plan_stage2(const ConvertStage2Options& options, const Stage2Inputs& inputs);

// Checks a transformer's tensors against its config, both ways, and adds the position tables that are missing, computed
// as diffusers does; they are listed in plan.computed.
void complete_transformer(ModelPlan& plan);

}  // namespace raedit::convert
