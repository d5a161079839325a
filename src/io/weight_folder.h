// The weights of a model folder, whoever wrote them: safetensors, or PyTorch's .bin where there are none.
#pragma once

#include <memory>
#include <string>

#include "io/weight_set.h"

namespace raedit {

// BASE[.VARIANT].safetensors or its index with shards (SafetensorsSet), which wins; else
//   BASE[.VARIANT].bin, or BASE.bin.index[.VARIANT].json beside BASE[.VARIANT]-00001-of-0000N.bin
// For transformers' base name "model", PyTorch's files are called "pytorch_model". Throws Error(not_found) saying what
// is there instead, Error(format) where index and shards do not belong together.
std::shared_ptr<const WeightSet> open_weights(const std::string& folder,
                                              const std::string& base = "diffusion_pytorch_model",
                                              const std::string& variant = "");

// By content; where that is neither a torch file's nor a safetensors file's, by the ending: opening it then says what
// is wrong in the right words.
bool is_torch_file(const std::string& path);

// One file of either kind, told by content, whatever its name: a torch file must be a dict of tensors.
std::shared_ptr<const WeightSet> open_weight_file(const std::string& path);

}  // namespace raedit
