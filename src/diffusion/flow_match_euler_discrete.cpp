// Source: diffusers schedulers/scheduling_flow_match_euler_discrete.py. The schedule's numbers are in
// sigma_schedule.cpp.
#include "raedit/flow_match_euler_discrete.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/check.h"
#include "diffusion/scheduler_config.h"
#include "diffusion/sigma_schedule.h"
#include "io/files.h"
#include "ops/elementwise.h"
#include "ops/moving.h"

namespace raedit {
namespace {

// float32 counts no further by ones, and a schedule of more steps than that is a slip of the keyboard.
constexpr int64_t kMaxSteps = int64_t{1} << 24;

void check_count(const char* option, const char* where, int64_t value) {
  RAEDIT_CHECK(value >= 1 && value <= kMaxSteps, {.code = ErrorCode::invalid_argument,
                                                  .what = fmt::format("{} is out of range", option),
                                                  .where = where,
                                                  .found = fmt::to_string(value),
                                                  .expected = fmt::format("1 to {}", kMaxSteps)});
}

void check_shift(double shift, const char* where) {
  RAEDIT_CHECK(std::isfinite(shift) && shift > 0, {.code = ErrorCode::invalid_argument,
                                                   .what = "shift is out of range",
                                                   .where = where,
                                                   .found = fmt::to_string(shift),
                                                   .expected = "a number above 0"});
}

void check_config(const FlowMatchEulerDiscreteSchedulerConfig& config) {
  constexpr const char* kWhere = "FlowMatchEulerDiscreteScheduler";
  check_count("num_train_timesteps", kWhere, config.num_train_timesteps);
  check_shift(config.shift, kWhere);
  RAEDIT_CHECK(config.use_beta_sigmas + config.use_exponential_sigmas + config.use_karras_sigmas <= 1,
               {.code = ErrorCode::invalid_argument,
                .what = "only one of use_beta_sigmas, use_exponential_sigmas, use_karras_sigmas can be used",
                .where = kWhere,
                .found = fmt::format("{}, {}, {}", config.use_beta_sigmas, config.use_exponential_sigmas,
                                     config.use_karras_sigmas),
                .expected = "at most one true"});
  RAEDIT_CHECK(!config.use_beta_sigmas,
               {.code = ErrorCode::unsupported,
                .what = "beta sigmas are not supported (the quantiles of a beta distribution, from SciPy in diffusers)",
                .where = kWhere,
                .found = "use_beta_sigmas true",
                .expected = "use_beta_sigmas false",
                .hint = "use_karras_sigmas and use_exponential_sigmas are; set_timesteps takes any sigmas as a list"});
}

void check_finite(const char* option, const std::vector<double>& values) {
  const auto bad = std::find_if_not(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
  RAEDIT_CHECK(bad == values.end(), {.code = ErrorCode::invalid_argument,
                                     .what = fmt::format("{}[{}] is not finite", option, bad - values.begin()),
                                     .where = "set_timesteps",
                                     .found = fmt::to_string(*bad)});
}

// The number of steps that the three arguments agree on.
int64_t agreed_steps(std::optional<int64_t> n, const SetTimestepsOptions& options) {
  const auto& [mu, sigmas, timesteps] = options;
  const auto check_equal = [](const char* a, size_t found, const char* b, size_t expected) {
    RAEDIT_CHECK(found == expected, {.code = ErrorCode::invalid_argument,
                                     .what = fmt::format("{} and {} should have the same length", a, b),
                                     .where = "set_timesteps",
                                     .found = fmt::to_string(found),
                                     .expected = fmt::to_string(expected)});
  };
  if (n) check_count("num_inference_steps", "set_timesteps", *n);
  if (sigmas && timesteps) check_equal("sigmas", sigmas->size(), "timesteps", timesteps->size());
  if (n && sigmas) check_equal("sigmas", sigmas->size(), "num_inference_steps", static_cast<size_t>(*n));
  if (n && timesteps) check_equal("timesteps", timesteps->size(), "num_inference_steps", static_cast<size_t>(*n));
  RAEDIT_CHECK(n || sigmas || timesteps, {.code = ErrorCode::invalid_argument,
                                          .what = "the number of steps is missing",
                                          .where = "set_timesteps",
                                          .found = "nothing",
                                          .expected = "num_inference_steps, sigmas or timesteps"});
  if (sigmas) check_finite("sigmas", *sigmas);
  if (timesteps) check_finite("timesteps", *timesteps);
  const int64_t steps = n ? *n : static_cast<int64_t>((sigmas ? *sigmas : *timesteps).size());
  check_count("the number of steps", "set_timesteps", steps);
  return steps;
}

std::vector<float> times(const std::vector<float>& sigmas, int64_t num_train_timesteps) {
  std::vector<float> timesteps(sigmas);
  for (float& t : timesteps) t *= static_cast<float>(num_train_timesteps);
  return timesteps;
}

// `index` of the sigmas, of which a step needs two.
void check_index(int64_t index, size_t sigmas, const char* where) {
  RAEDIT_CHECK(index < static_cast<int64_t>(sigmas), {.code = ErrorCode::invalid_argument,
                                                      .what = "the schedule has come to its end",
                                                      .where = where,
                                                      .found = fmt::format("sigma {}", index),
                                                      .expected = fmt::format("below {}", sigmas),
                                                      .hint = "call set_timesteps before every run"});
}

void check_same_shape(const char* name, const Tensor& tensor, const Tensor& sample, const char* where) {
  RAEDIT_CHECK(tensor.defined() && tensor.shape() == sample.shape(),
               {.code = ErrorCode::invalid_argument,
                .what = fmt::format("{} does not fit the sample", name),
                .where = where,
                .found = tensor.defined() ? tensor.shape().str() : "nothing",
                .expected = sample.shape().str()});
}

// Contiguous and in `dtype`, as the arithmetic wants it.
Tensor as(Context& ctx, const Tensor& x, DType dtype) {
  return ops::contiguous(ctx, ops::cast(ctx, x, dtype));
}

// [B,N] timesteps -> [B,N,1] sigmas and the largest sigmas of the schedule below them (by more than rounding), else 0.
std::pair<Tensor, Tensor> token_sigmas(const Tensor& timesteps, const std::vector<float>& schedule, int64_t n) {
  std::vector<float> current = timesteps.to(DType::float32).to_vector<float>();
  std::vector<float> next(current.size(), 0.0f);
  for (size_t i = 0; i < current.size(); ++i) {
    current[i] /= static_cast<float>(n);
    for (const float sigma : schedule)
      if (sigma < current[i] - 1e-6f) next[i] = std::max(next[i], sigma);
  }
  const Shape shape{timesteps.dim(0), timesteps.dim(1), 1};
  return {Tensor::from(current, shape), Tensor::from(next, shape)};
}

}  // namespace

FlowMatchEulerDiscreteScheduler::FlowMatchEulerDiscreteScheduler(const FlowMatchEulerDiscreteSchedulerConfig& config)
    : config_(config), shift_(config.shift) {
  check_config(config);
  sigmas_ = diffusion::training_sigmas(config);
  timesteps_ = times(sigmas_, config.num_train_timesteps);
  sigma_min_ = sigmas_.back();
  sigma_max_ = sigmas_.front();
}

FlowMatchEulerDiscreteScheduler FlowMatchEulerDiscreteScheduler::from_config(const std::string& path) {
  const FlowMatchEulerDiscreteSchedulerConfig config = diffusion::read_scheduler_config(path);
  try {
    return FlowMatchEulerDiscreteScheduler(config);
  } catch (const Error& error) {
    ErrorInfo info = error.info();
    info.where = path;  // the values are the file's
    if (info.code == ErrorCode::invalid_argument) info.code = ErrorCode::format;
    raise(std::move(info));
  }
}

FlowMatchEulerDiscreteScheduler FlowMatchEulerDiscreteScheduler::from_pretrained(const std::string& folder) {
  return from_config(fmt::format("{}/{}", folder, kConfigName));
}

void FlowMatchEulerDiscreteScheduler::save_pretrained(const std::string& folder) const {
  create_directories(folder);
  diffusion::write_scheduler_config(fmt::format("{}/{}", folder, kConfigName), config_);
}

void FlowMatchEulerDiscreteScheduler::set_timesteps(std::optional<int64_t> num_inference_steps,
                                                    const SetTimestepsOptions& options) {
  const bool mu_given = options.mu && std::isfinite(*options.mu);
  RAEDIT_CHECK(!config_.use_dynamic_shifting || mu_given,
               {.code = ErrorCode::invalid_argument,
                .what = "mu must be passed when use_dynamic_shifting is true",
                .where = "set_timesteps",
                .found = options.mu ? fmt::to_string(*options.mu) : "nothing",
                .expected = "a number"});
  const int64_t steps = agreed_steps(num_inference_steps, options);
  const diffusion::SigmaGrid grid{.steps = steps,
                                  .sigmas = options.sigmas.value_or(std::vector<double>{}),
                                  .timesteps = options.timesteps.value_or(std::vector<double>{}),
                                  .sigma_min = sigma_min_,
                                  .sigma_max = sigma_max_};
  std::vector<float> sigmas = diffusion::inference_sigmas(config_, shift_, options.mu, grid);
  if (config_.invert_sigmas)
    for (float& sigma : sigmas) sigma = 1.0f - sigma;

  timesteps_ = times(sigmas, config_.num_train_timesteps);
  sigmas.push_back(config_.invert_sigmas ? 1.0f : 0.0f);
  sigmas_ = std::move(sigmas);
  num_inference_steps_ = steps;
  step_index_.reset();
  begin_index_.reset();
}

void FlowMatchEulerDiscreteScheduler::set_begin_index(int64_t begin_index) {
  RAEDIT_CHECK(begin_index >= 0, {.code = ErrorCode::invalid_argument,
                                  .what = "begin_index is negative",
                                  .where = "set_begin_index",
                                  .found = fmt::to_string(begin_index),
                                  .expected = "0 or more"});
  begin_index_ = begin_index;
}

void FlowMatchEulerDiscreteScheduler::set_shift(double shift) {
  check_shift(shift, "set_shift");
  shift_ = shift;
}

int64_t FlowMatchEulerDiscreteScheduler::index_for_timestep(float timestep) const {
  const auto first = std::find(timesteps_.begin(), timesteps_.end(), timestep);
  RAEDIT_CHECK(first != timesteps_.end(),
               {.code = ErrorCode::invalid_argument,
                .what = "the timestep is not in the schedule",
                .where = "FlowMatchEulerDiscreteScheduler",
                .found = fmt::to_string(timestep),
                .expected = fmt::format("one of timesteps(), {} to {}", timesteps_.front(), timesteps_.back()),
                .hint = "pass timesteps()[i] itself: they are compared exactly"});
  const auto second = std::find(first + 1, timesteps_.end(), timestep);
  return (second != timesteps_.end() ? second : first) - timesteps_.begin();
}

Tensor FlowMatchEulerDiscreteScheduler::noise_for(Context& ctx, const Tensor& sample,
                                                  const StepOptions& options) const {
  if (options.noise.defined()) {
    check_same_shape("noise", options.noise, sample, "step");
    return as(ctx, options.noise, DType::float32);
  }
  RAEDIT_CHECK(options.generator != nullptr, {.code = ErrorCode::invalid_argument,
                                              .what = "stochastic_sampling draws noise at every step",
                                              .where = "step",
                                              .found = "neither generator nor noise",
                                              .expected = "one of them"});
  return options.generator->randn(sample.shape());
}

Tensor FlowMatchEulerDiscreteScheduler::step(Context& ctx, const Tensor& model_output, float timestep,
                                             const Tensor& sample, const StepOptions& options) {
  RAEDIT_CHECK(sample.defined(), {.code = ErrorCode::invalid_argument,
                                  .what = "the sample is missing",
                                  .where = "step",
                                  .found = "nothing",
                                  .expected = "a tensor"});
  check_same_shape("model_output", model_output, sample, "step");
  const int64_t index = step_index_ ? *step_index_ : begin_index_ ? *begin_index_ : index_for_timestep(timestep);
  const Tensor x = as(ctx, sample, DType::float32);
  const Tensor v = as(ctx, model_output, DType::float32);

  if (options.per_token_timesteps.defined()) {
    Tensor next = step_per_token(ctx, v, x, options);
    step_index_ = index + 1;
    return next;
  }

  check_index(index + 1, sigmas_.size(), "step");
  const float sigma = sigmas_[static_cast<size_t>(index)];
  const float sigma_next = sigmas_[static_cast<size_t>(index) + 1];
  Tensor next;
  if (config_.stochastic_sampling) {
    const Tensor noise = noise_for(ctx, x, options);
    const Tensor x0 = ops::add_scaled(ctx, x, -sigma, v);
    next = ops::add_scaled(ctx, ops::scale(ctx, x0, 1.0f - sigma_next), sigma_next, noise);
  } else {
    next = ops::add_scaled(ctx, x, sigma_next - sigma, v);
  }
  step_index_ = index + 1;
  return ops::cast(ctx, next, model_output.dtype());
}

Tensor FlowMatchEulerDiscreteScheduler::step_per_token(Context& ctx, const Tensor& v, const Tensor& sample,
                                                       const StepOptions& options) const {
  const Tensor& timesteps = options.per_token_timesteps;
  RAEDIT_CHECK(sample.rank() == 3 && timesteps.shape() == Shape({sample.dim(0), sample.dim(1)}),
               {.code = ErrorCode::invalid_argument,
                .what = "per_token_timesteps do not fit the sample",
                .where = "step",
                .found = fmt::format("{} for a sample {}", timesteps.shape().str(), sample.shape().str()),
                .expected = "[B, N] for a sample [B, N, C]"});
  const auto [sigma, sigma_next] = token_sigmas(timesteps, sigmas_, config_.num_train_timesteps);
  if (!config_.stochastic_sampling) return ops::add(ctx, sample, ops::mul(ctx, v, ops::sub(ctx, sigma, sigma_next)));

  const Tensor noise = noise_for(ctx, sample, options);
  const Tensor x0 = ops::sub(ctx, sample, ops::mul(ctx, v, sigma));
  const Tensor keep = ops::sub(ctx, Tensor::full(sigma.shape(), 1.0f), sigma_next);
  return ops::add(ctx, ops::mul(ctx, x0, keep), ops::mul(ctx, noise, sigma_next));
}

Tensor FlowMatchEulerDiscreteScheduler::scale_noise(Context& ctx, const Tensor& sample,
                                                    std::span<const float> timesteps, const Tensor& noise) const {
  RAEDIT_CHECK(
      sample.defined() && sample.rank() >= 1 && (sample.dtype() == DType::float32 || sample.dtype() == DType::bfloat16),
      {.code = ErrorCode::invalid_argument,
       .what = "the sample cannot be scaled",
       .where = "scale_noise",
       .found = sample.defined() ? fmt::format("{} {}", name_of(sample.dtype()), sample.shape().str()) : "nothing",
       .expected = "float32 or bfloat16 [B, ...]"});
  check_same_shape("noise", noise, sample, "scale_noise");
  RAEDIT_CHECK(noise.dtype() == sample.dtype(), {.code = ErrorCode::invalid_argument,
                                                 .what = "noise and sample differ in type",
                                                 .where = "scale_noise",
                                                 .found = std::string(name_of(noise.dtype())),
                                                 .expected = std::string(name_of(sample.dtype()))});
  const int64_t count = static_cast<int64_t>(timesteps.size());
  RAEDIT_CHECK(count == 1 || count == sample.dim(0), {.code = ErrorCode::invalid_argument,
                                                      .what = "timesteps do not fit the sample",
                                                      .where = "scale_noise",
                                                      .found = fmt::to_string(count),
                                                      .expected = fmt::format("1 or {}", sample.dim(0))});
  std::vector<float> values;
  for (const float t : timesteps) {
    const int64_t index = !begin_index_ ? index_for_timestep(t) : step_index_ ? *step_index_ : *begin_index_;
    check_index(index, sigmas_.size(), "scale_noise");
    values.push_back(sigmas_[static_cast<size_t>(index)]);
  }
  Shape shape = sample.shape();
  for (int i = 0; i < shape.rank(); ++i) shape.set(i, i == 0 ? count : 1);
  const Tensor sigma = Tensor::from(values, shape).to(sample.dtype());
  const Tensor keep = ops::sub(ctx, Tensor::full(shape, 1.0f, sample.dtype()), sigma);
  return ops::add(ctx, ops::mul(ctx, noise, sigma), ops::mul(ctx, sample, keep));
}

}  // namespace raedit
