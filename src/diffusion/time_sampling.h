// Upstream's continuous times of training: uniform on [0, 0.999], or a logit-normal cut off there, then shifted towards
// noise. Source: bytetriper/RAE stage2/transport/transport.py (Transport.sample, truncated_logitnormal_sample).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "raedit/generator.h"

namespace raedit::diffusion {

struct TimeDistribution {
  enum class Kind { uniform, logit_normal };
  Kind kind = Kind::uniform;
  double mu = 0.0, sigma = 1.0;    // of the logit
  double low = 0.0, high = 0.999;  // of t before the shift
  double shift = 1.0;              // t -> shift t / (1 + (shift - 1) t); 1 or more

  // transport.params.time_dist_type: "uniform" or "logit-normal_MU_SIGMA". Throws Error(invalid_argument).
  static TimeDistribution parse(const std::string& type, double shift);
};

// One time for each of `count`, in float32, from the uniform draws of torch's generator.
std::vector<float> sample_times(const TimeDistribution& distribution, int64_t count, Generator& generator);

// x with erf(x) = y, for y in (-1, 1); infinite at the ends.
double erfinv(double y);

}  // namespace raedit::diffusion
