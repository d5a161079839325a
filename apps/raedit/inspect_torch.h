// What is in a file that torch.save wrote, found out without reading a number.
#pragma once

#include <string>

#include "inspect.h"

namespace raedit::cli {

// Its entries, and every tensor under the dotted path of the dicts and lists that it is in: "ema.s_embedder.weight". A
// pickle is a graph that can be far larger than its file: the walk has a bound, and the result says where it ended.
Component inspect_torch_file(const std::string& path);

}  // namespace raedit::cli
