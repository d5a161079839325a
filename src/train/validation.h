// Pictures from the weights as they are, with fixed seeds: what a person looks at while a model trains.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "models/checkpoint.h"
#include "raedit/image.h"
#include "raedit/rae_dit_pipeline.h"

namespace raedit::train {

struct ValidationOptions {
  std::vector<int64_t> class_labels;
  int64_t images_per_class = 1;
  int64_t num_inference_steps = 25;
  double guidance_scale = 1.0;
  uint64_t seed = 0;  // of the first picture; the same at every validation, so that pictures can be compared
};

// Of each class its pictures, in this order. `source`: config and weights of the transformer.
std::vector<Image> validation_pictures(Context& ctx, const models::ModelSource& source, const LoadOptions& load,
                                       const AutoencoderRAE& vae, const FlowMatchEulerDiscreteScheduler& scheduler,
                                       const ValidationOptions& options);

// folder/image-0.png, ...; the folder appears whole or not at all, and replaces one of that name.
void save_pictures(const std::string& folder, const std::vector<Image>& pictures);

}  // namespace raedit::train
