// ${a.b} and its like, as OmegaConf resolves them. Source: omegaconf grammar/*.g4, grammar_visitor.py, base.py
// (_select_impl).
#pragma once

#include <string>

#include "core/json.h"

namespace raedit::io {

// The same tree with every interpolation replaced: a string that is nothing else takes over the value with its type,
// objects and lists included. Throws what parse_yaml promises (io/yaml.h).
Json resolve_interpolations(const Json& tree, const std::string& where);

}  // namespace raedit::io
