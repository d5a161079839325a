// The globals that a pickle may name, and what calling them means here. Source: torch/_utils.py, torch/storage.py,
// Lib/collections, Lib/_codecs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "io/pickle_graph.h"

namespace raedit {

class PickleGlobals {
 public:
  explicit PickleGlobals(PickleGraph& graph) : graph_(graph) {}

  // A node for the global. Throws Error(unsupported) naming every one that is not known.
  uint32_t find(std::string_view module, std::string_view name);
  // REDUCE: `callable` of `arguments`. Throws Error(unsupported), Error(format).
  uint32_t call(uint32_t callable, uint32_t arguments);
  // BINPERSID: ('storage', type, key, location, numel[, view]).
  uint32_t storage(uint32_t id);

 private:
  [[noreturn]] void fail(const std::string& what, const std::string& found = "") const;
  const std::vector<uint32_t>& arguments(uint32_t tuple, size_t least, size_t most, const char* what) const;
  int64_t count(uint32_t node, const char* what) const;
  std::vector<int64_t> counts(uint32_t node, const char* what) const;
  void refuse_conjugate(uint32_t metadata) const;
  uint32_t tensor(const std::vector<uint32_t>& arguments, uint32_t dtype);
  void check_view(const PickledTensor& tensor, int64_t elements) const;
  uint32_t ordered_dict(const std::vector<uint32_t>& arguments);
  uint32_t encoded(const std::vector<uint32_t>& arguments);

  PickleGraph& graph_;
};

}  // namespace raedit
