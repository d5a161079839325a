// One YAML scalar: what its text means, and what Python makes of a value again inside a string.
// Source: yaml.org/type (YAML 1.1) as PyYAML's resolver has it, with the floats that OmegaConf adds (_utils.py,
// get_yaml_loader) and without its timestamps.
#pragma once

#include <string>
#include <string_view>

#include "core/json.h"

namespace raedit::io {

// A scalar without quotes and tag: null, a boolean, a number, or else the text. `where` is for messages. Throws
// Error(format) for a number that 64 bits do not hold.
Json plain_yaml_scalar(std::string_view text, const std::string& where);

// A scalar under an explicit tag, "tag:yaml.org,2002:int" and the like. Throws Error(format) when the text is none,
// Error(unsupported) for other tags.
Json tagged_yaml_scalar(std::string_view tag, std::string_view text, const std::string& where);

// str() of null, a boolean, a number or a string: "None", "True", "1e-06".
std::string python_text(const Json& scalar);

}  // namespace raedit::io
