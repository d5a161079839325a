// What the engine itself may see behind the handles of the public API.
#pragma once

#include "models/autoencoder_rae.h"
#include "models/rae_dit_transformer.h"

namespace raedit::models {

struct Internals {
  static const RaeDitTransformer& of(const RAEDiT2DModel& model) { return *model.model_; }
  static const AutoencoderRae& of(const AutoencoderRAE& model) { return *model.model_; }
};

}  // namespace raedit::models
