// The result of a run as a pipeline's folder, and what a run looks like before it begins.
#pragma once

#include <map>
#include <string>

#include "models/checkpoint.h"
#include "raedit/flow_match_euler_discrete.h"
#include "train/memory_plan.h"
#include "train/stage2_options.h"

namespace raedit::train {

// FOLDER/transformer, scheduler, vae (a copy of its files) and, last, model_index.json: opens in diffusers and in
// raedit. What else is in the folder stays.
void export_pipeline(const std::string& folder, const models::ModelSource& transformer, const std::string& vae_folder,
                     const FlowMatchEulerDiscreteScheduler& scheduler, const std::map<int64_t, std::string>& id2label);

// `batch`: of one micro-batch.
MemoryPlanOptions memory_options(const Stage2Options& options, int64_t batch, int ranks);

}  // namespace raedit::train
