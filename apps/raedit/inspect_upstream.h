// What is in a folder of upstream's: its YAML files, and the checkpoints that they name.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "inspect.h"
#include "raedit/hub.h"

namespace raedit::cli {

// One component for each YAML that describes a pipeline, or, where none does, one stage; or for `config`
// alone. Empty where none is there.
std::vector<Component> inspect_upstream(const std::string& folder, const std::string& config = "");

// What the classes of an upstream model are called: as in ImageNet-1k where there are 1000, or else they have no names.
// `config` is its YAML.
std::map<int64_t, std::string> upstream_labels(const std::string& folder_or_name, const std::string& config,
                                               const HubOptions& hub);

}  // namespace raedit::cli
