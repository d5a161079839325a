// Latents of a whole picture set, encoded once: training that reads them never runs the encoder again.
//
// DIR/latents-00000.safetensors, ...: shards, each "latents" [n,F,C,h,w] float32 with F = 2 where flips are used (the
// picture, then its mirror image), else 1, "class_ids" [n] int64, and what they were made from in the metadata;
// DIR/latents.json says that too, and which pictures were broken. Shards appear whole, the index last; a build that was
// stopped goes on with the shards that are there.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/picture_loader.h"
#include "data/picture_set.h"
#include "raedit/autoencoder_rae.h"
#include "raedit/context.h"

namespace raedit::train {

// What latents depend on; a cache whose key differs in anything is stale.
struct LatentCacheKey {
  std::string autoencoder;  // SHA-256 over the weight files and the config of vae/
  std::string transform;    // PictureTransform::describe()
  std::string pictures;     // PictureSet::fingerprint()
  std::string dtype;        // what the encoder computed in
  int64_t count = 0;
  bool flips = false;
};

LatentCacheKey latent_cache_key(const std::string& vae_folder, const data::PictureSet& set,
                                const data::PictureTransform& transform, DType dtype);

struct LatentCacheProgress {
  int64_t done = 0, total = 0;  // pictures of this rank; done begins at those that were there already
  std::string note;             // of what stays to be told, such as a picture that was skipped
};

struct LatentCacheBuild {
  int64_t batch_size = 16;
  int64_t shard_pictures = 1024;  // fewer where they would take more than 1 GiB: a shard is in memory while it is made
  // This process encodes every ranks-th shard. With more than one rank nobody writes the index: when all are done, one
  // process calls build() again with ranks = 1, which finds every shard there, reads headers only, and writes it.
  int64_t rank = 0, ranks = 1;
  data::PictureLoaderOptions loader;
  std::function<void(const LatentCacheProgress&)> progress;
  CancelToken cancel;
};

// May be read from many threads at once; maps its shards.
class LatentCache {
 public:
  // Whether DIR holds a finished cache.
  static bool exists(const std::string& folder);
  // Throws Error(not_found) where there is none, Error(format) for one of another key, saying which parts changed
  // (autoencoder, transform, pictures, count, dtype, flips), and for damaged shards.
  static LatentCache open(const std::string& folder, const LatentCacheKey& key);
  // Encodes what is missing. random crops cannot be cached: Error(invalid_argument). Shards left by a stopped build of
  // another key are an Error(format), too: nothing is deleted that somebody may want.
  static void build(Context& ctx, const std::string& folder, const LatentCacheKey& key,
                    std::shared_ptr<const data::PictureSet> set, const data::PictureTransform& transform,
                    const AutoencoderRAE& vae, const LatentCacheBuild& options);

  // The pictures that could not be read, "NAME: why": with skip_broken others stand in for them.
  const std::vector<std::string>& broken() const { return broken_; }

  int64_t size() const { return count_; }
  const Shape& latent_shape() const { return shape_; }  // [C,h,w]
  bool has_flips() const { return flips_; }
  // Copies one latent, float32, to `to`. With skip_broken, the one of the picture that stood in.
  void read(int64_t index, bool flipped, float* to) const;
  // The class of what read() gives: another one's where a broken picture was replaced.
  int64_t class_id(int64_t index) const { return class_ids_[static_cast<size_t>(index)]; }

 private:
  std::vector<Tensor> shards_;
  std::vector<int64_t> class_ids_;
  std::vector<std::string> broken_;
  Shape shape_;
  int64_t count_ = 0, shard_pictures_ = 0;
  bool flips_ = false;
};

}  // namespace raedit::train
