// Writing safetensors: layout as the Rust library's serialize(), shards as huggingface_hub splits them.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>
#include <tuple>

#include "core/check.h"
#include "core/json.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "io/safetensors_format.h"
#include "io/tensor_bytes.h"

namespace raedit {
namespace fs = std::filesystem;
namespace {

using namespace safetensors_format;

using Sources = std::vector<const TensorSource*>;

std::string json_string(const std::string& text, const std::string& path) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    raise({.code = ErrorCode::invalid_argument, .what = "a name or text for safetensors is not UTF-8", .where = path});
  }
}

void check_names(const std::vector<TensorSource>& tensors, const std::string& path) {
  std::set<std::string_view> names;
  for (const TensorSource& tensor : tensors)
    RAEDIT_CHECK(tensor.name != kMetadataKey && names.insert(tensor.name).second,
                 {.code = ErrorCode::invalid_argument,
                  .what = "tensor name " + in_quotes(tensor.name) + " is reserved or comes twice",
                  .where = path});
}

std::string header_of(const Sources& tensors, const SafetensorsMetadata& metadata, const std::string& path) {
  std::string header = "{";
  const auto separate = [&] {
    if (header.size() > 1) header += ',';
  };
  if (!metadata.empty()) {
    header += fmt::format("\"{}\":{{", kMetadataKey);
    bool first = true;
    for (const auto& [key, text] : metadata) {
      header += fmt::format("{}{}:{}", first ? "" : ",", json_string(key, path), json_string(text, path));
      first = false;
    }
    header += '}';
  }
  size_t offset = 0;
  for (const TensorSource* tensor : tensors) {
    separate();
    const size_t end = offset + tensor->nbytes();
    header +=
        fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", json_string(tensor->name, path),
                    code_of(tensor->dtype), fmt::join(tensor->shape.begin(), tensor->shape.end(), ","), offset, end);
    offset = end;
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');  // the numbers begin aligned
  RAEDIT_CHECK(header.size() <= kMaxHeaderBytes, {.code = ErrorCode::unsupported,
                                                  .what = "too many tensors for one safetensors header",
                                                  .where = path,
                                                  .found = fmt::format("{} bytes", header.size()),
                                                  .expected = fmt::format("at most {} bytes", kMaxHeaderBytes)});
  return header;
}

void write_contents(AtomicFile& file, Sources tensors, const SafetensorsMetadata& metadata, const std::string& path) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorSource* a, const TensorSource* b) {
    return std::forward_as_tuple(-order_of(a->dtype), a->name) < std::forward_as_tuple(-order_of(b->dtype), b->name);
  });
  const std::string header = header_of(tensors, metadata, path);
  std::string length;
  for (size_t i = 0; i < kLengthBytes; ++i) length += static_cast<char>(header.size() >> (8 * i) & 0xff);
  file.write(length);
  file.write(header);
  for (const TensorSource* source : tensors)
    stream(*source, path, [&](const void* data, size_t bytes) { file.write(data, bytes); });
}

Sources pointers_to(const std::vector<TensorSource>& tensors) {
  Sources pointers;
  for (const TensorSource& tensor : tensors) pointers.push_back(&tensor);
  return pointers;
}

// huggingface_hub's split: in the order given; what is larger than a shard gets one of its own.
std::vector<Sources> split(const std::vector<TensorSource>& tensors, size_t max_bytes) {
  std::vector<Sources> shards;
  Sources current;
  size_t current_bytes = 0;
  for (const TensorSource& tensor : tensors) {
    const size_t bytes = tensor.nbytes();
    if (bytes > max_bytes) {
      shards.push_back({&tensor});
      continue;
    }
    if (current_bytes + bytes > max_bytes) {
      shards.push_back(std::move(current));
      current.clear();
      current_bytes = 0;
    }
    current.push_back(&tensor);
    current_bytes += bytes;
  }
  if (!current.empty()) shards.push_back(std::move(current));
  return shards;
}

// What an earlier save of the same base and variant left and this one did not write: it would be read instead of ours.
void remove_stale(const fs::path& folder, const std::string& stem, const std::array<std::string, 2>& indexes,
                  const std::set<std::string>& written) {
  const auto is_index = [&](const std::string& name) { return name == indexes[0] || name == indexes[1]; };
  static const std::regex kShardSuffix(R"(-\d{5}-of-\d{5}\.safetensors)");
  std::vector<fs::path> stale;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const bool ours = is_index(name) || name == stem + ".safetensors" ||
                      (name.starts_with(stem) && std::regex_match(name.substr(stem.size()), kShardSuffix));
    if (ours && written.count(name) == 0) stale.push_back(it->path());
  }
  if (error) raise_write_error("cannot look for old weights", folder.string(), error.value());
  // The index goes first: without it, leftover shards are only dead weight.
  std::sort(stale.begin(), stale.end(), [&](const fs::path& a, const fs::path& b) {
    return std::make_pair(!is_index(a.filename()), a) < std::make_pair(!is_index(b.filename()), b);
  });
  for (const fs::path& path : stale) {
    fs::remove(path, error);
    if (error) raise_write_error("cannot remove old weights", path.string(), error.value());
  }
}

}  // namespace

void write_safetensors(const std::string& path, const std::vector<TensorSource>& tensors,
                       const SafetensorsMetadata& metadata) {
  check_names(tensors, path);
  AtomicFile file(path);
  write_contents(file, pointers_to(tensors), metadata, path);
  file.commit();
}

void write_safetensors(const std::string& path, const NamedTensors& tensors, const SafetensorsMetadata& metadata) {
  std::vector<TensorSource> sources;
  for (const auto& [name, tensor] : tensors) sources.push_back(TensorSource::of(name, tensor));
  write_safetensors(path, sources, metadata);
}

void write_safetensors_sharded(const std::string& folder, const std::string& base, const std::string& variant,
                               const std::vector<TensorSource>& tensors, size_t max_shard_bytes,
                               const SafetensorsMetadata& metadata) {
  check_names(tensors, folder);
  create_directories(folder);
  const fs::path root(folder);
  const std::string dotted = variant.empty() ? "" : "." + variant;
  const std::string stem = base + dotted;
  const std::array<std::string, 2> indexes = index_names(base, variant);
  const std::string& index = indexes[0];
  const std::vector<Sources> shards = split(tensors, max_shard_bytes);

  // Everything is on the disk before the first file gets its name, so that a full disk leaves the old weights whole.
  std::set<std::string> written;
  std::vector<std::unique_ptr<AtomicFile>> files;
  nlohmann::json weight_map = nlohmann::json::object();
  size_t total = 0;
  for (size_t i = 0; i < std::max<size_t>(shards.size(), 1); ++i) {
    const Sources shard = shards.empty() ? Sources{} : shards[i];
    const std::string name = shards.size() <= 1
                                 ? stem + ".safetensors"
                                 : fmt::format("{}-{:05}-of-{:05}.safetensors", stem, i + 1, shards.size());
    const std::string path = (root / name).string();
    files.push_back(std::make_unique<AtomicFile>(path));
    write_contents(*files.back(), shard, metadata, path);
    for (const TensorSource* tensor : shard) {
      weight_map[tensor->name] = name;
      total += tensor->nbytes();
    }
    written.insert(name);
  }
  if (shards.size() > 1) {
    files.push_back(std::make_unique<AtomicFile>((root / index).string()));
    const nlohmann::json content = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
    files.back()->write(content.dump(2) + "\n");
    written.insert(index);
  }
  for (const auto& file : files) file->flush();
  for (const auto& file : files) file->commit();
  remove_stale(root, stem, indexes, written);
}

}  // namespace raedit
