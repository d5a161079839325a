// model_index.json: what a pipeline folder says of itself.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "core/json.h"

namespace raedit {

// The names of the classes, empty where the index has none. Throws Error(format) unless every key is a class id and
// every value a string. `path` is for messages.
std::map<int64_t, std::string> read_id2label(const Json& index, const std::string& path);

// The index of a RAEDiTPipeline with these names.
Json model_index(const std::map<int64_t, std::string>& id2label);

}  // namespace raedit
