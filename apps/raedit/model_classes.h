// The classes of a model, known before its weights are: a misspelt label costs no loading.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "raedit/rae_dit_pipeline.h"

namespace raedit::cli {

struct ModelClasses {
  std::map<int64_t, std::string> id2label;
  std::map<std::string, int64_t> names;  // one or more of each label
  int64_t num_classes = 0;
};

ModelClasses classes_of(const RAEDiTPipeline& pipeline);
// Of a folder in the diffusers layout, from its JSON alone. Nothing where that is broken: loading says how.
std::optional<ModelClasses> classes_in(const std::string& folder);

// A label as the model's index spells it, commas and all, or one of its names. Throws Error(invalid_argument).
std::vector<int64_t> ids_of_labels(const ModelClasses& classes, const std::vector<std::string>& labels);

}  // namespace raedit::cli
