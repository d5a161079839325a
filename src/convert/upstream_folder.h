// An upstream folder: a YAML with stage_1 and stage_2 sections, and the files that it names.
#pragma once

#include <string>
#include <vector>

#include "hub/repository.h"

namespace raedit::convert {

// The YAML files of `repository`, by their paths inside it, sorted: of a folder those at its top level and below
// configs/ (it may hold a data set).
std::vector<std::string> yaml_files(const hub::Repository& repository);

// The configs that describe a whole pipeline (stage_1 and stage_2), by their paths inside `repository`: those at the
// top level, or, when there is none, those below configs/. YAML files that cannot be read are passed over.
std::vector<std::string> pipeline_configs(const hub::Repository& repository);

// The only one. Throws Error(not_found) when there is none, Error(invalid_argument) naming them when there are several.
std::string only_pipeline_config(const hub::Repository& repository);

}  // namespace raedit::convert
