// A checkpoint file of upstream's: a bare state dict, or one inside a training checkpoint, under wrappers' prefixes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/weight_set.h"

namespace raedit::convert {

struct StateDict {
  std::shared_ptr<const WeightSet> weights;  // without wrappers' prefixes
  std::string key;                           // where in the file it was: "ema", or "" for the file itself
};

// .safetensors, or whatever torch.save wrote. `key` is a dotted path; without one, the first of `candidates` that names
// a dict in the file's dict is entered, again and again while there is one. Prefixes that all names share (module.,
// _orig_mod., model.) are taken off. Throws Error(not_found) for a key that leads nowhere, naming what is there.
StateDict open_state_dict(const std::string& path, const std::string& key, const std::vector<std::string>& candidates);

// Those names that begin with `prefix`, without it. Null when there is none.
std::shared_ptr<const WeightSet> below(const std::shared_ptr<const WeightSet>& weights, const std::string& prefix);

}  // namespace raedit::convert
