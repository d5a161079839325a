#include "train/latent_cache_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "io/files.h"
#include "io/safetensors.h"

namespace raedit::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "raedit latent cache";
constexpr int64_t kVersion = 1;
constexpr const char* kLatents = "latents";
constexpr const char* kClassIds = "class_ids";
constexpr const char* kMetadataKey = "raedit_latent_cache";
constexpr size_t kMostIndexBytes = size_t{1} << 30;  // every picture of a large set may be broken
constexpr const char* kStaleHint = "take another folder, or delete this one";
constexpr const char* kDamagedHint = "delete the file and build the cache again: only what is missing is encoded";

Json strings(const std::vector<std::string>& list) {
  Json json = Json::array();
  for (const std::string& text : list) json.push_back(text);
  return json;
}

Json to_json(const LatentCacheLayout& layout, const std::vector<std::string>& broken) {
  const LatentCacheKey& key = layout.key;
  return {{"format", kFormat},
          {"version", kVersion},
          {"autoencoder", key.autoencoder},
          {"transform", key.transform},
          {"pictures", key.pictures},
          {"dtype", key.dtype},
          {"count", key.count},
          {"flips", key.flips},
          {"latent_shape", std::vector<int64_t>(layout.latent_shape.begin(), layout.latent_shape.end())},
          {"shard_pictures", layout.shard_pictures},
          {"broken", strings(broken)}};
}

Shape shape_of(JsonReader& reader, const char* name) {
  const Json* list = reader.raw(name);
  std::vector<int64_t> dims;
  const bool is_list = list != nullptr && list->is_array() && !list->empty() && list->size() + 2 <= Shape::kMaxRank;
  for (size_t i = 0; is_list && i < list->size(); ++i)
    if ((*list)[i].is_number_integer()) dims.push_back((*list)[i].get<int64_t>());
  if (!is_list || dims.size() != list->size() || std::ranges::any_of(dims, [](int64_t d) { return d < 1; }))
    reader.fail(name, "a list of sizes");
  return Shape(dims);
}

struct Described {
  LatentCacheLayout layout;
  std::vector<std::string> broken;
};

Described parse(const std::string& text, const std::string& where) {
  const Json json = parse_json(text, where);
  JsonReader reader(json, where);
  if (reader.string("format") != kFormat) reader.fail("format", kFormat);
  if (reader.int64("version") != kVersion) reader.fail("version", fmt::to_string(kVersion));
  Described d;
  d.layout.key = {.autoencoder = reader.string("autoencoder"),
                  .transform = reader.string("transform"),
                  .pictures = reader.string("pictures"),
                  .dtype = reader.string("dtype"),
                  .count = reader.int64("count"),
                  .flips = reader.boolean("flips")};
  d.layout.latent_shape = shape_of(reader, "latent_shape");
  d.layout.shard_pictures = reader.int64("shard_pictures");
  const Json* broken = reader.raw("broken");
  if (broken == nullptr || !broken->is_array()) reader.fail("broken", "a list of texts");
  for (const Json& item : *broken) {
    if (!item.is_string()) reader.fail("broken", "a list of texts");
    d.broken.push_back(item.get<std::string>());
  }
  reader.finish();
  if (d.layout.key.count < 1) reader.fail("count", "1 or more");
  if (d.layout.shard_pictures < 1) reader.fail("shard_pictures", "1 or more");
  return d;
}

// Enough of a digest to tell two apart.
std::string shortened(const std::string& digest) {
  return digest.substr(0, 12);
}

void require_tensor(const SafetensorsFile& file, const char* name, DType dtype, const Shape& shape) {
  const bool there = file.contains(name);
  const bool fits = there && file.info(name).dtype == dtype && file.info(name).shape == shape;
  RAEDIT_CHECK(
      fits, {.code = ErrorCode::format,
             .what = "this shard of the latent cache is damaged",
             .where = file.path(),
             .found = there ? fmt::format("{} {} {}", name, name_of(file.info(name).dtype), file.info(name).shape.str())
                            : fmt::format("no tensor '{}'", name),
             .expected = fmt::format("{} {} {}", name, name_of(dtype), shape.str()),
             .hint = kDamagedHint});
}

