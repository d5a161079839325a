#include "train/encoded_pictures.h"

#include <algorithm>

#include "backend/device/processors.h"
#include "core/check.h"

namespace raedit::train {
namespace {

// A flip comes after the crop, so the mirror image needs no second look at the file.
Tensor mirrored(const Tensor& pixels) {
  const Tensor source = pixels.contiguous();
  const Tensor result = Tensor::empty(source.shape(), DType::float32);
  const int64_t width = source.dim(3);
  for (int64_t at = 0; at < source.numel(); at += width)
    std::reverse_copy(source.data<float>() + at, source.data<float>() + at + width, result.data<float>() + at);
  return result;
}

}  // namespace

void require_fixed_crop(const data::PictureTransform& transform, const char* where) {
  RAEDIT_CHECK(transform.crop != data::Crop::random, {.code = ErrorCode::invalid_argument,
                                                      .what = "random crops are other pictures every time",
                                                      .where = where,
                                                      .expected = "a center or adm crop"});
}

EncodedPictures::EncodedPictures(Context& ctx, const AutoencoderRAE& vae, std::shared_ptr<const data::PictureSet> set,
                                 data::PictureTransform transform, const std::vector<PictureRange>& ranges,
                                 const Options& options)
    : ctx_(ctx), vae_(vae), cancel_(options.cancel), flips_(options.flips) {
  require_fixed_crop(transform, "EncodedPictures");
  RAEDIT_CHECK(options.batch_size >= 1, {.code = ErrorCode::invalid_argument,
                                         .what = "the batch size is too small",
                                         .where = "EncodedPictures",
                                         .found = std::to_string(options.batch_size),
                                         .expected = "1 or more"});
  for (const PictureRange& range : ranges)
    for (int64_t first = range.first; first < range.end; first += options.batch_size)
      batches_.push_back({first, std::min(first + options.batch_size, range.end)});
  transform.random_flip = false;
  const auto plan = [this](int64_t k) {
    std::vector<data::PictureRequest> requests;
    if (k >= static_cast<int64_t>(batches_.size())) return requests;
    const PictureRange& batch = batches_[static_cast<size_t>(k)];
    for (int64_t i = batch.first; i < batch.end; ++i) requests.push_back({.index = i, .seed = 0, .flip = false});
    return requests;
  };
  data::PictureLoaderOptions loader = options.loader;
  loader.worker_begins = begin_background_thread;
  loader_ = std::make_unique<data::PictureLoader>(std::move(set), transform, plan, loader, cancel_);
}

Tensor EncodedPictures::encode(const Tensor& pixels) const {
  if (cancel_.cancelled()) raise({.code = ErrorCode::cancelled, .what = "cancelled"});
  ctx_.throw_if_cancelled();
  return vae_.encode(ctx_, pixels).cpu().to(DType::float32).contiguous();
}

std::optional<EncodedBatch> EncodedPictures::next() {
  if (next_ == batches_.size()) return std::nullopt;
  const std::optional<data::PictureBatch> batch = loader_->next();
  if (!batch) return std::nullopt;
  EncodedBatch result{.first = batches_[next_++].first, .latents = {}, .class_ids = batch->class_ids};
  result.latents.push_back(encode(batch->pixels));
  if (flips_) result.latents.push_back(encode(mirrored(batch->pixels)));
  return result;
}

std::vector<std::string> EncodedPictures::newly_broken() {
  const std::vector<std::string> all = loader_->broken();
  std::vector<std::string> fresh(all.begin() + static_cast<int64_t>(told_), all.end());
  told_ = all.size();
  return fresh;
}

}  // namespace raedit::train
