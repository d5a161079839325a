#include "train/objective.h"

#include <algorithm>
#include <cstring>

#include "raedit/generator.h"

namespace raedit::train {

Objective::Objective(const FlowMatchEulerDiscreteScheduler& scheduler, const std::string& time_distribution,
                     const diffusion::DensityOptions& density, double class_dropout_prob)
    : sigmas_(scheduler.sigmas()), density_(density), class_dropout_prob_(class_dropout_prob) {
  if (time_distribution != "table")
    times_ = diffusion::TimeDistribution::parse(time_distribution, scheduler.config().shift);
}

Drawn Objective::draw(uint64_t seed, float* noise, int64_t count) const {
  Generator generator(seed);
  Drawn drawn;
  if (times_) {
    drawn.sigma = diffusion::sample_times(*times_, 1, generator)[0];
  } else {
    const float u = diffusion::sample_density(density_, 1, generator)[0];
    const auto last = static_cast<int64_t>(sigmas_.size()) - 1;
    const auto place = static_cast<int64_t>(u * static_cast<float>(sigmas_.size()));
    drawn.sigma = sigmas_[static_cast<size_t>(std::clamp<int64_t>(place, 0, last))];
  }
  drawn.weight = diffusion::loss_weight(density_.scheme, drawn.sigma);
  drawn.drops_label = generator.rand({1}).data<float>()[0] < static_cast<float>(class_dropout_prob_);
  const Tensor normal = generator.randn({count});
  std::memcpy(noise, normal.data<float>(), static_cast<size_t>(count) * sizeof(float));
  return drawn;
}

}  // namespace raedit::train
