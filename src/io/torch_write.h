// Writes what torch.load reads: a dict of tensors as a zip of one pickle (protocol 2) and one stored record per tensor,
// 64-byte aligned, as torch.save does since 1.6. Opens with weights_only=True. Source: torch/serialization.py,
// caffe2/serialize/inline_container.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "io/zip_writer.h"

namespace raedit {

// {name: tensor, ...} as an OrderedDict in the order given, or with `key` {key: OrderedDict}. Each tensor is produced
// once, and one is in memory at a time. The file appears whole or not at all. Throws Error(invalid_argument) for a name
// that comes twice or is not UTF-8. float8 and uint16 to uint64 are written as torch writes them, which needs torch 2.3
// to read. `zip64_from` as in ZipWriter.
void write_torch(const std::string& path, const std::vector<TensorSource>& tensors, const std::string& key = "",
                 uint64_t zip64_from = ZipWriter::kZip64From);

}  // namespace raedit
