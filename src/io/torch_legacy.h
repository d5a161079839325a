// torch.save's format before 1.6: five pickles (magic number, protocol, system, object, storage keys), then for each
// key the number of elements and the elements. Source: torch/serialization.py (_legacy_save, _legacy_load).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "io/files.h"
#include "io/pickle.h"

namespace raedit {

struct TorchLegacy {
  struct Record {
    uint64_t offset = 0;
    uint64_t bytes = 0;
  };
  PickleValue root;
  std::map<std::string, Record> records;  // by storage key
};

// Whether the file begins as a pickle and not as safetensors, which can begin with the same two bytes.
bool begins_as_pickle(std::string_view content);

// Throws Error(format) naming the byte, Error(unsupported).
TorchLegacy read_torch_legacy(const MappedFile& file);

}  // namespace raedit
