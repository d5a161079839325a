// Pictures of a set as latents, batch by batch and in order: what the latent cache stores and statistics are taken of.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/picture_loader.h"
#include "data/picture_set.h"
#include "raedit/autoencoder_rae.h"
#include "raedit/context.h"

namespace raedit::train {

struct PictureRange {
  int64_t first = 0, end = 0;
};

struct EncodedBatch {
  int64_t first = 0;            // of its pictures in the set
  std::vector<Tensor> latents;  // float32 on the host: of the pictures [B,C,h,w], then of their mirror images
  std::vector<int64_t> class_ids;
};

class EncodedPictures {
 public:
  struct Options {
    int64_t batch_size = 16;
    bool flips = false;
    data::PictureLoaderOptions loader;
    CancelToken cancel;
  };

  // One range after another; no batch reaches across two. `ctx` and `vae` must outlive this. Throws
  // Error(invalid_argument) for random crops.
  EncodedPictures(Context& ctx, const AutoencoderRAE& vae, std::shared_ptr<const data::PictureSet> set,
                  data::PictureTransform transform, const std::vector<PictureRange>& ranges, const Options& options);
  EncodedPictures(const EncodedPictures&) = delete;
  EncodedPictures& operator=(const EncodedPictures&) = delete;

  // Nothing behind the last one. Throws as PictureLoader::next() does, and Error(cancelled).
  std::optional<EncodedBatch> next();
  // Pictures that were skipped since this was last asked: "NAME: why".
  std::vector<std::string> newly_broken();

 private:
  Tensor encode(const Tensor& pixels) const;

  Context& ctx_;
  const AutoencoderRAE& vae_;
  CancelToken cancel_;
  bool flips_;
  std::vector<PictureRange> batches_;
  size_t next_ = 0;
  size_t told_ = 0;
  std::unique_ptr<data::PictureLoader> loader_;  // its workers read batches_
};

// Throws Error(invalid_argument) for a crop that is another one each time.
void require_fixed_crop(const data::PictureTransform& transform, const char* where);

}  // namespace raedit::train
