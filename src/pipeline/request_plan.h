// What a request will take of its context's arena, known before its first step.
#pragma once

#include <cstddef>

#include "backend/kernels.h"
#include "raedit/rae_dit_pipeline.h"

namespace raedit {

// The blocks that the arena of a context on `kernels` comes to hold, in bytes: for all steps, and for one picture that
// is decoded where vae is not null. The request's own forward says it, run once for each kind of step by kernels that
// compute nothing. What kernels take for themselves is not in it. Of the processor: a device's graphs have other needs.
size_t plan_request(const backend::Kernels& kernels, const RAEDiT2DModel& model, const AutoencoderRAE* vae,
                    FlowMatchEulerDiscreteScheduler scheduler, const Tensor& labels,
                    const RAEDiTPipelineArguments& arguments);

}  // namespace raedit
