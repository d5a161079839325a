#include "train/latent_cache.h"

#include <fmt/format.h>

#include <cstring>
#include <filesystem>
#include <set>

#include "core/check.h"
#include "io/files.h"
#include "io/hash.h"
#include "io/weight_folder.h"
#include "train/latent_cache_files.h"

namespace raedit::train {
namespace {

namespace fs = std::filesystem;

// Names below the folder count, so that two files cannot trade places; the folder may move.
std::string autoencoder_digest(const std::string& folder) {
  const auto weights = open_weights(folder);
  std::set<std::string> files{(fs::path(folder) / "config.json").string()};
  for (const std::string& name : weights->names()) files.insert(weights->file_of(name));
  Sha256 digest;
  for (const std::string& file : files) {
    const std::string name = fs::path(file).filename().string();
    digest.update(name.c_str(), name.size() + 1);
    digest.update(sha256_of_file(file));
  }
  return digest.hex();
}

}  // namespace

LatentCacheKey latent_cache_key(const std::string& vae_folder, const data::PictureSet& set,
                                const data::PictureTransform& transform, DType dtype) {
  return {.autoencoder = autoencoder_digest(vae_folder),
          .transform = transform.describe(),
          .pictures = set.fingerprint(),
          .dtype = std::string(name_of(dtype)),
          .count = set.size(),
          .flips = transform.random_flip};
}

bool LatentCache::exists(const std::string& folder) {
  return is_file(latent_index_path(folder));
}

LatentCache LatentCache::open(const std::string& folder, const LatentCacheKey& key) {
  const LatentCacheLayout layout = read_latent_index(folder);
  require_same_key(layout.key, key, latent_index_path(folder));
  LatentCache cache;
  cache.shape_ = layout.latent_shape;
  cache.count_ = key.count;
  cache.shard_pictures_ = layout.shard_pictures;
  cache.flips_ = key.flips;
  std::set<std::string> seen;
  for (int64_t i = 0; i < layout.num_shards(); ++i) {
    const LatentShard shard = open_latent_shard(folder, layout, i);
    cache.shards_.push_back(shard.latents);
    const std::vector<int64_t> ids = shard.class_ids.to_vector<int64_t>();
    cache.class_ids_.insert(cache.class_ids_.end(), ids.begin(), ids.end());
    for (const std::string& broken : shard.broken)  // one shard's stand-in may be broken in the next
      if (seen.insert(broken).second) cache.broken_.push_back(broken);
  }
  return cache;
}

void LatentCache::read(int64_t index, bool flipped, float* to) const {
  RAEDIT_CHECK(index >= 0 && index < count_, {.code = ErrorCode::invalid_argument,
                                              .what = "no such picture in the latent cache",
                                              .where = "LatentCache::read",
                                              .found = fmt::to_string(index),
                                              .expected = fmt::format("0 to {}", count_ - 1)});
  RAEDIT_CHECK(!flipped || flips_, {.code = ErrorCode::invalid_argument,
                                    .what = "the latent cache has no mirror images",
                                    .where = "LatentCache::read"});
  const int64_t row = index % shard_pictures_ * (flips_ ? 2 : 1) + (flipped ? 1 : 0);
  const float* latents = shards_[static_cast<size_t>(index / shard_pictures_)].data<float>();
  std::memcpy(to, latents + row * shape_.numel(), static_cast<size_t>(shape_.numel()) * sizeof(float));
}

}  // namespace raedit::train
