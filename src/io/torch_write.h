// Writes what torch.load reads: a dict of tensors as a zip of one pickle (protocol 2) and one stored record per tensor,
// 64-byte aligned, as torch.save does since 1.6. Opens with weights_only=True. Source: torch/serialization.py,
// caffe2/serialize/inline_container.cc.
#pragma once

#include <string>
#include <vector>

#include "io/safetensors.h"

namespace raedit {

// {name: tensor, ...} as an OrderedDict in the order given, or with `key` {key: OrderedDict}. One tensor is in memory
// at a time. The file appears whole or not at all. Throws Error(unsupported) for a dtype that torch lacks a storage
// for.
void write_torch(const std::string& path, const std::vector<TensorSource>& tensors, const std::string& key = "");

}  // namespace raedit
