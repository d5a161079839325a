// The options that decide a run's numbers, kept in its checkpoints: whoever goes on with others is told.
#pragma once

#include <string>
#include <vector>

#include "core/json.h"
#include "train/stage2_options.h"

namespace raedit::train {

// By name; without those that say where things are and how fast, which may differ between the parts of a run.
Json deciding_options(const Stage2Options& options);

// One line each for the options that are others now, and for those given now that the run does not take because what
// it began with stays: "learning_rate 0.0001 -> 0.0002". Both arguments are from deciding_options().
std::vector<std::string> changed_options(const Json& then, const Json& now);

}  // namespace raedit::train
