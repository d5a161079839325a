// The values of a pickle as callers see them, and the graph below.
#include "io/pickle.h"

#include <fmt/format.h>

#include <array>

#include "core/check.h"
#include "core/text.h"
#include "io/pickle_graph.h"

namespace raedit {
namespace {

constexpr std::array<std::string_view, 14> kKinds = {"None",     "a bool",    "an integer", "a float",       "a string",
                                                     "bytes",    "a tuple",   "a list",     "a dict",        "a set",
                                                     "a tensor", "a storage", "a dtype",    "something else"};

[[noreturn]] void raise_kind(const PickleGraph& graph, uint32_t node, const char* expected) {
  raise({.code = ErrorCode::format,
         .what = "value in the pickle is of another kind",
         .where = graph.where,
         .found = graph.describe(node),
         .expected = expected});
}

}  // namespace

std::string_view to_string(PickleKind kind) {
  return kKinds[static_cast<size_t>(kind)];
}

void PickleGraph::charge(size_t bytes) {
  RAEDIT_CHECK(bytes <= kMaxPickleMemory - memory,
               {.code = ErrorCode::format,
                .what = "the pickle unfolds to too many values",
                .where = where,
                .found = "more than " + human_bytes(kMaxPickleMemory),
                .hint = "no state dict is that large without its tensors; the file is damaged or means harm"});
  memory += bytes;
}

uint32_t PickleGraph::add(const PickleNode& node) {
  charge(sizeof(PickleNode));
  nodes.push_back(node);
  return static_cast<uint32_t>(nodes.size() - 1);
}

uint32_t PickleGraph::add_text(PickleKind kind, std::string_view added) {
  charge(added.size());
  text += added;
  return add({.kind = kind,
              .length = static_cast<uint32_t>(added.size()),
              .value = static_cast<int64_t>(text.size() - added.size())});
}

uint32_t PickleGraph::add_container(PickleKind kind, std::vector<uint32_t> items) {
  charge(sizeof(items) + items.size() * sizeof(uint32_t));
  containers.push_back(std::move(items));
  return add({.kind = kind, .value = static_cast<int64_t>(containers.size() - 1)});
}

void PickleGraph::append(uint32_t container, uint32_t item) {
  charge(sizeof(item));
  containers[nodes[container].index()].push_back(item);
}

std::string_view PickleGraph::text_of(uint32_t node) const {
  return std::string_view(text).substr(nodes[node].index(), nodes[node].length);
}

std::string PickleGraph::describe(uint32_t node) const {
  const PickleNode& found = nodes[node];
  return std::string(found.kind == PickleKind::other ? text_of(node) : to_string(found.kind));
}

PickleKind PickleValue::kind() const {
  return graph_->nodes[node_].kind;
}

std::string PickleValue::describe() const {
  return graph_->describe(node_);
}

bool PickleValue::boolean() const {
  if (kind() != PickleKind::boolean) raise_kind(*graph_, node_, "a bool");
  return graph_->nodes[node_].value != 0;
}

int64_t PickleValue::integer() const {
  if (kind() != PickleKind::integer) raise_kind(*graph_, node_, "an integer");
  return graph_->nodes[node_].value;
}

double PickleValue::real() const {
  if (kind() == PickleKind::integer) return static_cast<double>(integer());
  if (kind() != PickleKind::real) raise_kind(*graph_, node_, "a number");
  return graph_->nodes[node_].real();
}

std::string_view PickleValue::string() const {
  if (kind() != PickleKind::string) raise_kind(*graph_, node_, "a string");
  return graph_->text_of(node_);
}

const PickledTensor& PickleValue::tensor() const {
  if (kind() != PickleKind::tensor) raise_kind(*graph_, node_, "a tensor");
  return graph_->tensors[graph_->nodes[node_].index()];
}

size_t PickleValue::size() const {
  switch (kind()) {
    case PickleKind::dict: return graph_->items(node_).size() / 2;
    case PickleKind::tuple:
    case PickleKind::list:
    case PickleKind::set: return graph_->items(node_).size();
    default: raise_kind(*graph_, node_, "a container");
  }
}

PickleValue PickleValue::item(size_t i) const {
  RAEDIT_CHECK(i < size(), {.code = ErrorCode::internal,
                            .what = fmt::format("no item {} among {} of a pickled container", i, size()),
                            .where = graph_->where});
  return {graph_, graph_->items(node_)[is_dict() ? 2 * i + 1 : i]};
}

PickleValue PickleValue::key(size_t i) const {
  if (!is_dict()) raise_kind(*graph_, node_, "a dict");
  RAEDIT_CHECK(i < size(), {.code = ErrorCode::internal,
                            .what = fmt::format("no key {} among {} of a pickled dict", i, size()),
                            .where = graph_->where});
  return {graph_, graph_->items(node_)[2 * i]};
}

std::optional<PickleValue> PickleValue::find(std::string_view key) const {
  if (!is_dict()) raise_kind(*graph_, node_, "a dict");
  const std::vector<uint32_t>& items = graph_->items(node_);
  for (size_t i = items.size(); i > 0; i -= 2)
    if (graph_->is(items[i - 2], PickleKind::string) && graph_->text_of(items[i - 2]) == key)
      return PickleValue(graph_, items[i - 1]);
  return std::nullopt;
}

}  // namespace raedit
