// scheduler_config.json, as diffusers writes it, in and out.
#pragma once

#include <string>

#include "raedit/flow_match_euler_discrete.h"

namespace raedit::diffusion {

// Throws Error(format) for another class's file, unknown keys and values of the wrong type.
FlowMatchEulerDiscreteSchedulerConfig read_scheduler_config(const std::string& path);
void write_scheduler_config(const std::string& path, const FlowMatchEulerDiscreteSchedulerConfig& config);

}  // namespace raedit::diffusion
