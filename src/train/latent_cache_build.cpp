// Building a latent cache: shards are encoded one after another and written when they are whole.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "core/check.h"
#include "io/files.h"
#include "train/latent_cache_files.h"

namespace raedit::train {
namespace {

constexpr size_t kMostShardBytes = size_t{1} << 30;  // a shard is in memory while it is made

Shape latent_shape_of(const AutoencoderRAEConfig& c) {
  if (!c.reshape_to_2d) return {c.num_patches(), c.encoder_hidden_size};
  return {c.encoder_hidden_size, c.grid(), c.grid()};
}

void check(const LatentCacheKey& key, const data::PictureSet& set, const data::PictureTransform& transform, DType dtype,
           const LatentCacheBuild& o) {
  const char* where = "LatentCache::build";
  require_fixed_crop(transform, where);
  RAEDIT_CHECK(o.batch_size >= 1 && o.shard_pictures >= 1 && o.ranks >= 1 && o.rank >= 0 && o.rank < o.ranks,
               {.code = ErrorCode::invalid_argument,
                .what = "the options do not fit together",
                .where = where,
                .found = fmt::format("batch_size {}, shard_pictures {}, rank {} of {}", o.batch_size, o.shard_pictures,
                                     o.rank, o.ranks)});
  RAEDIT_CHECK(key.count >= 1 && key.count == set.size(), {.code = ErrorCode::invalid_argument,
                                                           .what = "the key is of another number of pictures",
                                                           .where = where,
                                                           .found = fmt::to_string(key.count),
                                                           .expected = fmt::to_string(set.size())});
  RAEDIT_CHECK(key.flips == transform.random_flip,
               {.code = ErrorCode::invalid_argument, .what = "key and transform disagree about flips", .where = where});
  RAEDIT_CHECK(key.dtype == name_of(dtype), {.code = ErrorCode::invalid_argument,
                                             .what = "the autoencoder computes in another type than the key says",
                                             .where = where,
                                             .found = std::string(name_of(dtype)),
                                             .expected = key.dtype});
}

LatentCacheLayout plan_layout(const LatentCacheKey& key, const AutoencoderRAE& vae, const LatentCacheBuild& options) {
  LatentCacheLayout layout{key, latent_shape_of(vae.config()), options.shard_pictures};
  const size_t picture = static_cast<size_t>(layout.latent_shape.numel() * layout.views()) * sizeof(float);
  const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(kMostShardBytes / picture));
  layout.shard_pictures = std::min(layout.shard_pictures, most);
  return layout;
}

// Fills one shard after another with the batches that come.
class ShardWriter {
 public:
  ShardWriter(const std::string& folder, const LatentCacheLayout& layout) : folder_(folder), layout_(layout) {}

  void add(const EncodedBatch& batch) {
    const int64_t shard = batch.first / layout_.shard_pictures;
    const PictureRange range = layout_.range(shard);
    if (!content_.latents.defined()) {
      content_.latents = Tensor::empty(layout_.shard_shape(shard), DType::float32);
      content_.class_ids = Tensor::empty({range.end - range.first}, DType::int64);
    }
    const auto rows = static_cast<int64_t>(batch.class_ids.size());
    const int64_t first = batch.first - range.first, numel = layout_.latent_shape.numel();
    for (int64_t view = 0; view < layout_.views(); ++view) {
      const float* from = batch.latents[static_cast<size_t>(view)].data<float>();
      float* to = content_.latents.data<float>();
      for (int64_t i = 0; i < rows; ++i)
        std::memcpy(to + ((first + i) * layout_.views() + view) * numel, from + i * numel,
                    static_cast<size_t>(numel) * sizeof(float));
    }
    std::ranges::copy(batch.class_ids, content_.class_ids.data<int64_t>() + first);
    if (first + rows == range.end - range.first) finish(shard);
  }

  void add_broken(const std::vector<std::string>& names) {
    content_.broken.insert(content_.broken.end(), names.begin(), names.end());
  }

 private:
  void finish(int64_t shard) {
    write_latent_shard(folder_, layout_, shard, content_);
    content_ = {};
  }

  const std::string& folder_;
  const LatentCacheLayout& layout_;
  LatentShard content_;
};

// What is left to do for this process; shards that are there are looked at.
struct Work {
  std::vector<PictureRange> missing;
  int64_t done = 0, total = 0;
};

Work find_work(const std::string& folder, const LatentCacheLayout& layout, const LatentCacheBuild& options) {
  Work work;
  for (int64_t shard = options.rank; shard < layout.num_shards(); shard += options.ranks) {
    const PictureRange range = layout.range(shard);
    work.total += range.end - range.first;
    if (is_file(latent_shard_path(folder, shard))) {
      open_latent_shard(folder, layout, shard);
      work.done += range.end - range.first;
    } else {
      work.missing.push_back(range);
    }
  }
  return work;
}

void write_index_of_shards(const std::string& folder, const LatentCacheLayout& layout) {
  std::vector<std::string> broken;
  std::set<std::string> seen;  // one shard's stand-in may be broken in the next
  for (int64_t shard = 0; shard < layout.num_shards(); ++shard)
    for (const std::string& name : open_latent_shard(folder, layout, shard).broken)
      if (seen.insert(name).second) broken.push_back(name);
  write_latent_index(folder, layout, broken);
}

}  // namespace

void LatentCache::build(Context& ctx, const std::string& folder, const LatentCacheKey& key,
                        std::shared_ptr<const data::PictureSet> set, const data::PictureTransform& transform,
                        const AutoencoderRAE& vae, const LatentCacheBuild& options) {
  check(key, *set, transform, vae.dtype(), options);
  if (exists(folder)) {
    open(folder, key);
    return;
  }
  const LatentCacheLayout layout = plan_layout(key, vae, options);
  create_directories(folder);
  Work work = find_work(folder, layout, options);
  const auto report = [&](const std::string& note) {
    if (options.progress) options.progress({work.done, work.total, note});
  };
  report("");
  if (!work.missing.empty()) {
    const EncodedPictures::Options encoding{options.batch_size, key.flips, options.loader, options.cancel};
    EncodedPictures pictures(ctx, vae, std::move(set), transform, work.missing, encoding);
    ShardWriter shards(folder, layout);
    while (const std::optional<EncodedBatch> batch = pictures.next()) {
      const std::vector<std::string> broken = pictures.newly_broken();
      shards.add_broken(broken);
      for (const std::string& name : broken) report("skipped " + name);
      shards.add(*batch);
      work.done += static_cast<int64_t>(batch->class_ids.size());
      report("");
    }
  }
  if (options.ranks == 1) write_index_of_shards(folder, layout);
}

}  // namespace raedit::train
