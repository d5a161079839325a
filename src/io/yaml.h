// YAML as OmegaConf reads it, turned into JSON once: what upstream's configs need. Plain scalars are resolved by YAML
// 1.1's rules with OmegaConf's floats (1e-6 is a number); ${a.b}, ${.a}, ${..a}, ${a[0]} are replaced, inside strings
// too; merge keys
// (<<) and anchors work. Source: yaml.org/type, omegaconf/_utils.py (get_yaml_loader), omegaconf/grammar_parser.py.
#pragma once

#include <string>
#include <string_view>

#include "core/json.h"

namespace raedit {

// Throws Error(format) naming `where`, line and column: for text that is not YAML, duplicate keys, too many values
// (aliases can multiply), too much depth, an interpolation that leads nowhere or in a circle, a missing value (???)
// that is asked for by one. Error(unsupported) for resolvers such as ${oc.env:X} and for custom tags.
Json parse_yaml(std::string_view text, const std::string& where);

// The same of a file. The result is an object. Throws Error(format) otherwise.
Json read_yaml(const std::string& path);

}  // namespace raedit
