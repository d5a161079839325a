#include "models/packed_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <utility>

#include "core/check.h"
#include "core/json.h"
#include "io/crc32.h"
#include "io/files.h"
#include "io/hash.h"
#include "models/checkpoint.h"

namespace raedit::models {
namespace {

constexpr char kMagic[] = "RAEPACK1";
constexpr size_t kMagicBytes = 8, kHeadBytes = 24;
constexpr size_t kPage = 4096, kAlignment = 64;
constexpr size_t kSourcePiece = size_t{1} << 20, kDataPiece = size_t{4} << 20;

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::string folder_of(const LoadOptions& options) {
  const char* named = std::getenv("RAEDIT_PACKED_CACHE");
  return !options.packed_cache.empty() || named == nullptr ? options.packed_cache : named;
}

// See the head of packed_cache.h.
std::string key_of(const std::vector<std::shared_ptr<const MappedFile>>& files, const LoadOptions& options,
                   const std::string& layout) {
  Sha256 digest;
  digest.update(fmt::format("{}\n{}\n{}\n", layout, name_of(options.dtype), static_cast<int>(options.quantization)));
  // Files of their own, so that calibrations which are used by turns do not push each other out.
  if (!options.calibration.empty()) digest.update(sha256_of_file(options.calibration) + "\n");
  for (const auto& file : files) {
    const auto sums = crc32_of_pieces(*file, 0, file->size(), kSourcePiece, threads_of(options));
    digest.update(fmt::format("{}\n", file->size()));
    digest.update(sums.data(), sums.size() * sizeof(uint32_t));
    file->drop_pages(0, file->size());
  }
  return digest.hex();
}

struct Head {
  char magic[kMagicBytes];
  uint64_t header_bytes;
  uint32_t header_crc;
  uint32_t zero;
};
static_assert(sizeof(Head) == kHeadBytes);

// Why a file cannot be used.
struct Unusable {
  std::string why;
};

void require(bool ok, const char* why) {
  if (!ok) throw Unusable{why};
}

// The header of a file that begins like ours.
std::string header_of(const MappedFile& file) {
  Head head;
  require(file.size() >= kPage, "it is truncated");
  std::memcpy(&head, file.data(), sizeof head);
  require(std::memcmp(head.magic, kMagic, kMagicBytes) == 0, "it is not a file of packed weights");
  require(head.header_bytes <= file.size() - kHeadBytes, "it is truncated");
  std::string header(reinterpret_cast<const char*>(file.data()) + kHeadBytes, head.header_bytes);
  require(crc32(0, header.data(), header.size()) == head.header_crc, "its header is damaged");
  return header;
}

}  // namespace

std::shared_ptr<PackedCache> PackedCache::open(const WeightSet& weights, const LoadOptions& options,
                                               backend::Kernels& kernels) {
  auto* packer = dynamic_cast<backend::PacksOnHost*>(&kernels);
  if (folder_of(options).empty() || packer == nullptr) return nullptr;
  const Files files = weights.files();
  if (files.empty()) return nullptr;
  return open_file(key_of(files, options, packer->packed_layout()), options, files, *packer);
}

std::shared_ptr<PackedCache> PackedCache::open_part(const std::string& part, backend::Kernels& kernels) const {
  auto* packer = dynamic_cast<backend::PacksOnHost*>(&kernels);
  if (packer == nullptr) return nullptr;
  Sha256 digest;
  digest.update(key_ + "\n" + part + "\n");
  return open_file(digest.hex(), options_, files_, *packer);
}

std::shared_ptr<PackedCache> PackedCache::open_file(std::string key, const LoadOptions& options, Files files,
                                                    backend::PacksOnHost& packer) {
  std::shared_ptr<PackedCache> cache(new PackedCache(std::move(key), options, std::move(files)));
  cache->read();
  packer.set_packed_store(cache);
  return cache;
}

PackedCache::PackedCache(std::string key, const LoadOptions& options, Files files)
    : path_((std::filesystem::path(folder_of(options)) / (key.substr(0, 32) + ".packed")).string()),
      key_(std::move(key)),
      options_(options),
      files_(std::move(files)) {}

void PackedCache::note(const std::string& text) const {
  if (options_.note) options_.note(text);
}

void PackedCache::read() {
  if (!is_file(path_)) return;
  try {
    const auto file = MappedFile::open(path_);
    const std::string text = header_of(*file);
    const Json header = parse_json(text, path_);
    require(header.at("key") == key_, "it belongs to other weights");
    const size_t begin = round_up(kHeadBytes + text.size(), kPage);
    const auto sums = header.at("crc32").get<std::vector<uint32_t>>();
    const auto bytes = header.at("bytes").get<size_t>();
    require(begin <= file->size() && bytes == file->size() - begin, "it is truncated");
    require(crc32_of_pieces(*file, begin, bytes, kDataPiece, threads_of(options_)) == sums, "it is damaged");
    for (const Json& entry : header.at("entries")) {
      const auto offset = entry.at(1).get<size_t>(), size = entry.at(2).get<size_t>();
      require(offset % kAlignment == 0 && offset <= bytes && size <= bytes - offset, "its header is wrong");
      // Read-only storage: the cast never leads to a write.
      auto* data = const_cast<std::byte*>(file->data() + begin + offset);
      found_[entry.at(0).get<std::string>()] = std::make_shared<Storage>(
          data, size, [file](std::byte*, size_t) {}, true);
    }
    return;
  } catch (const Unusable& unusable) {
    note(fmt::format("{} is not used, and made anew: {}", path_, unusable.why));
  } catch (const Error& error) {
    note(fmt::format("{} is not used: {}", path_, error.what()));
  } catch (const Json::exception&) {
    note(fmt::format("{} is not used, and made anew: its header is wrong", path_));
  }
  found_.clear();
}

// See the head of packed_cache.h.
std::string PackedCache::id_of(std::span<const Tensor> weights, const backend::PackedForm& form) const {
  std::string id(form.name);
  if (form.numbers.defined()) {
    Sha256 digest;
    const Tensor numbers = form.numbers.contiguous();
    digest.update(numbers.raw(), numbers.nbytes());
    id += fmt::format(" {}", digest.hex());
  }
  for (const Tensor& weight : weights) {
    const auto* const at = static_cast<const std::byte*>(weight.raw());
    const auto file = std::ranges::find_if(files_, [&](const auto& f) {
      return std::greater_equal<>()(at, f->data()) && std::less<>()(at, f->data() + f->size());
    });
    const std::string shape = fmt::format("{} {}x{}", name_of(weight.dtype()), weight.dim(0), weight.dim(1));
    if (file != files_.end()) {
      id += fmt::format(" {}:{} {} {},{}", file - files_.begin(), at - (*file)->data(), shape, weight.stride(0),
                        weight.stride(1));
      continue;
    }
    Sha256 digest;
    const auto sums = crc32_of_numbers(weight, weight.dtype(), threads_of(options_));
    digest.update(sums.data(), sums.size() * sizeof(uint32_t));
    id += fmt::format(" {} {}", digest.hex(), shape);
  }
  return id;
}

std::shared_ptr<Storage> PackedCache::find(std::span<const Tensor> weights, const backend::PackedForm& form,
                                           size_t bytes) {
  const std::string id = id_of(weights, form);
  const auto it = found_.find(id);
  if (it == found_.end() || it->second->bytes() != bytes) return nullptr;
  used_.push_back({id, it->second});
  return it->second;
}

void PackedCache::keep(std::span<const Tensor> weights, const backend::PackedForm& form,
                       std::shared_ptr<Storage> packed) {
  used_.push_back({id_of(weights, form), std::move(packed)});
  complete_ = false;
}

void PackedCache::finish() {
  if (!complete_) {
    try {
      create_directories(std::filesystem::path(path_).parent_path().string());
      write();
    } catch (const Error& error) {
      note(fmt::format("packed weights are not kept: {}", error.what()));
    }
  }
  used_.clear();
  found_.clear();
}

void PackedCache::write() const {
  // Laid out first: the CRCs stand before the data. Pieces may span entries.
  Json entries = Json::array();
  std::vector<uint32_t> sums;
  size_t offset = 0;
  const auto add = [&](const std::byte* data, size_t bytes) {
    while (bytes > 0) {
      const size_t in_piece = offset % kDataPiece, count = std::min(bytes, kDataPiece - in_piece);
      if (in_piece == 0) sums.push_back(0);
      sums.back() = crc32(sums.back(), data, count);
      data += count, bytes -= count, offset += count;
    }
  };
  const std::byte zeros[kPage] = {};
  const auto gap = [](size_t bytes, size_t multiple) { return round_up(bytes, multiple) - bytes; };
  for (const Entry& entry : used_) {
    entries.push_back({entry.id, offset, entry.bytes->bytes()});
    add(entry.bytes->data(), entry.bytes->bytes());
    add(zeros, gap(offset, kAlignment));
  }
  const std::string header = Json{{"key", key_}, {"bytes", offset}, {"crc32", sums}, {"entries", entries}}.dump();
  Head head{{}, header.size(), crc32(0, header.data(), header.size()), 0};
  std::memcpy(head.magic, kMagic, kMagicBytes);
  // A pipe would be written to as it is, and wait for a reader.
  std::error_code error;
  const auto there = std::filesystem::status(path_, error).type();
  RAEDIT_CHECK(there == std::filesystem::file_type::regular || there == std::filesystem::file_type::not_found,
               {.code = ErrorCode::io, .what = "is there already, and no file", .where = path_});
  AtomicFile file(path_);
  file.write(&head, sizeof head);
  file.write(header);
  file.write(zeros, gap(file.bytes_written(), kPage));
  for (const Entry& entry : used_) {
    file.write(entry.bytes->data(), entry.bytes->bytes());
    file.write(zeros, gap(entry.bytes->bytes(), kAlignment));
  }
  file.commit();
}

}  // namespace raedit::models
