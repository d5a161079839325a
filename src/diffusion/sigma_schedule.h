// The numbers behind FlowMatchEulerDiscreteScheduler: grids of sigmas and the ways to bend them. Pure functions.
// Source: diffusers schedulers/scheduling_flow_match_euler_discrete.py (constructor and set_timesteps); Karras et al.,
// https://arxiv.org/abs/2206.00364. Which steps are float32 and which float64 is part of the result, to the last bit.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "raedit/flow_match_euler_discrete.h"

namespace raedit::diffusion {

// shift * sigma / (1 + (shift - 1) * sigma), in T's precision.
template <class T>
T shifted(double shift, T sigma) {
  return static_cast<T>(shift) * sigma / (T{1} + static_cast<T>(shift - 1) * sigma);
}

// sigma = t / N for t = N, N-1, ..., 1 in float32, shifted in float32 unless shifting is dynamic.
std::vector<float> training_sigmas(const FlowMatchEulerDiscreteSchedulerConfig& config);

// Where an inference schedule begins: one of the three is set.
struct SigmaGrid {
  std::optional<int64_t> steps;   // evenly from sigma_max to sigma_min in float64
  std::vector<double> sigmas;     // the caller's own; rounded to float32
  std::vector<double> timesteps;  // the caller's own; rounded to float32
  double sigma_min = 0;
  double sigma_max = 1;
};

// Shifts the grid, stretches it to shift_terminal, and replaces it by Karras' or an exponential one between its ends,
// as the config says. Neither inverted nor closed by the final 0. `mu` is for dynamic shifting.
std::vector<float> inference_sigmas(const FlowMatchEulerDiscreteSchedulerConfig& config, double shift,
                                    std::optional<double> mu, const SigmaGrid& grid);

}  // namespace raedit::diffusion
