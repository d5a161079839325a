#include "io/pickle_globals.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/check.h"
#include "io/safetensors_format.h"
#include "raedit/shape.h"

namespace raedit {

using safetensors_format::in_quotes;

namespace {

struct Function {
  std::string_view module, name;
  PickleGlobal global;
};

constexpr std::array kFunctions = {
    Function{"collections", "OrderedDict", PickleGlobal::ordered_dict},
    Function{"builtins", "set", PickleGlobal::set},
    Function{"builtins", "frozenset", PickleGlobal::set},
    Function{"builtins", "bytes", PickleGlobal::bytes},
    Function{"__builtin__", "set", PickleGlobal::set},
    Function{"__builtin__", "frozenset", PickleGlobal::set},
    Function{"__builtin__", "bytes", PickleGlobal::bytes},
    Function{"_codecs", "encode", PickleGlobal::encode},
    Function{"torch._utils", "_rebuild_tensor", PickleGlobal::rebuild_tensor},
    Function{"torch._utils", "_rebuild_tensor_v2", PickleGlobal::rebuild_tensor_v2},
    Function{"torch._utils", "_rebuild_tensor_v3", PickleGlobal::rebuild_tensor_v3},
    Function{"torch._utils", "_rebuild_parameter", PickleGlobal::rebuild_parameter},
    Function{"torch._utils", "_rebuild_parameter_with_state", PickleGlobal::rebuild_parameter_with_state},
    Function{"torch", "Size", PickleGlobal::size},
    Function{"torch", "device", PickleGlobal::device},
};

struct StorageType {
  std::string_view name;
  std::string_view dtype;  // torch's name
  size_t item_bytes;
};

constexpr std::array kStorages = {
    StorageType{"DoubleStorage", "float64", 8},
    StorageType{"FloatStorage", "float32", 4},
    StorageType{"HalfStorage", "float16", 2},
    StorageType{"BFloat16Storage", "bfloat16", 2},
    StorageType{"LongStorage", "int64", 8},
    StorageType{"IntStorage", "int32", 4},
    StorageType{"ShortStorage", "int16", 2},
    StorageType{"CharStorage", "int8", 1},
    StorageType{"ByteStorage", "uint8", 1},
    StorageType{"BoolStorage", "bool", 1},
    StorageType{"ComplexDoubleStorage", "complex128", 16},
    StorageType{"ComplexFloatStorage", "complex64", 8},
    StorageType{"UntypedStorage", "uint8", 1},
};

// Well-formed, but nothing here can hold them: an error once their numbers are asked for.
constexpr std::array<std::string_view, 9> kUnknownDTypes = {"complex32",       "complex64",       "complex128",
                                                            "chalf",           "cfloat",          "cdouble",
                                                            "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"};

constexpr size_t kMaxStorageKey = 256;

std::optional<DType> known_dtype(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DType::bool8); ++i)
    if (name_of(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  return std::nullopt;
}

std::string latin1_of(std::string_view utf8, bool& possible) {
  std::string bytes;
  for (size_t i = 0; i < utf8.size() && possible; ++i) {
    const auto lead = static_cast<unsigned char>(utf8[i]);
    if (lead < 0x80) {
      bytes += utf8[i];
    } else if ((lead == 0xc2 || lead == 0xc3) && i + 1 < utf8.size()) {
      bytes += static_cast<char>(((lead & 3) << 6) | (static_cast<unsigned char>(utf8[++i]) & 0x3f));
    } else {
      possible = false;
    }
  }
  return bytes;
}

}  // namespace

void PickleGlobals::fail(const std::string& what, const std::string& found) const {
  raise({.code = ErrorCode::format, .what = what, .where = graph_.where, .found = found});
}

uint32_t PickleGlobals::find(std::string_view module, std::string_view name) {
  for (const Function& function : kFunctions)
    if (function.module == module && function.name == name)
      return graph_.add({.kind = PickleKind::other, .global = function.global});
  if (module == "torch" || module == "torch.storage")
    for (size_t i = 0; i < kStorages.size(); ++i)
      if (kStorages[i].name == name)
        return graph_.add(
            {.kind = PickleKind::other, .global = PickleGlobal::storage, .value = static_cast<int64_t>(i)});
  if (module == "torch") {
    if (const auto dtype = known_dtype(name))
      return graph_.add({.kind = PickleKind::dtype, .value = static_cast<int64_t>(*dtype)});
    if (std::find(kUnknownDTypes.begin(), kUnknownDTypes.end(), name) != kUnknownDTypes.end())
      return graph_.add_other(name);
  }
  raise({.code = ErrorCode::unsupported,
         .what = fmt::format("global {} is refused", in_quotes(fmt::format("{}.{}", module, name))),
         .where = graph_.where,
         .hint = "raedit reads tensors and plain containers only, and executes nothing; if you trust this file, save "
                 "its tensors alone with PyTorch"});
}

const std::vector<uint32_t>& PickleGlobals::arguments(uint32_t tuple, size_t least, size_t most,
                                                      const char* what) const {
  if (!graph_.is(tuple, PickleKind::tuple))
    fail(fmt::format("the arguments of {} are no tuple", what), graph_.describe(tuple));
  const std::vector<uint32_t>& items = graph_.items(tuple);
  if (items.size() < least || items.size() > most)
    fail(fmt::format("{} has the wrong number of arguments", what), fmt::to_string(items.size()));
  return items;
}

int64_t PickleGlobals::count(uint32_t node, const char* what) const {
  if (!graph_.is(node, PickleKind::integer)) fail(fmt::format("{} is no integer", what), graph_.describe(node));
  const int64_t value = graph_.nodes[node].value;
  if (value < 0) fail(fmt::format("{} is negative", what), fmt::to_string(value));
  return value;
}

std::vector<int64_t> PickleGlobals::counts(uint32_t node, const char* what) const {
  if (!graph_.is(node, PickleKind::tuple) && !graph_.is(node, PickleKind::list))
    fail(fmt::format("{} is no tuple", what), graph_.describe(node));
  const std::vector<uint32_t>& items = graph_.items(node);
  RAEDIT_CHECK(items.size() <= Shape::kMaxRank, {.code = ErrorCode::unsupported,
                                                 .what = "a tensor has too many dimensions",
                                                 .where = graph_.where,
                                                 .found = fmt::to_string(items.size()),
                                                 .expected = fmt::format("at most {}", Shape::kMaxRank)});
  std::vector<int64_t> values;
  for (const uint32_t item : items) values.push_back(count(item, what));
  return values;
}

// torch notes here that the numbers in the file are yet to be negated or conjugated.
void PickleGlobals::refuse_conjugate(uint32_t metadata) const {
  if (!graph_.is(metadata, PickleKind::dict)) return;
  const std::vector<uint32_t>& items = graph_.items(metadata);
  graph_.charge(items.size() * sizeof(uint32_t));  // many tensors can share one: the walks must not multiply
  for (size_t i = 1; i < items.size(); i += 2)
    RAEDIT_CHECK(graph_.is(items[i], PickleKind::boolean) && graph_.nodes[items[i]].value == 0,
                 {.code = ErrorCode::unsupported,
                  .what = "a tensor was saved as the negative or conjugate view of another",
                  .where = graph_.where,
                  .hint = "save it with resolve_neg() and resolve_conj()"});
}

uint32_t PickleGlobals::tensor(const std::vector<uint32_t>& arguments, uint32_t dtype) {
  const uint32_t node = arguments[0];
  if (!graph_.is(node, PickleKind::storage)) fail("a tensor is built on no storage", graph_.describe(node));
  const PickleStorage& storage = graph_.storages[graph_.nodes[node].index()];
  PickledTensor tensor;
  tensor.storage_offset = count(arguments[1], "a tensor's offset");
  tensor.size = counts(arguments[2], "a tensor's size");
  tensor.stride = counts(arguments[3], "a tensor's stride");
  if (tensor.size.size() != tensor.stride.size())
    fail("a tensor's size and stride differ in length",
         fmt::format("{} and {}", tensor.size.size(), tensor.stride.size()));
  if (!graph_.is(dtype, PickleKind::dtype) && !graph_.is(dtype, PickleKind::storage))
    return graph_.add_other(fmt::format("a tensor of {}", graph_.describe(dtype)));
  if (graph_.is(dtype, PickleKind::storage)) {
    if (!storage.dtype) return graph_.add_other(fmt::format("a tensor of {}", storage.unknown));
    tensor.dtype = *storage.dtype;
  } else {
    tensor.dtype = static_cast<DType>(graph_.nodes[dtype].value);
  }
  tensor.storage_key = storage.key;
  tensor.storage_bytes = storage.numel * storage.item_bytes;
  tensor.storage_numel = static_cast<int64_t>(tensor.storage_bytes / size_of(tensor.dtype));
  if (storage.view) {
    check_view(tensor, storage.view->second);
    if (__builtin_add_overflow(tensor.storage_offset, storage.view->first, &tensor.storage_offset))
      fail("a tensor's offset overflows");
  }
  graph_.charge(sizeof(tensor) + tensor.storage_key.size() + 2 * sizeof(int64_t) * tensor.size.size());
  graph_.tensors.push_back(std::move(tensor));
  return graph_.add({.kind = PickleKind::tensor, .value = static_cast<int64_t>(graph_.tensors.size() - 1)});
}

// Of a view of a storage: whether the tensor stays within its `elements`.
void PickleGlobals::check_view(const PickledTensor& tensor, int64_t elements) const {
  int64_t last = tensor.storage_offset;
  bool fits = true;
  for (size_t i = 0; i < tensor.size.size(); ++i) {
    if (tensor.size[i] == 0) return;
    int64_t reach = 0;
    fits = fits && !__builtin_mul_overflow(tensor.size[i] - 1, tensor.stride[i], &reach) &&
           !__builtin_add_overflow(last, reach, &last);
  }
  if (!fits || last >= elements) fail("a tensor reaches beyond its view of a storage");
}

uint32_t PickleGlobals::ordered_dict(const std::vector<uint32_t>& arguments) {
  std::vector<uint32_t> entries;
  if (!arguments.empty()) {  // Python 2 gives the pairs as an argument
    if (!graph_.is(arguments[0], PickleKind::list) && !graph_.is(arguments[0], PickleKind::tuple))
      fail("an OrderedDict is made from no list", graph_.describe(arguments[0]));
    for (const uint32_t pair : graph_.items(arguments[0])) {
      const bool ok =
          (graph_.is(pair, PickleKind::list) || graph_.is(pair, PickleKind::tuple)) && graph_.items(pair).size() == 2;
      if (!ok) fail("an OrderedDict has an entry that is no pair", graph_.describe(pair));
      entries.insert(entries.end(), graph_.items(pair).begin(), graph_.items(pair).end());
    }
  }
  return graph_.add_container(PickleKind::dict, std::move(entries));
}

// Python 3 writes bytes like this in protocols below 3.
uint32_t PickleGlobals::encoded(const std::vector<uint32_t>& arguments) {
  if (!graph_.is(arguments[0], PickleKind::string)) fail("_codecs.encode of no string", graph_.describe(arguments[0]));
  const bool latin1 = arguments.size() == 2 && graph_.is(arguments[1], PickleKind::string) &&
                      (graph_.text_of(arguments[1]) == "latin1" || graph_.text_of(arguments[1]) == "latin-1");
  RAEDIT_CHECK(latin1, {.code = ErrorCode::unsupported,
                        .what = "_codecs.encode is known with latin1 only",
                        .where = graph_.where,
                        .found = arguments.size() == 2 && graph_.is(arguments[1], PickleKind::string)
                                     ? in_quotes(graph_.text_of(arguments[1]))
                                     : "another encoding"});
  bool possible = true;
  const std::string bytes = latin1_of(graph_.text_of(arguments[0]), possible);
  if (!possible) fail("_codecs.encode of text that is not latin1");
  return graph_.add_text(PickleKind::bytes, bytes);
}

uint32_t PickleGlobals::call(uint32_t callable, uint32_t tuple) {
  const PickleNode node = graph_.nodes[callable];
  if (!node.global) fail("REDUCE calls what is no function", graph_.describe(callable));
  switch (*node.global) {
    case PickleGlobal::ordered_dict: return ordered_dict(arguments(tuple, 0, 1, "OrderedDict"));
    case PickleGlobal::encode: return encoded(arguments(tuple, 1, 2, "_codecs.encode"));
    case PickleGlobal::bytes: arguments(tuple, 0, 0, "bytes"); return graph_.add_text(PickleKind::bytes, "");
    case PickleGlobal::set:
    case PickleGlobal::size: {
      const bool is_set = *node.global == PickleGlobal::set;
      const auto& given = arguments(tuple, 0, 1, is_set ? "set" : "torch.Size");
      if (!given.empty() && !graph_.is(given[0], PickleKind::list) && !graph_.is(given[0], PickleKind::tuple))
        fail(is_set ? "a set is made from no list" : "a torch.Size is made from no tuple", graph_.describe(given[0]));
      return graph_.add_container(is_set ? PickleKind::set : PickleKind::tuple,
                                  given.empty() ? std::vector<uint32_t>{} : graph_.items(given[0]));
    }
    case PickleGlobal::device: arguments(tuple, 0, 2, "torch.device"); return graph_.add_other("a torch.device");
    case PickleGlobal::rebuild_tensor: {
      const auto& given = arguments(tuple, 4, 4, "_rebuild_tensor");
      return tensor(given, given[0]);
    }
    case PickleGlobal::rebuild_tensor_v2: {
      const auto& given = arguments(tuple, 6, 7, "_rebuild_tensor_v2");
      if (given.size() == 7) refuse_conjugate(given[6]);
      return tensor(given, given[0]);
    }
    case PickleGlobal::rebuild_tensor_v3: {
      const auto& given = arguments(tuple, 7, 8, "_rebuild_tensor_v3");
      if (given.size() == 8) refuse_conjugate(given[7]);
      return tensor(given, given[6]);
    }
    case PickleGlobal::rebuild_parameter: return arguments(tuple, 3, 3, "_rebuild_parameter")[0];
    case PickleGlobal::rebuild_parameter_with_state: return arguments(tuple, 4, 4, "_rebuild_parameter_with_state")[0];
    case PickleGlobal::storage: break;
  }
  fail("REDUCE calls a storage, which stands for no tensor");
}

uint32_t PickleGlobals::storage(uint32_t id) {
  const std::vector<uint32_t>& parts = arguments(id, 1, 6, "a persistent id");
  if (!graph_.is(parts[0], PickleKind::string)) fail("a persistent id names no kind", graph_.describe(parts[0]));
  RAEDIT_CHECK(graph_.text_of(parts[0]) == "storage",
               {.code = ErrorCode::unsupported,
                .what = "persistent id " + in_quotes(graph_.text_of(parts[0])) + " is refused",
                .where = graph_.where,
                .expected = "'storage'",
                .hint = "raedit reads tensors and plain containers only; save a state_dict"});
  if (parts.size() < 5) fail("a storage's persistent id is too short", fmt::to_string(parts.size()));
  const PickleNode& type = graph_.nodes[parts[1]];
  if (type.global != PickleGlobal::storage) fail("a storage's type is none", graph_.describe(parts[1]));
  const StorageType& found = kStorages[type.index()];
  PickleStorage storage;
  storage.dtype = known_dtype(found.dtype);
  if (!storage.dtype) storage.unknown = found.dtype;
  storage.item_bytes = found.item_bytes;
  storage.numel = static_cast<uint64_t>(count(parts[4], "a storage's number of elements"));
  if (storage.numel > static_cast<uint64_t>(INT64_MAX) / storage.item_bytes)
    fail("a storage's number of elements overflows", fmt::to_string(storage.numel));
  if (graph_.is(parts[2], PickleKind::integer))
    storage.key = fmt::to_string(graph_.nodes[parts[2]].value);
  else if (graph_.is(parts[2], PickleKind::string) && graph_.text_of(parts[2]).size() <= kMaxStorageKey)
    storage.key = graph_.text_of(parts[2]);
  else
    fail("a storage's key is no short string", graph_.describe(parts[2]));
  if (parts.size() == 6 && !graph_.is(parts[5], PickleKind::none)) {
    const auto& view = arguments(parts[5], 3, 3, "a view of a storage");
    storage.view = {count(view[1], "the offset of a view"), count(view[2], "the size of a view")};
  }
  graph_.charge(sizeof(storage) + storage.key.size());
  graph_.storages.push_back(std::move(storage));
  return graph_.add({.kind = PickleKind::storage, .value = static_cast<int64_t>(graph_.storages.size() - 1)});
}

}  // namespace raedit
