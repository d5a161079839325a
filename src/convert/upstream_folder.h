// An upstream folder: a YAML with stage_1 and stage_2 sections, and the files that it names.
#pragma once

#include <string>
#include <vector>

#include "hub/repository.h"

namespace raedit::convert {

// The configs that describe a whole pipeline (stage_1 and stage_2), by their paths inside `repository`: those at the
// top level, or, when there is none, those below configs/. YAML files that cannot be read are passed over.
std::vector<std::string> pipeline_configs(const hub::Repository& repository);

// The only one. Throws Error(not_found) when there is none, Error(invalid_argument) naming them when there are several.
std::string only_pipeline_config(const hub::Repository& repository);

}  // namespace raedit::convert
