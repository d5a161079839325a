// Latent statistics as upstream keeps them.
#pragma once

#include "io/weight_set.h"

namespace raedit::convert {

// {mean, var} from an AutoencoderRAE's {_latents_mean, _latents_std}; nothing when they are 0 and 1, one number each.
// var is the float32 number for which sqrt(var + 1e-5) in float32 is the std again, or comes nearest to it.
NamedTensors upstream_statistics(const WeightSet& vae);

}  // namespace raedit::convert
