// Mean and standard deviation of latents, from the statistics file of upstream's ({mean, var}, either may be absent) or
// of diffusers' ({latents_mean, latents_std}).
#pragma once

#include <string>

#include "raedit/convert.h"
#include "raedit/tensor.h"

namespace raedit::convert {

struct LatentStatistics {
  Tensor mean;  // undefined: 0
  Tensor std;   // undefined: 1
};

// std = sqrt(var + 1e-5) in the tensor's precision, as the script computes it, or what LatentsStd says. Throws
// Error(format) for a file without any of the four, negative or non-finite numbers, and shapes that do not fit the
// latents [channels, side, side] (or [side * side, channels] when they are token lists).
LatentStatistics read_latent_statistics(const std::string& path, LatentsStd convention, const Shape& latents);

}  // namespace raedit::convert
