// The files of a latent cache, for reading and building it: names, the index, and shards with what they were made from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "raedit/autoencoder_rae.h"
#include "train/encoded_pictures.h"
#include "train/latent_cache.h"

namespace raedit::train {

// What a cache is made from and how it is cut into shards.
struct LatentCacheLayout {
  LatentCacheKey key;
  Shape latent_shape;
  int64_t shard_pictures = 0;

  int64_t views() const { return key.flips ? 2 : 1; }
  int64_t num_shards() const { return (key.count + shard_pictures - 1) / shard_pictures; }
  PictureRange range(int64_t shard) const;
  Shape shard_shape(int64_t shard) const;  // [n,F,C,h,w]
};

struct LatentShard {
  Tensor latents;    // shard_shape(), float32
  Tensor class_ids;  // [n] int64
  std::vector<std::string> broken;
};

std::string latent_index_path(const std::string& folder);
std::string latent_shard_path(const std::string& folder, int64_t shard);

// Throws Error(format) that names each part in which `found` is not `expected`.
void require_same_key(const LatentCacheKey& found, const LatentCacheKey& expected, const std::string& where);

// Mapped. Throws Error(format) for a damaged one, and for one of another key or cut.
LatentShard open_latent_shard(const std::string& folder, const LatentCacheLayout& layout, int64_t shard);
void write_latent_shard(const std::string& folder, const LatentCacheLayout& layout, int64_t shard,
                        const LatentShard& content);

// Throws Error(not_found) where there is none, saying whether shards are, Error(format) for a damaged one.
LatentCacheLayout read_latent_index(const std::string& folder);
void write_latent_index(const std::string& folder, const LatentCacheLayout& layout,
                        const std::vector<std::string>& broken);

}  // namespace raedit::train
