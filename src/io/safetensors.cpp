#include "io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <unordered_map>

#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "io/files.h"
#include "io/safetensors_format.h"
#include "io/weight_index.h"

namespace raedit {
namespace safetensors_format {
namespace {

// In the order of the Rust enum.
constexpr std::array<std::pair<std::string_view, DType>, 15> kCodes{{{"BOOL", DType::bool8},
                                                                     {"U8", DType::uint8},
                                                                     {"I8", DType::int8},
                                                                     {"F8_E5M2", DType::float8_e5m2},
                                                                     {"F8_E4M3", DType::float8_e4m3fn},
                                                                     {"I16", DType::int16},
                                                                     {"U16", DType::uint16},
                                                                     {"F16", DType::float16},
                                                                     {"BF16", DType::bfloat16},
                                                                     {"I32", DType::int32},
                                                                     {"U32", DType::uint32},
                                                                     {"F32", DType::float32},
                                                                     {"F64", DType::float64},
                                                                     {"I64", DType::int64},
                                                                     {"U64", DType::uint64}}};

}  // namespace

int order_of(DType dtype) {
  const auto it = std::find_if(kCodes.begin(), kCodes.end(), [&](const auto& entry) { return entry.second == dtype; });
  return static_cast<int>(it - kCodes.begin());
}

std::string_view code_of(DType dtype) {
  return kCodes.at(static_cast<size_t>(order_of(dtype))).first;
}

std::optional<DType> dtype_of(std::string_view code) {
  for (const auto& [known, dtype] : kCodes)
    if (known == code) return dtype;
  return std::nullopt;
}

std::array<std::string, 2> index_names(const std::string& base, const std::string& variant) {
  return weight_index::index_names(base, variant, "safetensors");
}

std::string in_quotes(std::string_view name) {
  constexpr size_t kShown = 200;
  size_t shown = std::min(name.size(), kShown);
  if (shown < name.size())
    while (shown > 0 && (static_cast<unsigned char>(name[shown]) & 0xc0) == 0x80) --shown;  // not inside a character
  std::string text = "'";
  for (const char c : name.substr(0, shown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      text += fmt::format("\\x{:02x}", byte);
    else
      text += c;
  }
  return text + (name.size() > shown ? "...'" : "'");
}

}  // namespace safetensors_format

namespace {

using namespace safetensors_format;

struct Entry {
  std::string name;
  TensorInfo info;  // its offset counts from the beginning of the buffer until the layout is checked
};

struct Header {
  std::vector<Entry> entries;
  SafetensorsMetadata metadata;
};

std::string bytes_text(size_t bytes) {
  return fmt::format("{} byte{}", bytes, bytes == 1 ? "" : "s");
}

// What else the file could be, for people who named the wrong one.
std::string guess(std::string_view content) {
  if (content.starts_with("version https://git-lfs"))
    return "this is a Git LFS pointer, not the file itself; fetch it with: git lfs pull";
  if (content.starts_with("PK")) return "this looks like a PyTorch archive (.bin, .pt), not safetensors";
  return "is this a complete safetensors file?";
}

std::string_view header_text(std::string_view content, const std::string& path) {
  RAEDIT_CHECK(content.size() >= kLengthBytes, {.code = ErrorCode::format,
                                                .what = "file is too short for safetensors",
                                                .where = path,
                                                .found = bytes_text(content.size()),
                                                .expected = "at least 8 bytes",
                                                .hint = "download or copy it again"});
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i)
    length |= static_cast<uint64_t>(static_cast<unsigned char>(content[i])) << (8 * i);
  RAEDIT_CHECK(length <= kMaxHeaderBytes, {.code = ErrorCode::format,
                                           .what = "safetensors header is too long",
                                           .where = path,
                                           .found = bytes_text(length),
                                           .expected = "at most " + bytes_text(kMaxHeaderBytes),
                                           .hint = guess(content)});
  RAEDIT_CHECK(length <= content.size() - kLengthBytes, {.code = ErrorCode::format,
                                                         .what = "file ends inside the safetensors header",
                                                         .where = path,
                                                         .found = bytes_text(content.size()),
                                                         .expected = "at least " + bytes_text(kLengthBytes + length),
                                                         .hint = guess(content)});
  const std::string_view header = content.substr(kLengthBytes, length);
  RAEDIT_CHECK(header.starts_with('{'),
               {.code = ErrorCode::format,
                .what = "safetensors header does not begin with '{'",
                .where = path,
                .found = header.empty() ? "nothing" : fmt::format("byte 0x{:02x}", static_cast<uint8_t>(header[0])),
                .hint = guess(content)});
  return header;
}

SafetensorsMetadata parse_metadata(const Json& value, const std::string& path) {
  RAEDIT_CHECK(value.is_object(), {.code = ErrorCode::format,
                                   .what = "safetensors __metadata__ has the wrong type",
                                   .where = path,
                                   .found = value.type_name(),
                                   .expected = "an object of strings"});
  SafetensorsMetadata metadata;
  for (const auto& [key, text] : value.items()) {
    RAEDIT_CHECK(text.is_string(), {.code = ErrorCode::format,
                                    .what = "safetensors __metadata__ " + in_quotes(key) + " has the wrong type",
                                    .where = path,
                                    .found = text.type_name(),
                                    .expected = "string"});
    metadata.emplace(key, text.get<std::string>());
  }
  return metadata;
}

// One tensor's entry of the header.
class EntryParser {
 public:
  EntryParser(const std::string& path, const std::string& name, const Json& value) : path_(path), name_(name) {
    if (!value.is_object()) fail("is not an object", value.type_name(), "an object");
    for (const auto& [key, member] : value.items()) {
      if (key == "dtype")
        dtype_ = &member;
      else if (key == "shape")
        shape_ = &member;
      else if (key == "data_offsets")
        offsets_ = &member;
      else
        fail("has an unknown key", in_quotes(key), "dtype, shape, data_offsets");
    }
    if (!dtype_ || !shape_ || !offsets_)
      fail("lacks a key",
           !dtype_   ? "no dtype"
           : !shape_ ? "no shape"
                     : "no data_offsets",
           "dtype, shape, data_offsets");
  }

