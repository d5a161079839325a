#include "io/torch_legacy.h"

#include <fmt/format.h>

#include "core/check.h"
#include "io/safetensors_format.h"

namespace raedit {

using safetensors_format::in_quotes;

namespace {

constexpr std::string_view kMagic = "the integer 0x1950a86a20f9469cfc6c";
constexpr std::string_view kMagicText = "119547037146038801333356";  // as protocols 0 and 1 write it
constexpr int64_t kProtocol = 1001;

class LegacyReader {
 public:
  explicit LegacyReader(const MappedFile& file)
      : file_(file), content_(reinterpret_cast<const char*>(file.data()), file.size()) {}

  TorchLegacy read() {
    const std::string magic = pickle().root.describe();
    if (magic != kMagic && magic != fmt::format("the integer {}", kMagicText))
      fail("this pickle was not written by torch.save", magic, "its magic number");
    const PickleValue protocol = pickle().root;
    if (protocol.integer() != kProtocol)
      fail("unknown protocol of torch.save", fmt::to_string(protocol.integer()), fmt::to_string(kProtocol));
    check_byte_order(pickle().root);
    ParsedPickle object = pickle();
    const PickleValue keys = pickle().root;
    if (keys.kind() != PickleKind::list)
      fail("the storage keys are no list", keys.describe(), std::string(to_string(PickleKind::list)));
    TorchLegacy archive{object.root, {}};
    std::map<std::string, PickledStorage> storages;
    for (PickledStorage& storage : object.storages) storages.emplace(storage.key, storage);
    for (size_t i = 0; i < keys.size(); ++i) {
      const PickleValue key = keys.item(i);
      const std::string name =
          key.kind() == PickleKind::integer ? fmt::to_string(key.integer()) : std::string(key.string());
      const auto storage = storages.find(name);
      if (storage == storages.end()) fail("there is no storage " + in_quotes(name), "a key without tensors", "");
      if (!archive.records.emplace(name, record(storage->second)).second)
        fail("storage " + in_quotes(name) + " comes twice", "", "");
    }
    return archive;
  }

 private:
  [[noreturn]] void fail(const std::string& what, const std::string& found, const std::string& expected) const {
    raise({.code = ErrorCode::format,
           .what = fmt::format("{} (before byte {})", what, at_),
           .where = file_.path(),
           .found = found,
           .expected = expected});
  }

  ParsedPickle pickle() {
    ParsedPickle parsed = parse_pickle(content_.substr(at_), file_.path(), at_);
    at_ += parsed.bytes;
    return parsed;
  }

  void check_byte_order(const PickleValue& system) const {
    const auto little = system.is_dict() ? system.find("little_endian") : std::nullopt;
    RAEDIT_CHECK(!little || little->kind() != PickleKind::boolean || little->boolean(),
                 {.code = ErrorCode::unsupported,
                  .what = "the numbers in this file are big-endian",
                  .where = file_.path(),
                  .hint = "load and save it again with PyTorch on a little-endian machine"});
  }

  void require(uint64_t bytes, const std::string& key) const {
    if (bytes > content_.size() - at_)
      raise({.code = ErrorCode::format,
             .what = fmt::format("truncated at byte {}: storage {} goes on beyond", content_.size(), in_quotes(key)),
             .where = file_.path(),
             .found = fmt::format("{} bytes from byte {} on", content_.size() - at_, at_),
             .expected = fmt::to_string(bytes),
             .hint = "download or copy the file again"});
  }

  TorchLegacy::Record record(const PickledStorage& storage) {
    require(sizeof(uint64_t), storage.key);
    uint64_t numel = 0;
    for (size_t i = sizeof(numel); i > 0; --i) numel = numel << 8 | static_cast<unsigned char>(content_[at_ + i - 1]);
    if (numel != storage.numel)
      fail("storage " + in_quotes(storage.key) + " is not as long as its tensors say",
           fmt::format("{} elements at byte {}", numel, at_), fmt::to_string(storage.numel));
    at_ += sizeof(numel);
    const uint64_t bytes = numel * storage.item_bytes;  // was checked against overflow when the pickle was read
    require(bytes, storage.key);
    const TorchLegacy::Record found{at_, bytes};
    at_ += bytes;
    return found;
  }

  const MappedFile& file_;
  std::string_view content_;
  size_t at_ = 0;
};

}  // namespace

bool begins_as_pickle(std::string_view content) {
  if (content.starts_with(fmt::format("L{}L", kMagicText))) return true;
  if (content.size() < 3 || content[0] != '\x80' || static_cast<unsigned char>(content[1]) > 5) return false;
  const bool safetensors =
      content.size() > 8 && content[8] == '{' && content.substr(5, 3) == std::string_view("\0\0\0", 3);
  return !safetensors;
}

TorchLegacy read_torch_legacy(const MappedFile& file) {
  return LegacyReader(file).read();
}

}  // namespace raedit
