#include "io/torch_archive.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"
#include "io/safetensors_format.h"
#include "io/torch_legacy.h"
#include "io/zip_archive.h"

namespace raedit {

using safetensors_format::in_quotes;

namespace {

// A tensor that repeats few numbers (stride 0) may be larger than its storage, but not without bound.
constexpr uint64_t kRepeatedBytes = uint64_t{64} << 20;
constexpr uint64_t kRepeatedRatio = 256;

std::string_view content_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

bool begins_as_zip(std::string_view content) {
  return content.starts_with("PK\x03\x04") || content.starts_with("PK\x05\x06");
}

bool is_tar(std::string_view content) {
  constexpr size_t kTarMagic = 257;
  return content.size() > kTarMagic + 5 && content.substr(kTarMagic, 5) == "ustar";
}

// The bytes of one storage.
struct Record {
  uint64_t offset = 0;  // in the file; meaningless where they are packed
  uint64_t bytes = 0;
  const ZipEntry* entry = nullptr;  // none in the legacy format
  mutable std::atomic<bool> checked{false};
  mutable std::weak_ptr<Storage> storage;  // under the mutex; shared by all tensors that are in use

  Record(uint64_t offset, uint64_t bytes, const ZipEntry* entry) : offset(offset), bytes(bytes), entry(entry) {}
  bool packed() const { return entry != nullptr && !entry->stored; }
};

// Where in its record a tensor lies.
struct Span {
  Shape shape;
  uint64_t begin = 0;  // in bytes
  uint64_t bytes = 0;  // from the first to the last element
  uint64_t nbytes = 0;
  bool contiguous = true;
};

}  // namespace

struct TorchArchive::State {
  std::shared_ptr<MappedFile> file;
  std::unique_ptr<ZipArchive> zip;
  std::optional<PickleValue> root;
  std::map<std::string, Record, std::less<>> records;  // by storage key
  mutable std::mutex mutex;                            // of the records' storages