  TensorInfo parse() const {
    TensorInfo info;
    info.dtype = parse_dtype();
    info.shape = parse_shape();
    const auto [begin, end] = parse_offsets();
    info.offset = begin;
    info.nbytes = end - begin;
    const size_t expected = byte_count(info);
    if (info.nbytes != expected)
      fail("has the wrong number of bytes", bytes_text(info.nbytes),
           fmt::format("{} for {} {}", bytes_text(expected), code_of(info.dtype), info.shape.str()));
    return info;
  }

 private:
  [[noreturn]] void fail(const std::string& what, const std::string& found, const std::string& expected,
                         ErrorCode code = ErrorCode::format) const {
    raise({.code = code,
           .what = "tensor " + in_quotes(name_) + " " + what,
           .where = path_,
           .found = found,
           .expected = expected});
  }

  DType parse_dtype() const {
    if (!dtype_->is_string()) fail("has a dtype that is not a string", dtype_->type_name(), "a string");
    const auto& code = dtype_->get_ref<const std::string&>();
    const auto dtype = dtype_of(code);
    if (!dtype)
      fail("has a dtype that this program does not know", in_quotes(code),
           "BOOL, U8, I8, F8_E5M2, F8_E4M3, I16, U16, F16, BF16, I32, U32, F32, F64, I64 or U64",
           ErrorCode::unsupported);
    return *dtype;
  }

  Shape parse_shape() const {
    if (!shape_->is_array()) fail("has a shape that is not a list", shape_->type_name(), "a list of integers");
    if (shape_->size() > Shape::kMaxRank)
      fail("has too many dimensions", fmt::to_string(shape_->size()), fmt::format("at most {}", Shape::kMaxRank),
           ErrorCode::unsupported);
    std::vector<int64_t> dims;
    for (const Json& dim : *shape_) {
      if (!dim.is_number_unsigned() || dim.get<uint64_t>() > INT64_MAX)
        fail("has a bad dimension in its shape", in_quotes(dim.dump(-1, ' ', true)), "integers of 0 or more");
      dims.push_back(static_cast<int64_t>(dim.get<uint64_t>()));
    }
    return Shape(dims);
  }

  std::pair<size_t, size_t> parse_offsets() const {
    const bool ok = offsets_->is_array() && offsets_->size() == 2 && (*offsets_)[0].is_number_unsigned() &&
                    (*offsets_)[1].is_number_unsigned();
    if (!ok) fail("has bad data_offsets", in_quotes(offsets_->dump(-1, ' ', true)), "two integers of 0 or more");
    const auto begin = (*offsets_)[0].get<uint64_t>();
    const auto end = (*offsets_)[1].get<uint64_t>();
    if (begin > end) fail("has data_offsets that end before they begin", offsets_->dump(), "begin <= end");
    return {begin, end};
  }

  size_t byte_count(const TensorInfo& info) const {
    // Zero dimensions count as one here: strides must not overflow either.
    size_t product = size_of(info.dtype);
    bool empty = false;
    for (const int64_t dim : info.shape) {
      empty |= dim == 0;
      if (__builtin_mul_overflow(product, static_cast<size_t>(std::max<int64_t>(dim, 1)), &product) ||
          product > INT64_MAX)
        fail("has a shape that overflows", info.shape.str(), "a size that fits in 63 bits");
    }
    return empty ? 0 : product;
  }

