// Opening what find_model() found.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "model_path.h"
#include "raedit/convert.h"

namespace raedit::cli {

// Of an upstream folder: for commands that need some of them alone.
UpstreamModels upstream_models(const FoundModel& model, const HubOptions& hub);
// A folder of either kind; `of_upstream` hears what else an upstream one says.
RAEDiTPipeline open_pipeline(const FoundModel& model, const LoadOptions& load, const HubOptions& hub,
                             const std::function<void(const UpstreamPipeline&)>& of_upstream = {},
                             const std::string& guide_calibration = {});

// Whether --guide names what the YAML of an upstream folder guides with: by the name that it has when converted.
bool is_guide_of_yaml(const FoundModel& model, const std::string& guide);
// Throws what open_guide() would for a folder that is no transformer's; reads no weights. "" is none, and of what a
// YAML guides with nothing is looked at.
void check_guide(const FoundModel& model, const std::string& guide);
// What --guide names: that, a folder inside the model's, or any other.
RAEDiT2DModel open_guide(const FoundModel& model, const std::optional<RAEDiT2DModel>& of_yaml, const std::string& guide,
                         const LoadOptions& load);

}  // namespace raedit::cli
