#include "io/torch_write.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <set>

#include "core/check.h"
#include "core/json.h"
#include "io/safetensors_format.h"

namespace raedit {
namespace {

using safetensors_format::in_quotes;

static_assert(std::endian::native == std::endian::little, "the record `byteorder` says so");

constexpr uint64_t kAlignment = 64;

// The class of torch's typed storage; nullptr for the dtypes that came after those classes and have none.
const char* storage_class(DType dtype) {
  switch (dtype) {
    case DType::float64: return "DoubleStorage";
    case DType::float32: return "FloatStorage";
    case DType::float16: return "HalfStorage";
    case DType::bfloat16: return "BFloat16Storage";
    case DType::int64: return "LongStorage";
    case DType::int32: return "IntStorage";
    case DType::int16: return "ShortStorage";
    case DType::int8: return "CharStorage";
    case DType::uint8: return "ByteStorage";
    case DType::bool8: return "BoolStorage";
    case DType::uint64:
    case DType::uint32:
    case DType::uint16:
    case DType::float8_e4m3fn:
    case DType::float8_e5m2: return nullptr;
  }
  return nullptr;
}

// The instructions of a pickle, protocol 2, as the bytes they are.
class Pickle {
 public:
  Pickle() : bytes_("\x80\x02") {}
  Pickle& op(char code) {
    bytes_ += code;
    return *this;
  }
  Pickle& mark() { return op('('); }
  Pickle& tuple() { return op('t'); }  // of everything since the mark
  Pickle& global(std::string_view module, std::string_view name) {
    bytes_ += fmt::format("c{}\n{}\n", module, name);
    return *this;
  }
  Pickle& string(std::string_view text) { return op('X').little_endian(text.size(), 4).raw(text); }
  Pickle& integer(int64_t value) {
    if (value >= 0 && value < 0x100) return op('K').little_endian(static_cast<uint64_t>(value), 1);
    if (value >= 0 && value <= INT32_MAX) return op('J').little_endian(static_cast<uint64_t>(value), 4);
    return op('\x8a').little_endian(8, 1).little_endian(static_cast<uint64_t>(value), 8);
  }
  Pickle& integers(const std::vector<int64_t>& values) {
    mark();
    for (const int64_t value : values) integer(value);
    return tuple();
  }
  Pickle& ordered_dict() { return global("collections", "OrderedDict").op(')').op('R'); }
  const std::string& bytes() const { return bytes_; }

 private:
  Pickle& raw(std::string_view text) {
    bytes_ += text;
    return *this;
  }
  Pickle& little_endian(uint64_t value, int width) {
    for (int i = 0; i < width; ++i) bytes_ += static_cast<char>(value >> (8 * i) & 0xff);
    return *this;
  }
  std::string bytes_;
};

std::vector<int64_t> contiguous_strides(const Shape& shape) {
  std::vector<int64_t> strides(static_cast<size_t>(shape.rank()));
  int64_t stride = 1;
  for (size_t i = strides.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(1, shape[static_cast<int>(i)]);
  }
  return strides;
}

// _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks), or v3 of an untyped storage with the dtype
// behind. The storage is the persistent id ('storage', class, record, device, elements).
void pickle_tensor(Pickle& pickle, const TensorSource& source, size_t record) {
  const char* typed = storage_class(source.dtype);
  pickle.global("torch._utils", typed ? "_rebuild_tensor_v2" : "_rebuild_tensor_v3").mark();
  pickle.mark().string("storage");
  typed ? pickle.global("torch", typed) : pickle.global("torch.storage", "UntypedStorage");
  pickle.string(fmt::to_string(record)).string("cpu");
  pickle.integer(typed ? source.shape.numel() : static_cast<int64_t>(source.nbytes())).tuple().op('Q');
  pickle.integer(0).integers({source.shape.begin(), source.shape.end()}).integers(contiguous_strides(source.shape));
  pickle.op('\x89').ordered_dict();  // False: no gradient; no hooks
  if (!typed) pickle.global("torch", name_of(source.dtype));
  pickle.tuple().op('R');
}

std::string pickle_of(const std::vector<TensorSource>& tensors, const std::string& key) {
  Pickle pickle;
  if (!key.empty()) pickle.op('}').string(key);
  pickle.ordered_dict().mark();
  for (size_t i = 0; i < tensors.size(); ++i) {
    pickle.string(tensors[i].name);
    pickle_tensor(pickle, tensors[i], i);
  }
  pickle.op('u');
  if (!key.empty()) pickle.op('s');
  return pickle.op('.').bytes();
}

void check_utf8(const std::string& text, const std::string& path) {
  try {
    (void)Json(text).dump();
  } catch (const Json::exception&) {
    raise({.code = ErrorCode::invalid_argument, .what = "a name for a torch file is not UTF-8", .where = path});
  }
}

void check_names(const std::vector<TensorSource>& tensors, const std::string& key, const std::string& path) {
  check_utf8(key, path);
  std::set<std::string_view> names;
  for (const TensorSource& tensor : tensors) {
    check_utf8(tensor.name, path);
    RAEDIT_CHECK(names.insert(tensor.name).second, {.code = ErrorCode::invalid_argument,
                                                    .what = "tensor name " + in_quotes(tensor.name) + " comes twice",
                                                    .where = path});
  }
}

// The folder inside the zip: the file's stem, or as in torch "archive" where that is not plain ASCII.
std::string prefix_of(const std::string& path) {
  const std::string stem = std::filesystem::path(path).stem().string();
  const bool plain = std::all_of(stem.begin(), stem.end(), [](char c) { return c >= ' ' && c < 0x7f && c != '\\'; });
  return plain && !stem.empty() ? stem : "archive";
}

// The records of one file; keeps what the last one, the file's fingerprint, is made of.
class Records {
 public:
  Records(const std::string& path, uint64_t zip64_from)
      : path_(path), zip_(path, zip64_from), prefix_(prefix_of(path) + "/") {}

  void add(const std::string& name, std::string_view content) {
    include(name, zip_.add_aligned(prefix_ + name, content, kAlignment));
  }
  void add(const std::string& name, const TensorSource& tensor) {
    include(name, zip_.add_aligned(
                      prefix_ + name, tensor.nbytes(), [&](const ByteSink& sink) { stream(tensor, path_, sink); },
                      kAlignment));
  }
  void commit() {
    add(".data/serialization_id", fmt::format("{:020}{:020}", names_, contents_));
    zip_.commit();
  }

 private:
  // FNV-1a. torch asks only for forty digits that differ where files differ.
  static void mix(uint64_t& hash, std::string_view bytes) {
    for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  }
  void include(const std::string& name, uint32_t crc) {
    mix(names_, name);
    mix(contents_, fmt::to_string(crc));
  }

  std::string path_;
  ZipWriter zip_;
  std::string prefix_;
  uint64_t names_ = 0xcbf29ce484222325, contents_ = 0xcbf29ce484222325;
};

}  // namespace

void write_torch(const std::string& path, const std::vector<TensorSource>& tensors, const std::string& key,
                 uint64_t zip64_from) {
  check_names(tensors, key, path);
  Records records(path, zip64_from);
  records.add("data.pkl", pickle_of(tensors, key));
  records.add(".format_version", "1");
  records.add(".storage_alignment", fmt::to_string(kAlignment));
  records.add("byteorder", "little");
  for (size_t i = 0; i < tensors.size(); ++i) {
    records.add(fmt::format("data/{}", i), tensors[i]);
  }
  records.add("version", "3\n");
  records.commit();
}

}  // namespace raedit
