// The micro-batches of a run, one after the other: latents from the cache or from the encoder, and what is drawn for
// each sample. Threads prepare them ahead; what they are depends on the plan alone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/ahead.h"
#include "data/picture_loader.h"
#include "raedit/autoencoder_rae.h"
#include "raedit/context.h"
#include "train/latent_cache.h"
#include "train/objective.h"
#include "train/sample_plan.h"
#include "train/stage2_step.h"

namespace raedit::train {

// Where latents come from: a cache, or pictures and the encoder.
struct LatentSource {
  std::shared_ptr<const LatentCache> cache;
  // without one:
  std::shared_ptr<const data::PictureSet> pictures;
  data::PictureTransform transform;
  std::shared_ptr<const AutoencoderRAE> vae;
  data::PictureLoaderOptions loader;
  // Which class of the model each of the data's is; empty: the same.
  std::vector<int64_t> class_ids = {};

  int64_t model_class(int64_t of_data) const {
    return class_ids.empty() ? of_data : class_ids[static_cast<size_t>(of_data)];
  }
};

class TrainingBatches {
 public:
  // From stream position `start` on, which begins a step. `null_class` replaces dropped labels. A run that is told to
  // stop ends its step first, so nothing here listens.
  TrainingBatches(const SamplePlan& plan, const Objective& objective, const BatchCut& cut, int64_t start,
                  const Shape& latent_shape, int64_t null_class, const LatentSource& source);

  // Encodes on the device of `ctx`, if there is something to encode. Throws what reading the pictures threw.
  Stage2Batch next(Context& ctx);

  // What the loader skipped so far.
  std::vector<std::string> broken() const;

 private:
  struct Prepared {
    Stage2Batch batch;  // without a cache: no latents, and labels of the dropped ones alone
    std::vector<bool> drops_label;
  };

  Prepared prepare(int64_t k) const;
  std::vector<data::PictureRequest> requests(int64_t k) const;

  const SamplePlan& plan_;
  const Objective& objective_;
  const BatchCut cut_;
  const int64_t start_;
  const Shape latent_shape_;
  const int64_t null_class_;
  const LatentSource source_;
  std::unique_ptr<data::PictureLoader> loader_;
  std::unique_ptr<Ahead<Prepared>> ahead_;
};

}  // namespace raedit::train