void require_same_cut(const LatentCacheLayout& found, const LatentCacheLayout& expected, const std::string& where) {
  const auto describe = [](const LatentCacheLayout& l) {
    return fmt::format("{} pictures a shard, latents {}", l.shard_pictures, l.latent_shape.str());
  };
  RAEDIT_CHECK(found.shard_pictures == expected.shard_pictures && found.latent_shape == expected.latent_shape,
               {.code = ErrorCode::format,
                .what = "this shard belongs to a latent cache that was cut in another way",
                .where = where,
                .found = describe(found),
                .expected = describe(expected),
                .hint = kStaleHint});
}

}  // namespace

PictureRange LatentCacheLayout::range(int64_t shard) const {
  return {shard * shard_pictures, std::min((shard + 1) * shard_pictures, key.count)};
}

Shape LatentCacheLayout::shard_shape(int64_t shard) const {
  std::vector<int64_t> dims{range(shard).end - range(shard).first, views()};
  dims.insert(dims.end(), latent_shape.begin(), latent_shape.end());
  return Shape(dims);
}

std::string latent_index_path(const std::string& folder) {
  return (fs::path(folder) / "latents.json").string();
}

std::string latent_shard_path(const std::string& folder, int64_t shard) {
  return (fs::path(folder) / fmt::format("latents-{:05}.safetensors", shard)).string();
}

void require_same_key(const LatentCacheKey& found, const LatentCacheKey& expected, const std::string& where) {
  std::vector<std::string> parts, before, now;
  const auto compare = [&](const char* part, const std::string& old, const std::string& wanted) {
    if (old == wanted) return;
    const bool digests = old.size() == 64 && wanted.size() == 64;
    parts.emplace_back(part);
    before.push_back(fmt::format("{} '{}'", part, digests ? shortened(old) : old));
    now.push_back(fmt::format("{} '{}'", part, digests ? shortened(wanted) : wanted));
  };
  compare("autoencoder", found.autoencoder, expected.autoencoder);
  compare("transform", found.transform, expected.transform);
  compare("pictures", found.pictures, expected.pictures);
  compare("count", fmt::to_string(found.count), fmt::to_string(expected.count));
  compare("dtype", found.dtype, expected.dtype);
  compare("flips", found.flips ? "yes" : "no", expected.flips ? "yes" : "no");
  RAEDIT_CHECK(parts.empty(), {.code = ErrorCode::format,
                               .what = "the latent cache was made from something else: " + join(parts) + " changed",
                               .where = where,
                               .found = join(before),
                               .expected = join(now),
                               .hint = kStaleHint});
}

LatentShard open_latent_shard(const std::string& folder, const LatentCacheLayout& layout, int64_t shard) {
  const std::string path = latent_shard_path(folder, shard);
  const SafetensorsFile file = SafetensorsFile::open(path);
  const auto description = file.metadata().find(kMetadataKey);
  RAEDIT_CHECK(description != file.metadata().end(), {.code = ErrorCode::format,
                                                      .what = "this is no shard of a latent cache",
                                                      .where = path,
                                                      .expected = fmt::format("metadata '{}'", kMetadataKey),
                                                      .hint = kStaleHint});
  const Described found = parse(description->second, path + ": " + kMetadataKey);
  require_same_key(found.layout.key, layout.key, path);
  require_same_cut(found.layout, layout, path);
  const Shape shape = layout.shard_shape(shard);
  require_tensor(file, kLatents, DType::float32, shape);
  require_tensor(file, kClassIds, DType::int64, {shape[0]});
  return {file.tensor(kLatents), file.tensor(kClassIds), found.broken};
}

void write_latent_shard(const std::string& folder, const LatentCacheLayout& layout, int64_t shard,
                        const LatentShard& content) {
  const std::string description = to_json(layout, content.broken).dump(-1, ' ', false, Json::error_handler_t::replace);
  write_safetensors(latent_shard_path(folder, shard),
                    NamedTensors{{kLatents, content.latents}, {kClassIds, content.class_ids}},
                    {{kMetadataKey, description}});
}

LatentCacheLayout read_latent_index(const std::string& folder) {
  const std::string path = latent_index_path(folder);
  if (!is_file(path)) {
    const bool begun = is_file(latent_shard_path(folder, 0));
    raise({.code = ErrorCode::not_found,
           .what = begun ? "the latent cache is not finished" : "no latent cache",
           .where = folder,
           .hint = begun ? "build it again: it goes on with the shards that are there" : ""});
  }
  return parse(read_file(path, kMostIndexBytes), path).layout;
}

void write_latent_index(const std::string& folder, const LatentCacheLayout& layout,
                        const std::vector<std::string>& broken) {
  write_file(latent_index_path(folder),
             to_json(layout, broken).dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace raedit::train