  void open_zip();
  void open_legacy();
  const Record& record(const PickledTensor& tensor) const;
  Span span(const PickledTensor& tensor, const Record& record) const;
  void check_crc(const Record& record) const;
  std::shared_ptr<Storage> storage(const Record& record) const;
  [[noreturn]] void fail(const std::string& what, const std::string& found = "",
                         const std::string& expected = "") const {
    raise({.code = ErrorCode::format, .what = what, .where = file->path(), .found = found, .expected = expected});
  }
};

namespace {

// The one entry PREFIX/data.pkl; the prefix is whatever the file was called when it was written.
const ZipEntry& find_pickle(const ZipArchive& zip, const std::string& path) {
  constexpr std::string_view kSuffix = "/data.pkl";
  const ZipEntry* found = nullptr;
  for (const ZipEntry& entry : zip.entries()) {
    if (!entry.name.ends_with(kSuffix)) continue;
    RAEDIT_CHECK(found == nullptr, {.code = ErrorCode::format,
                                    .what = "this zip holds more than one data.pkl",
                                    .where = path,
                                    .found = in_quotes(found->name) + " and " + in_quotes(entry.name)});
    found = &entry;
  }
  RAEDIT_CHECK(found != nullptr, {.code = ErrorCode::format,
                                  .what = "this zip holds no data.pkl: torch.save did not write it",
                                  .where = path,
                                  .found = zip.entries().empty() ? "an empty zip" : in_quotes(zip.entries()[0].name)});
  const std::string prefix = found->name.substr(0, found->name.size() - kSuffix.size() + 1);
  const bool script = std::any_of(zip.entries().begin(), zip.entries().end(), [&](const ZipEntry& entry) {
    return entry.name == prefix + "constants.pkl" || entry.name.starts_with(prefix + "code/");
  });
  RAEDIT_CHECK(!script, {.code = ErrorCode::unsupported,
                         .what = "this is a TorchScript program, not a checkpoint",
                         .where = path,
                         .hint = "save the state_dict of the model with torch.save"});
  return *found;
}

}  // namespace

void TorchArchive::State::open_zip() {
  const std::string& path = file->path();
  zip = ZipArchive::open(file);
  const ZipEntry& pickle = find_pickle(*zip, path);
  const std::string prefix = pickle.name.substr(0, pickle.name.rfind('/') + 1);
  if (const ZipEntry* order = zip->find(prefix + "byteorder")) {
    constexpr size_t kLongest = 16;
    const std::string found = order->bytes <= kLongest ? zip->read(*order) : "too much";
    RAEDIT_CHECK(found == "little", {.code = ErrorCode::unsupported,
                                     .what = "the numbers in this file are not little-endian",
                                     .where = path,
                                     .found = in_quotes(found),
                                     .hint = "load and save it again with PyTorch on a little-endian machine"});
  }
  if (pickle.bytes > kMaxPickleBytes)
    fail("the pickle is too large", human_bytes(pickle.bytes), "at most " + human_bytes(kMaxPickleBytes));
  if (pickle.stored) {
    zip->check_crc(pickle);
    root = parse_pickle(content_of(*file).substr(pickle.offset, pickle.bytes), path, pickle.offset).root;
  } else {
    root = parse_pickle(zip->read(pickle), path + ": " + pickle.name).root;
  }
  const std::string data = prefix + "data/";
  for (const ZipEntry& entry : zip->entries())
    if (entry.name.starts_with(data))
      records.try_emplace(entry.name.substr(data.size()), entry.offset, entry.bytes, &entry);
}

void TorchArchive::State::open_legacy() {
  TorchLegacy legacy = read_torch_legacy(*file);
  root = legacy.root;
  for (const auto& [key, record] : legacy.records) records.try_emplace(key, record.offset, record.bytes, nullptr);
}

const Record& TorchArchive::State::record(const PickledTensor& tensor) const {
  const auto it = records.find(tensor.storage_key);
  if (it == records.end()) fail("the numbers of storage " + in_quotes(tensor.storage_key) + " are missing");
  if (it->second.bytes != tensor.storage_bytes)
    fail("storage " + in_quotes(tensor.storage_key) + " is not as long as its tensors say",
         fmt::format("{} bytes", it->second.bytes), fmt::to_string(tensor.storage_bytes));
  return it->second;
}

Span TorchArchive::State::span(const PickledTensor& tensor, const Record& record) const {
  const auto item = static_cast<int64_t>(size_of(tensor.dtype));
  Span span;
  // Zero dimensions count as one in the product: strides must not overflow either.
  int64_t nbytes = item, last = tensor.storage_offset, expected = 1;
  bool empty = false, fits = true;
  for (size_t i = tensor.size.size(); i > 0; --i) {
    const int64_t size = tensor.size[i - 1], stride = tensor.stride[i - 1];
    int64_t reach = 0;
    empty = empty || size == 0;
    fits = fits && !__builtin_mul_overflow(nbytes, std::max<int64_t>(size, 1), &nbytes) &&
           !__builtin_mul_overflow(std::max<int64_t>(size, 1) - 1, stride, &reach) &&
           !__builtin_add_overflow(last, reach, &last);
    span.contiguous = span.contiguous && (size <= 1 || stride == expected);
    expected = nbytes / item;
  }
  if (!fits) fail("a tensor's size overflows", fmt::format("[{}]", fmt::join(tensor.size, ", ")));
  span.shape = Shape(tensor.size);
  if (empty) return span;
  if (last >= tensor.storage_numel)
    fail(fmt::format("a tensor {} reaches beyond its storage {}", span.shape.str(), in_quotes(tensor.storage_key)),
         fmt::format("element {}", last), fmt::format("at most {} elements", tensor.storage_numel));
  span.nbytes = static_cast<uint64_t>(nbytes);
  if (span.nbytes > kRepeatedBytes && span.nbytes / kRepeatedRatio > record.bytes)
    fail("a tensor repeats its numbers too often", human_bytes(span.nbytes) + " from " + human_bytes(record.bytes));
  span.begin = static_cast<uint64_t>(tensor.storage_offset * item);
  span.bytes = static_cast<uint64_t>((last - tensor.storage_offset + 1) * item);
  return span;
}

// Once: two threads that come at the same time do it twice, which is harmless.
void TorchArchive::State::check_crc(const Record& record) const {
  if (record.entry == nullptr || record.checked) return;
  zip->check_crc(*record.entry);
  record.checked = true;
}

std::shared_ptr<Storage> TorchArchive::State::storage(const Record& record) const {
  const std::lock_guard lock(mutex);
  if (auto storage = record.storage.lock()) return storage;
  std::shared_ptr<Storage> storage;
  if (record.packed()) {
    storage = zip->inflate(*record.entry);
  } else {
    // Read-only storage: the cast never leads to a write.
    auto* bytes = const_cast<std::byte*>(file->data() + record.offset);
    const auto release = [mapped = file, offset = record.offset](std::byte*, size_t length) {
      mapped->drop_pages(offset, length);
    };
    storage = std::make_shared<Storage>(bytes, record.bytes, release, true);
  }
  record.storage = storage;
  return storage;
}

bool TorchArchive::looks_like_one(const std::string& path) {
  const auto file = MappedFile::open(path);
  const std::string_view content = content_of(*file);
  return begins_as_zip(content) || begins_as_pickle(content) || is_tar(content);
}

TorchArchive TorchArchive::open(const std::string& path) {
  auto state = std::make_shared<State>();
  state->file = MappedFile::open(path);
  const std::string_view content = content_of(*state->file);
  RAEDIT_CHECK(!is_tar(content), {.code = ErrorCode::unsupported,
                                  .what = "this is a tar file, as torch 0.1 wrote them",
                                  .where = path,
                                  .hint = "load and save it again with a newer PyTorch"});
  if (begins_as_zip(content)) {
    state->open_zip();
  } else if (begins_as_pickle(content)) {
    state->open_legacy();
  } else {
    const bool pointer = content.starts_with("version https://git-lfs");
    raise({.code = ErrorCode::format,
           .what = "this is no PyTorch checkpoint",
           .where = path,
           .found = content.empty() ? std::string("an empty file, 0 bytes")
                                    : fmt::format("neither a zip nor a pickle in its {} bytes", content.size()),
           .hint = pointer ? "this is a Git LFS pointer, not the file itself; fetch it with: git lfs pull"
                           : "download or copy it again"});
  }
  return TorchArchive(state);
}

const std::string& TorchArchive::path() const {
  return state_->file->path();
}

const PickleValue& TorchArchive::root() const {
  return *state_->root;
}

std::shared_ptr<const MappedFile> TorchArchive::file() const {
  return state_->file;
}

std::string_view TorchArchive::format() const {
  return state_->zip ? "zip" : "legacy";
}

TensorInfo TorchArchive::info(const PickleValue& value) const {
  const PickledTensor& tensor = value.tensor();
  const Record& record = state_->record(tensor);
  const Span span = state_->span(tensor, record);
  const bool in_one_piece = span.contiguous && span.nbytes > 0 && !record.packed();
  return {tensor.dtype, span.shape, in_one_piece ? record.offset + span.begin : 0, span.nbytes};
}

Tensor TorchArchive::tensor(const PickleValue& value) const {
  const PickledTensor& tensor = value.tensor();
  const Record& record = state_->record(tensor);
  const Span span = state_->span(tensor, record);
  if (span.nbytes == 0) return Tensor::empty(span.shape, tensor.dtype);
  if (!record.packed()) state_->check_crc(record);
  auto storage = state_->storage(record);
  uint64_t begin = span.begin;
  if (reinterpret_cast<uintptr_t>(storage->data() + begin) % size_of(tensor.dtype) != 0) {
    auto aligned = Storage::allocate(span.bytes);
    std::memcpy(aligned->data(), storage->data() + begin, span.bytes);
    storage = std::move(aligned);
    begin = 0;
  }
  return Tensor::strided(std::move(storage), begin, span.shape, tensor.stride, tensor.dtype);
}

void TorchArchive::drop_pages(const PickleValue& value) const {
  const PickledTensor& tensor = value.tensor();
  const Record& record = state_->record(tensor);
  if (record.packed()) return;
  const Span span = state_->span(tensor, record);
  state_->file->drop_pages(record.offset + span.begin, span.bytes);
}

void TorchArchive::prefetch(const PickleValue& value) const {
  const PickledTensor& tensor = value.tensor();
  const Record& record = state_->record(tensor);
  if (record.packed()) return;
  const Span span = state_->span(tensor, record);
  state_->file->prefetch(record.offset + span.begin, span.bytes);
}

namespace {

// The archive knows storages, not names.
template <class Call>
auto named(std::string_view name, Call call) {
  try {
    return call();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::not_found) throw;
    ErrorInfo info = error.info();
    info.what = "tensor " + in_quotes(name) + ": " + info.what;
    raise(std::move(info));
  }
}

class StateDict final : public WeightSet {
 public:
  StateDict(const TorchArchive& archive, const PickleValue& dict, std::string where)
      : archive_(archive), where_(std::move(where)) {
    if (!dict.is_dict()) fail("this is no state dict", dict.describe(), "a dict of tensors");
    for (size_t i = 0; i < dict.size(); ++i) {
      const PickleValue key = dict.key(i), value = dict.item(i);
      if (key.kind() != PickleKind::string) fail("a key of the state dict is no string", key.describe(), "a name");
      const std::string name(key.string());
      const auto [it, is_new] = entries_.insert_or_assign(name, Entry{value, {}});
      if (is_new) names_.push_back(name);
    }
    for (auto& [name, entry] : entries_) {
      if (entry.value.kind() != PickleKind::tensor)
        fail(in_quotes(name) + " in the state dict is no tensor", entry.value.describe(), "a tensor",
             entry.value.kind() == PickleKind::other ? ErrorCode::unsupported : ErrorCode::format);
      entry.info = named(name, [&, &value = entry.value] { return archive_.info(value); });
    }
  }