  const std::string& path_;
  const std::string& name_;
  const Json* dtype_ = nullptr;
  const Json* shape_ = nullptr;
  const Json* offsets_ = nullptr;
};

// No overlap, no gap, and the buffer ends where the last tensor does.
void check_layout(std::vector<Entry>& entries, size_t buffer_begin, size_t file_bytes, const std::string& path) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.info.offset, a.info.nbytes, a.name) < std::tie(b.info.offset, b.info.nbytes, b.name);
  });
  size_t cursor = 0;
  const std::string* previous = nullptr;
  for (const Entry& entry : entries) {
    const size_t begin = entry.info.offset;
    RAEDIT_CHECK(begin >= cursor,
                 {.code = ErrorCode::format,
                  .what = fmt::format("tensors {} and {} overlap", in_quotes(*previous), in_quotes(entry.name)),
                  .where = path,
                  .found = fmt::format("{} begins at {}", in_quotes(entry.name), begin),
                  .expected = fmt::to_string(cursor)});
    RAEDIT_CHECK(begin == cursor, {.code = ErrorCode::format,
                                   .what = fmt::format("there is a gap before tensor {}", in_quotes(entry.name)),
                                   .where = path,
                                   .found = fmt::format("it begins at {}", begin),
                                   .expected = fmt::to_string(cursor)});
    cursor = begin + entry.info.nbytes;
    previous = &entry.name;
  }
  const size_t buffer = file_bytes - buffer_begin;
  RAEDIT_CHECK(cursor <= buffer, {.code = ErrorCode::format,
                                  .what = "file is truncated",
                                  .where = path,
                                  .found = bytes_text(file_bytes),
                                  .expected = bytes_text(buffer_begin + cursor),
                                  .hint = "download or copy it again"});
  RAEDIT_CHECK(cursor == buffer, {.code = ErrorCode::format,
                                  .what = "file has bytes after the last tensor",
                                  .where = path,
                                  .found = bytes_text(file_bytes),
                                  .expected = bytes_text(buffer_begin + cursor),
                                  .hint = "the file is damaged; download or copy it again"});
  for (Entry& entry : entries) entry.info.offset += buffer_begin;
}

Header read_header(const MappedFile& file) {
  const std::string& path = file.path();
  const std::string_view content(reinterpret_cast<const char*>(file.data()), file.size());
  const std::string_view text = header_text(content, path);
  const Json root = parse_json(text, path + ": header");
  Header header;
  for (const auto& [name, value] : root.items()) {
    if (name == kMetadataKey)
      header.metadata = parse_metadata(value, path);
    else
      header.entries.push_back({name, EntryParser(path, name, value).parse()});
  }
  check_layout(header.entries, kLengthBytes + text.size(), file.size(), path);
  return header;
}

}  // namespace

struct SafetensorsFile::State {
  std::shared_ptr<MappedFile> file;
  std::shared_ptr<Storage> storage;
  std::vector<std::string> names;
  std::vector<TensorInfo> infos;
  std::unordered_map<std::string_view, size_t> index;  // looks into names
  SafetensorsMetadata metadata;
};

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  auto state = std::make_shared<State>();
  state->file = MappedFile::open(path);
  Header header = read_header(*state->file);
  state->metadata = std::move(header.metadata);
  for (Entry& entry : header.entries) {
    state->names.push_back(std::move(entry.name));
    state->infos.push_back(entry.info);
  }
  for (size_t i = 0; i < state->names.size(); ++i) state->index.emplace(state->names[i], i);

  // Read-only storage: the cast never leads to a write.
  auto* bytes = const_cast<std::byte*>(state->file->data());
  state->storage = std::make_shared<Storage>(
      bytes, state->file->size(), [file = state->file](std::byte*, size_t) {}, true);
  return SafetensorsFile(state);
}

const std::string& SafetensorsFile::path() const {
  return state_->file->path();
}
const std::vector<std::string>& SafetensorsFile::names() const {
  return state_->names;
}
const SafetensorsMetadata& SafetensorsFile::metadata() const {
  return state_->metadata;
}
std::shared_ptr<const MappedFile> SafetensorsFile::file() const {
  return state_->file;
}
bool SafetensorsFile::contains(std::string_view name) const {
  return state_->index.count(name) > 0;
}

const TensorInfo& SafetensorsFile::info(std::string_view name) const {
  const auto it = state_->index.find(name);
  RAEDIT_CHECK(it != state_->index.end(), {.code = ErrorCode::not_found,
                                           .what = "there is no tensor " + in_quotes(name),
                                           .where = path(),
                                           .hint = did_you_mean(name, names())});
  return state_->infos[it->second];
}

Tensor SafetensorsFile::tensor(std::string_view name) const {
  const TensorInfo& entry = info(name);
  if (entry.offset % size_of(entry.dtype) == 0) return Tensor(state_->storage, entry.offset, entry.shape, entry.dtype);
  Tensor copy = Tensor::empty(entry.shape, entry.dtype);
  std::memcpy(copy.raw(), state_->file->data() + entry.offset, entry.nbytes);
  return copy;
}

void SafetensorsFile::drop_pages(std::string_view name) const {
  const TensorInfo& entry = info(name);
  state_->file->drop_pages(entry.offset, entry.nbytes);
}

void SafetensorsFile::prefetch(std::string_view name) const {
  const TensorInfo& entry = info(name);
  state_->file->prefetch(entry.offset, entry.nbytes);
}

}  // namespace raedit
