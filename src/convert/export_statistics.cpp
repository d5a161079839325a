#include "convert/export_statistics.h"

#include <cmath>

#include "core/check.h"

namespace raedit::convert {
namespace {

constexpr float kEps = 1e-5f;

// The rounded square is at most a few steps away from a number that leads back.
float variance_of(float std, const std::string& where) {
  const float least = std::sqrt(kEps);
  RAEDIT_CHECK(std >= least, {.code = ErrorCode::unsupported,
                              .what = "upstream cannot hold a standard deviation this small",
                              .where = where,
                              .found = std::to_string(std),
                              .expected = std::to_string(least) + " or more"});
  const auto start = static_cast<float>(static_cast<double>(std) * std - static_cast<double>(kEps));
  float best = std::max(start, 0.0f);
  float error = std::fabs(std::sqrt(best + kEps) - std);
  float below = best, above = best;
  for (int step = 0; step < 64 && error > 0; ++step) {
    below = std::max(std::nextafter(below, -1.0f), 0.0f);
    above = std::nextafter(above, INFINITY);
    for (const float candidate : {below, above}) {
      const float e = std::fabs(std::sqrt(candidate + kEps) - std);
      if (e < error) {
        error = e;
        best = candidate;
      }
    }
  }
  return best;
}

}  // namespace

NamedTensors upstream_statistics(const WeightSet& vae) {
  const Tensor mean = vae.tensor("_latents_mean").to(DType::float32).contiguous();
  const Tensor std = vae.tensor("_latents_std").to(DType::float32).contiguous();
  const bool no_mean = mean.numel() == 1 && mean.item() == 0.0, no_std = std.numel() == 1 && std.item() == 1.0;
  NamedTensors statistics;
  if (!no_mean) statistics.emplace_back("mean", mean);
  if (!no_std) {
    Tensor var = std.clone();
    for (int64_t i = 0; i < var.numel(); ++i)
      var.data<float>()[i] = variance_of(var.data<float>()[i], vae.path() + ": _latents_std");
    statistics.emplace_back("var", var);
  }
  return statistics;
}

}  // namespace raedit::convert
