// Which times are trained on, and how much each counts. Source: diffusers training_utils.py
// (compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3); Esser et al.,
// https://arxiv.org/abs/2403.03206.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "raedit/generator.h"

namespace raedit::diffusion {

enum class WeightingScheme { none, sigma_sqrt, logit_normal, mode, cosmap };

// Throws Error(invalid_argument) naming the known ones.
WeightingScheme weighting_scheme_from_name(std::string_view name);

struct DensityOptions {
  WeightingScheme scheme = WeightingScheme::none;
  double logit_mean = 0.0, logit_std = 1.0;  // logit_normal
  double mode_scale = 1.29;                  // mode
};

// u in [0,1], one for each of `count`, in float32 with the draws of torch's generator: where in the table of noise
// levels a picture is trained (0 is the highest noise).
std::vector<float> sample_density(const DensityOptions& options, int64_t count, Generator& generator);

// The weight of the loss at noise level sigma, in float32.
float loss_weight(WeightingScheme scheme, float sigma);

}  // namespace raedit::diffusion
