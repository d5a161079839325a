#include "diffusion/sigma_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace raedit {
namespace diffusion {
namespace {

// Everything below is written once for T = float and T = double: NumPy keeps an array's precision beside Python
// numbers, which are rounded to it first.

template <class T>
void shift_all(double shift, std::vector<T>& sigmas) {
  for (T& sigma : sigmas) sigma = shifted(shift, sigma);
}

template <class T>
void shift_by_mu(TimeShiftType type, double mu, std::vector<T>& sigmas) {
  const T weight = static_cast<T>(type == TimeShiftType::exponential ? std::exp(mu) : mu);
  for (T& sigma : sigmas) sigma = weight / (weight + (T{1} / sigma - T{1}));
}

template <class T>
void stretch_to_terminal(double terminal, std::vector<T>& sigmas) {
  const T scale = (T{1} - sigmas.back()) / static_cast<T>(1 - terminal);
  for (T& sigma : sigmas) sigma = T{1} - (T{1} - sigma) / scale;
}

// numpy.linspace in float64.
std::vector<double> linspace(double start, double stop, int64_t n) {
  std::vector<double> values(static_cast<size_t>(n), start);
  if (n == 1) return values;
  const double intervals = static_cast<double>(n - 1);
  const double step = (stop - start) / intervals;
  for (int64_t i = 0; i < n; ++i) {
    const double k = static_cast<double>(i);
    // A step too small for float64 divides last instead.
    values[static_cast<size_t>(i)] = start + (step == 0 ? k / intervals * (stop - start) : k * step);
  }
  values.back() = stop;
  return values;
}

// Evenly spaced in sigma^(1/rho).
std::vector<double> karras(double sigma_max, double sigma_min, int64_t n) {
  constexpr double kRho = 7.0;
  const double low = std::pow(sigma_min, 1 / kRho);
  const double high = std::pow(sigma_max, 1 / kRho);
  std::vector<double> sigmas = linspace(0, 1, n);
  for (double& sigma : sigmas) sigma = std::pow(high + sigma * (low - high), kRho);
  return sigmas;
}

// Evenly spaced in log sigma.
std::vector<double> exponential(double sigma_max, double sigma_min, int64_t n) {
  std::vector<double> sigmas = linspace(std::log(sigma_max), std::log(sigma_min), n);
  for (double& sigma : sigmas) sigma = std::exp(sigma);
  return sigmas;
}

template <class T>
std::vector<float> to_float(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

template <class T>
std::vector<float> bend(const FlowMatchEulerDiscreteSchedulerConfig& config, double shift, std::optional<double> mu,
                        std::vector<T> sigmas) {
  if (config.use_dynamic_shifting)
    shift_by_mu(config.time_shift_type, mu.value(), sigmas);
  else
    shift_all(shift, sigmas);
  if (config.shift_terminal.value_or(0) != 0) stretch_to_terminal(*config.shift_terminal, sigmas);

  const double first = static_cast<double>(sigmas.front());
  const double last = static_cast<double>(sigmas.back());
  const int64_t n = static_cast<int64_t>(sigmas.size());
  if (config.use_karras_sigmas) return to_float(karras(first, last, n));
  if (config.use_exponential_sigmas) return to_float(exponential(first, last, n));
  return to_float(sigmas);
}

}  // namespace

std::vector<float> training_sigmas(const FlowMatchEulerDiscreteSchedulerConfig& config) {
  const int64_t n = config.num_train_timesteps;
  std::vector<float> sigmas(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) sigmas[static_cast<size_t>(i)] = static_cast<float>(n - i) / static_cast<float>(n);
  if (!config.use_dynamic_shifting) shift_all(config.shift, sigmas);
  return sigmas;
}

std::vector<float> inference_sigmas(const FlowMatchEulerDiscreteSchedulerConfig& config, double shift,
                                    std::optional<double> mu, const SigmaGrid& grid) {
  const double n = static_cast<double>(config.num_train_timesteps);
  std::vector<float> sigmas;
  if (!grid.sigmas.empty()) {
    sigmas = bend(config, shift, mu, to_float(grid.sigmas));
  } else if (!grid.timesteps.empty()) {
    std::vector<float> start = to_float(grid.timesteps);
    for (float& t : start) t /= static_cast<float>(n);
    sigmas = bend(config, shift, mu, std::move(start));
  } else {
    // By way of timesteps: the multiplication and the division each round.
    std::vector<double> start = linspace(grid.sigma_max * n, grid.sigma_min * n, grid.steps.value());
    for (double& t : start) t /= n;
    sigmas = bend(config, shift, mu, std::move(start));
  }

  const auto bad = std::find_if_not(sigmas.begin(), sigmas.end(), [](float sigma) { return std::isfinite(sigma); });
  RAEDIT_CHECK(bad == sigmas.end(),
               {.code = ErrorCode::invalid_argument,
                .what = "these options give a schedule that is not finite",
                .where = "set_timesteps",
                .found = fmt::format("sigma {} of {} is {}", bad - sigmas.begin(), sigmas.size(), *bad),
                .expected = "finite sigmas",
                .hint = "shift_terminal needs a last sigma below 1 (2 steps or more), exponential sigmas need a last "
                        "sigma above 0"});
  return sigmas;
}

}  // namespace diffusion

namespace {

// torch.linspace in float32: the second half counts back from the end, in one rounding as torch's FMA builds do. The
// last points are small differences from 1, where any other order of rounding shows.
float torch_linspace(float start, float end, int i, int n) {
  if (n == 1) return start;
  const float step = (end - start) / static_cast<float>(n - 1);
  if (i < n / 2) return std::fma(step, static_cast<float>(i), start);
  return std::fma(-step, static_cast<float>(n - 1 - i), end);
}

}  // namespace

std::vector<double> upstream_sigmas(int num_points, double shift) {
  RAEDIT_CHECK(num_points >= 1, {.code = ErrorCode::invalid_argument,
                                 .what = "num_points is too small",
                                 .where = "upstream_sigmas",
                                 .found = fmt::to_string(num_points),
                                 .expected = "1 or more"});
  RAEDIT_CHECK(std::isfinite(shift) && shift > 0, {.code = ErrorCode::invalid_argument,
                                                   .what = "shift is out of range",
                                                   .where = "upstream_sigmas",
                                                   .found = fmt::to_string(shift),
                                                   .expected = "a number above 0"});
  std::vector<double> sigmas(static_cast<size_t>(num_points));
  for (int i = 0; i < num_points; ++i)
    sigmas[static_cast<size_t>(i)] = diffusion::shifted(shift, 1.0f - torch_linspace(0.0f, 0.999f, i, num_points));
  return sigmas;
}

}  // namespace raedit
