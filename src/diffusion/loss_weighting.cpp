#include "diffusion/loss_weighting.h"

#include <cmath>
#include <numbers>
#include <string>

#include "core/named_value.h"

namespace raedit::diffusion {
namespace {

constexpr std::pair<std::string_view, WeightingScheme> kNames[] = {{"none", WeightingScheme::none},
                                                                   {"sigma_sqrt", WeightingScheme::sigma_sqrt},
                                                                   {"logit_normal", WeightingScheme::logit_normal},
                                                                   {"mode", WeightingScheme::mode},
                                                                   {"cosmap", WeightingScheme::cosmap}};

}  // namespace

WeightingScheme weighting_scheme_from_name(std::string_view name) {
  return named_value(name, kNames, "unknown weighting scheme");
}

std::vector<float> sample_density(const DensityOptions& o, int64_t count, Generator& generator) {
  const bool normal = o.scheme == WeightingScheme::logit_normal;
  const Tensor draws = normal ? generator.randn({count}, DType::float32) : generator.rand({count}, DType::float32);
  std::vector<float> u = draws.to_vector<float>();
  constexpr auto kHalfPi = static_cast<float>(std::numbers::pi / 2);
  for (float& x : u) {
    if (normal) {
      x = x * static_cast<float>(o.logit_std) + static_cast<float>(o.logit_mean);
      x = 1.0f / (1.0f + std::exp(-x));
    } else if (o.scheme == WeightingScheme::mode) {
      const float c = std::cos(kHalfPi * x);
      x = 1.0f - x - static_cast<float>(o.mode_scale) * (c * c - 1.0f + x);
    }
  }
  return u;
}

float loss_weight(WeightingScheme scheme, float sigma) {
  if (scheme == WeightingScheme::sigma_sqrt) return 1.0f / (sigma * sigma);
  if (scheme != WeightingScheme::cosmap) return 1.0f;
  const float below = 1.0f - 2.0f * sigma + 2.0f * (sigma * sigma);
  return 2.0f / (static_cast<float>(std::numbers::pi) * below);
}

}  // namespace raedit::diffusion