  const std::string& path() const override { return where_; }
  const std::vector<std::string>& names() const override { return names_; }
  bool contains(std::string_view name) const override { return entries_.find(name) != entries_.end(); }
  const TensorInfo& info(std::string_view name) const override { return entry(name).info; }
  Tensor tensor(std::string_view name) const override {
    return named(name, [&] { return archive_.tensor(entry(name).value); });
  }
  const std::string& file_of(std::string_view) const override { return archive_.path(); }
  void drop_pages(std::string_view name) const override { archive_.drop_pages(entry(name).value); }
  void prefetch(std::string_view name) const override { archive_.prefetch(entry(name).value); }
  std::vector<std::shared_ptr<const MappedFile>> files() const override { return {archive_.file()}; }

 private:
  struct Entry {
    PickleValue value;
    TensorInfo info;
  };

  [[noreturn]] void fail(const std::string& what, const std::string& found, const std::string& expected,
                         ErrorCode code = ErrorCode::format) const {
    raise({.code = code, .what = what, .where = where_, .found = found, .expected = expected});
  }

  const Entry& entry(std::string_view name) const {
    const auto it = entries_.find(name);
    if (it == entries_.end()) raise_no_tensor(name, *this);
    return it->second;
  }

  TorchArchive archive_;
  std::string where_;
  std::vector<std::string> names_;
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace

std::shared_ptr<const WeightSet> state_dict_of(const TorchArchive& archive, const PickleValue& dict,
                                               const std::string& where) {
  return std::make_shared<StateDict>(archive, dict, where);
}

}  // namespace raedit
