// Upstream's YAML (bytetriper/RAE, configs/), read once into what conversion needs. Sections: stage_1 and stage_2 (or
// stage1, stage2) each {target, params, ckpt}; transport, sampler, guidance, misc.
#pragma once

#include <optional>
#include <string>

#include "core/json.h"
#include "raedit/flow_match_euler_discrete.h"

namespace raedit::convert {

struct UpstreamModel {
  std::string target;  // "stage2.models.DDT.DiTwDDTHead", "stage1.RAE"
  Json params;         // an object
  std::optional<std::string> ckpt;
  std::string where;  // "config.yaml: stage_2", for messages
};

struct UpstreamConfig {
  std::string where;  // the file
  std::optional<UpstreamModel> stage_1, stage_2;
  std::optional<UpstreamModel> guidance_model;
  // Objects; empty where the section is missing or empty.
  Json transport_params, sampler, guidance, misc;

  // What upstream samples with: sampler.params.num_steps, guidance.scale, t-min or t_min, t-max or t_max.
  int64_t num_steps = 50;
  std::string guidance_method = "cfg";
  double guidance_scale = 1.0, guidance_t_min = 0.0, guidance_t_max = 1.0;
};

// Throws Error(format) naming file and key. Sections that nothing needs may be missing (the script insists on them).
UpstreamConfig parse_upstream_config(const Json& yaml, const std::string& where);

// config.json of RAEDiT2DModel, with _class_name, as build_transformer_config makes it: pairs normalised, an equal
// patch pair one number, num_classes falling back to misc and then 1000, misc.latent_size checked. Throws
// Error(format); Error(unsupported) for another target than DiTwDDTHead.
Json transformer_config(const UpstreamModel& model, const Json& misc);

// shift = sqrt(time_dist_shift_dim (or the product of latent_size) / time_dist_shift_base (or 4096)). Throws
// Error(unsupported) for a path that is not Linear or a prediction that is not velocity, Error(format) without
// latent_size.
FlowMatchEulerDiscreteSchedulerConfig scheduler_config(const UpstreamConfig& config);

}  // namespace raedit::convert
