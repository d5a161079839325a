// Opening what find_model() found.
#pragma once

#include <functional>

#include "model_path.h"
#include "raedit/convert.h"

namespace raedit::cli {

// An upstream folder, as it is.
UpstreamPipeline open_upstream(const FoundModel& model, const LoadOptions& load, const HubOptions& hub);
// A folder of either kind; `of_upstream` hears what else an upstream one says.
RAEDiTPipeline open_pipeline(const FoundModel& model, const LoadOptions& load, const HubOptions& hub,
                             const std::function<void(const UpstreamPipeline&)>& of_upstream = {});

}  // namespace raedit::cli
