// What one sample is trained on: at which noise level, how much it counts, whether it keeps its class. Drawn from the
// sample's own seed: the time first, then the label's dropout, then the noise.
// Source: diffusers' examples of pull request 13231 (the table and its weighting schemes); bytetriper/RAE
// stage2/transport (continuous times); LabelEmbedder of both (dropout).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "diffusion/loss_weighting.h"
#include "diffusion/time_sampling.h"
#include "raedit/flow_match_euler_discrete.h"
#include "raedit/tensor.h"

namespace raedit::train {

struct Drawn {
  float sigma = 0;
  float weight = 1;
  bool drops_label = false;
};

class Objective {
 public:
  // "table": a place in the scheduler's noise levels, drawn with `density`; else a TimeDistribution with the
  // scheduler's shift. Throws Error(invalid_argument).
  Objective(const FlowMatchEulerDiscreteScheduler& scheduler, const std::string& time_distribution,
            const diffusion::DensityOptions& density, double class_dropout_prob);

  // `noise`: where the sample's share of the batch goes, `count` floats.
  Drawn draw(uint64_t seed, float* noise, int64_t count) const;

 private:
  std::vector<float> sigmas_;
  diffusion::DensityOptions density_;
  std::optional<diffusion::TimeDistribution> times_;
  double class_dropout_prob_;
};

}  // namespace raedit::train
