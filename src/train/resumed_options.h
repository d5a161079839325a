// Whoever goes on from a checkpoint with other options than it was made with is told.
#pragma once

#include <string>
#include <vector>

#include "core/json.h"

namespace raedit::train {

// One line each for the options that are others now, and for those given now that the run does not take because what
// it began with stays: "learning_rate 0.0001 -> 0.0002". Both arguments are from deciding_options() (stage2_config.h).
std::vector<std::string> changed_options(const Json& then, const Json& now);

}  // namespace raedit::train
