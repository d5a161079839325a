// What a pickle becomes: nodes in one vector that name each other by index, so that neither building nor destroying
// them recurses, and circles are harmless. Every byte is counted against one bound.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/pickle.h"

namespace raedit {

inline constexpr size_t kMaxPickleMemory = size_t{256} << 20;

// The only globals a pickle may name. They are never imported or called: each stands for a few lines of ours.
enum class PickleGlobal : uint8_t {
  ordered_dict,
  set,
  bytes,
  encode,
  rebuild_tensor,
  rebuild_tensor_v2,
  rebuild_tensor_v3,
  rebuild_parameter,
  rebuild_parameter_with_state,
  size,
  device,
  storage,
};

struct PickleNode {
  PickleKind kind = PickleKind::none;
  std::optional<PickleGlobal> global = {};  // of PickleKind::other
  uint32_t length = 0;                      // of a text
  int64_t value = 0;                        // the number, or an index into the vector that the kind needs

  double real() const { return std::bit_cast<double>(value); }
  size_t index() const { return static_cast<size_t>(value); }
};

struct PickleStorage {
  std::string key;
  std::optional<DType> dtype;
  std::string unknown;  // the dtype's name where it is one that DType lacks
  uint64_t numel = 0;
  size_t item_bytes = 1;
  std::optional<std::pair<int64_t, int64_t>> view;  // of the legacy format: first element and how many
};

struct PickleGraph {
  std::string where;
  std::vector<PickleNode> nodes;
  std::string text;
  std::vector<std::vector<uint32_t>> containers;  // of a dict: key, value, key, value, ...
  std::vector<PickledTensor> tensors;
  std::vector<PickleStorage> storages;
  size_t memory = 0;

  // Throws Error(format) when the pickle has grown too large.
  void charge(size_t bytes);

  uint32_t add(const PickleNode& node);
  uint32_t add_text(PickleKind kind, std::string_view text);
  // Something that may be there but not used; `description` is for messages.
  uint32_t add_other(std::string_view description) { return add_text(PickleKind::other, description); }
  uint32_t add_container(PickleKind kind, std::vector<uint32_t> items);
  void append(uint32_t container, uint32_t item);

  bool is(uint32_t node, PickleKind kind) const { return nodes[node].kind == kind; }
  std::string_view text_of(uint32_t node) const;
  const std::vector<uint32_t>& items(uint32_t node) const { return containers[nodes[node].index()]; }
  std::string describe(uint32_t node) const;
};

}  // namespace raedit
