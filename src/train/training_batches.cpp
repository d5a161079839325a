#include "train/training_batches.h"

#include <algorithm>

#include "backend/device/processors.h"
#include "core/check.h"
#include "raedit/generator.h"

namespace raedit::train {
namespace {

// As random_horizontal_flip() draws it behind a crop that draws nothing, so that a cached latent is that of the
// picture that would have been encoded.
bool is_flipped(const Sample& sample) {
  return Generator(sample.picture_seed).rand({1}).data<float>()[0] < 0.5f;
}

Shape with_batch(int64_t batch, const Shape& latent) {
  return {batch, latent[0], latent[1], latent[2]};
}

}  // namespace

TrainingBatches::TrainingBatches(const SamplePlan& plan, const Objective& objective, const BatchCut& cut, int64_t start,
                                 const Shape& latent_shape, int64_t null_class, const LatentSource& source)
    : plan_(plan),
      objective_(objective),
      cut_(cut),
      start_(start),
      latent_shape_(latent_shape),
      null_class_(null_class),
      source_(source) {
  data::PictureLoaderOptions options = source_.loader;
  options.worker_begins = begin_background_thread;
  if (!source_.cache)
    loader_ = std::make_unique<data::PictureLoader>(
        source_.pictures, source_.transform, [this](int64_t k) { return requests(k); }, options);
  const int workers = std::min(options.workers, 4);
  ahead_ = std::make_unique<Ahead<Prepared>>(
      workers, workers + 1, [this](int64_t k) { return prepare(k); }, begin_background_thread);
}

std::vector<data::PictureRequest> TrainingBatches::requests(int64_t k) const {
  std::vector<data::PictureRequest> requests;
  for (int64_t i = 0; i < cut_.batch; ++i) {
    const Sample sample = plan_.at(cut_.position(start_, k) + i);
    requests.push_back({sample.picture, sample.picture_seed, {}});
  }
  return requests;
}

TrainingBatches::Prepared TrainingBatches::prepare(int64_t k) const {
  const int64_t batch = cut_.batch, count = latent_shape_.numel();
  Prepared prepared;
  Stage2Batch& out = prepared.batch;
  out.noise = Tensor::empty(with_batch(batch, latent_shape_), DType::float32);
  if (source_.cache) out.latents = Tensor::empty(out.noise.shape(), DType::float32);
  std::vector<float> sigmas, weights;
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < batch; ++i) {
    const Sample sample = plan_.at(cut_.position(start_, k) + i);
    const Drawn drawn = objective_.draw(sample.noise_seed, out.noise.data<float>() + i * count, count);
    sigmas.push_back(drawn.sigma);
    weights.push_back(drawn.weight);
    prepared.drops_label.push_back(drawn.drops_label);
    if (!source_.cache) continue;
    const bool flipped = source_.transform.random_flip && is_flipped(sample);
    source_.cache->read(sample.picture, flipped, out.latents.data<float>() + i * count);
    labels.push_back(drawn.drops_label ? null_class_ : source_.model_class(source_.cache->class_id(sample.picture)));
  }
  out.sigmas = Tensor::from(sigmas, {batch});
  out.weights = Tensor::from(weights, {batch});
  if (source_.cache) out.class_labels = Tensor::from(labels, {batch});
  return prepared;
}

Stage2Batch TrainingBatches::next(Context& ctx) {
  Prepared prepared = ahead_->next();
  if (source_.cache) return prepared.batch;
  std::optional<data::PictureBatch> pictures = loader_->next();
  RAEDIT_CHECK(pictures.has_value(),
               {.code = ErrorCode::internal, .what = "the stream of pictures ended", .where = "TrainingBatches"});
  prepared.batch.latents = source_.vae->encode(ctx, pictures->pixels);
  std::vector<int64_t> labels = pictures->class_ids;
  for (size_t i = 0; i < labels.size(); ++i)
    labels[i] = prepared.drops_label[i] ? null_class_ : source_.model_class(labels[i]);
  prepared.batch.class_labels = Tensor::from(labels, {cut_.batch});
  return prepared.batch;
}

std::vector<std::string> TrainingBatches::broken() const {
  return loader_ ? loader_->broken() : std::vector<std::string>();
}

}  // namespace raedit::train
