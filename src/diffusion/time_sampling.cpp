#include "diffusion/time_sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/check.h"
#include "core/text.h"
#include "diffusion/sigma_schedule.h"

namespace raedit::diffusion {
namespace {

// Standard normal in float32, rounded where torch.distributions.Normal rounds.
float normal_cdf(float x) {
  return 0.5f * (1.0f + std::erf(x / std::numbers::sqrt2_v<float>));
}

float normal_icdf(float p) {
  return static_cast<float>(erfinv(static_cast<double>(2.0f * p - 1.0f))) * std::numbers::sqrt2_v<float>;
}

float logit(float p) {
  return std::log(p / (1.0f - p));  // infinite at 0 and 1
}

float logit_normal(const TimeDistribution& d, float u) {
  const auto mu = static_cast<float>(d.mu), sigma = static_cast<float>(d.sigma);
  const auto low = static_cast<float>(d.low), high = static_cast<float>(d.high);
  const float from = normal_cdf((logit(low) - mu) / sigma), to = normal_cdf((logit(high) - mu) / sigma);
  const float z = mu + sigma * normal_icdf(from + (to - from) * u);
  return std::clamp(1.0f / (1.0f + std::exp(-z)), low, high);
}

double parse_part(std::string_view text, const std::string& type) {
  const std::optional<double> value = number_of<double>(text);
  RAEDIT_CHECK(value && std::isfinite(*value),
               {.code = ErrorCode::invalid_argument,
                .what = "unknown distribution of times",
                .found = type,
                .expected = "uniform or logit-normal_MU_SIGMA, such as logit-normal_0_1"});
  return *value;
}

}  // namespace

double erfinv(double y) {
  if (std::abs(y) >= 1.0) return std::copysign(std::numeric_limits<double>::infinity(), y);
  // A rough start (Winitzki 2008), then Newton on erfc, which keeps its precision where erf is nearly 1.
  constexpr double a = 0.147;
  const double log_term = std::log1p(-y * y);
  const double half = 2.0 / (std::numbers::pi * a) + log_term / 2.0;
  double x = std::sqrt(std::max(0.0, std::sqrt(half * half - log_term / a) - half));
  const double target = 1.0 - std::abs(y);  // exact for floats
  for (int i = 0; i < 4; ++i) x += (std::erfc(x) - target) / (2.0 * std::numbers::inv_sqrtpi * std::exp(-x * x));
  return std::copysign(x, y);
}

TimeDistribution TimeDistribution::parse(const std::string& type, double shift) {
  TimeDistribution d;
  RAEDIT_CHECK(shift >= 1.0 && std::isfinite(shift), {.code = ErrorCode::invalid_argument,
                                                      .what = "the shift of the times is out of range",
                                                      .found = fmt::to_string(shift),
                                                      .expected = "1 or more"});
  d.shift = shift;
  if (type == "uniform") return d;
  constexpr std::string_view kPrefix = "logit-normal_";
  const std::string_view rest = type.starts_with(kPrefix) ? std::string_view(type).substr(kPrefix.size()) : "";
  const size_t between = std::min(rest.find('_'), rest.size());
  d.kind = Kind::logit_normal;
  d.mu = parse_part(rest.substr(0, between), type);
  d.sigma = parse_part(rest.substr(std::min(between + 1, rest.size())), type);
  RAEDIT_CHECK(
      d.sigma > 0,
      {.code = ErrorCode::invalid_argument, .what = "the deviation of the times must be above 0", .found = type});
  return d;
}

std::vector<float> sample_times(const TimeDistribution& d, int64_t count, Generator& generator) {
  std::vector<float> times = generator.rand({count}, DType::float32).to_vector<float>();
  const auto low = static_cast<float>(d.low), width = static_cast<float>(d.high - d.low);
  for (float& t : times) {
    t = d.kind == TimeDistribution::Kind::uniform ? t * width + low : logit_normal(d, t);
    t = shifted(d.shift, t);
  }
  return times;
}

}  // namespace raedit::diffusion
