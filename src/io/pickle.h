// A restricted unpickler: None, bool, int, float, str, bytes, tuple, list, dict, set, and of torch's objects tensors,
// parameters, storages, dtypes, sizes and devices. Nothing is ever called or imported: a global outside that list is
// Error(unsupported) with its name. Depth, number of values and memory are bounded, whatever the file says.
// Source: Lib/pickletools.py (protocols 0 to 5), torch/_utils.py, torch/serialization.py.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "raedit/dtype.h"

namespace raedit {

enum class PickleKind {
  none,
  boolean,
  integer,
  real,
  string,
  bytes,
  tuple,
  list,
  dict,
  set,
  tensor,
  storage,
  dtype,
  other
};

std::string_view to_string(PickleKind kind);

// Where a tensor's numbers are: strides and offset count elements, as in torch.
struct PickledTensor {
  std::string storage_key;
  DType dtype = DType::float32;
  uint64_t storage_bytes = 0;
  int64_t storage_numel = 0;  // elements of `dtype`
  int64_t storage_offset = 0;
  std::vector<int64_t> size, stride;
};

struct PickleGraph;

// A handle on one value of a pickle; copies are cheap and keep the whole pickle alive. A pickle is a graph: walking it
// must be bounded by the walker.
class PickleValue {
 public:
  PickleKind kind() const;
  // These throw Error(format) naming the kind found, unless the value is of that kind.
  bool boolean() const;
  int64_t integer() const;
  double real() const;  // an integer too
  std::string_view string() const;
  const PickledTensor& tensor() const;
  // For messages: "a list", "an integer beyond 64 bits", "a complex64 tensor".
  std::string describe() const;

  // tuple, list, set: items; dict: entries in the order of the file.
  size_t size() const;
  PickleValue item(size_t i) const;  // of a dict: the value
  PickleValue key(size_t i) const;   // of a dict
  // Of a dict with string keys; the last of several equal ones, as in Python.
  std::optional<PickleValue> find(std::string_view key) const;
  bool is_dict() const { return kind() == PickleKind::dict; }

 private:
  friend class Unpickler;
  PickleValue(std::shared_ptr<const PickleGraph> graph, uint32_t node) : graph_(std::move(graph)), node_(node) {}
  std::shared_ptr<const PickleGraph> graph_;
  uint32_t node_ = 0;
};

// A storage that the pickle's tensors look at.
struct PickledStorage {
  std::string key;
  uint64_t numel = 0;  // elements of `item_bytes`
  size_t item_bytes = 1;
};

struct ParsedPickle {
  PickleValue root;
  size_t bytes = 0;                      // up to and with STOP; more may follow
  std::vector<PickledStorage> storages;  // each key once
};

inline constexpr size_t kMaxPickleBytes = size_t{64} << 20;

// One pickle from the beginning of `bytes`. `where` names it in messages, and `offset` is where in that file it begins.
// Throws Error(format) naming the byte, Error(unsupported) naming the global or opcode that is refused.
ParsedPickle parse_pickle(std::string_view bytes, const std::string& where, uint64_t offset = 0);

}  // namespace raedit
