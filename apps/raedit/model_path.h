// Where the model is.
#pragma once

#include <string>

namespace raedit::cli {

inline constexpr const char* kModelOptionHelp =
    "folder of a pipeline in the diffusers layout (default: RAEDIT_MODEL_PATH,\nor else the bundled emoji64)";

// The folder that `option` (--model) names; or else RAEDIT_MODEL_PATH, itself a model or a folder that has emoji64; or
// else the bundled model, beside the installed program or in the source tree. Throws Error(not_found) naming every
// place that was tried. What the user named is never passed over.
std::string find_model(const std::string& option);

// The last part of the path, for file names and picture texts: "emoji64".
std::string model_name(const std::string& folder);

}  // namespace raedit::cli
