#include "train/optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "tensor/memory.h"

namespace raedit::train {
namespace {

void check_range(const char* name, double value, bool good, const char* expected) {
  RAEDIT_CHECK(good, {.code = ErrorCode::invalid_argument,
                      .what = fmt::format("{} is out of range", name),
                      .where = "AdamW",
                      .found = fmt::to_string(value),
                      .expected = expected});
}

}  // namespace

AdamW::AdamW(std::vector<Tensor> parameters, const AdamWOptions& options)
    : options_(options), parameters_(std::move(parameters)) {
  check_range("beta1", options.beta1, options.beta1 >= 0 && options.beta1 < 1, "0 up to 1");
  check_range("beta2", options.beta2, options.beta2 >= 0 && options.beta2 < 1, "0 up to 1");
  check_range("eps", options.eps, options.eps >= 0, "0 or more");
  check_range("weight_decay", options.weight_decay, options.weight_decay >= 0, "0 or more");
  for (const Tensor& parameter : parameters_) {
    exp_avg_.push_back(zeros_on(parameter.storage()->memory(), parameter.shape()));
    exp_avg_sq_.push_back(zeros_on(parameter.storage()->memory(), parameter.shape()));
  }
}

void AdamW::step(const backend::Kernels& kernels, std::span<const Tensor> gradients, double lr, float grad_scale) {
  ++steps_;
  const auto t = static_cast<double>(steps_);
  backend::AdamWStep s;
  s.grad_scale = grad_scale;
  s.decay = static_cast<float>(1.0 - lr * options_.weight_decay);
  s.one_minus_beta1 = static_cast<float>(1.0 - options_.beta1);
  s.beta2 = static_cast<float>(options_.beta2);
  s.one_minus_beta2 = static_cast<float>(1.0 - options_.beta2);
  s.step_size = static_cast<float>(lr / (1.0 - std::pow(options_.beta1, t)));
  s.root = static_cast<float>(std::sqrt(1.0 - std::pow(options_.beta2, t)));
  s.eps = static_cast<float>(options_.eps);
  for (size_t i = 0; i < parameters_.size(); ++i)
    kernels.adamw(s, gradients[i], parameters_[i], exp_avg_[i], exp_avg_sq_[i]);
}

double global_norm(const backend::Kernels& kernels, std::span<const Tensor> gradients) {
  double sum = 0;
  for (const Tensor& gradient : gradients) sum += kernels.sum_of_squares(gradient);
  return std::sqrt(sum);
}

float clip_scale(double norm, double max_norm) {
  return max_norm > 0 ? static_cast<float>(std::min(1.0, max_norm / (norm + 1e-6))) : 1.0f;
}

Ema::Ema(std::vector<Tensor> parameters, double decay) : decay_(decay), parameters_(std::move(parameters)) {
  RAEDIT_CHECK(decay >= 0 && decay <= 1, {.code = ErrorCode::invalid_argument,
                                          .what = "the decay of the moving average is out of range",
                                          .found = fmt::to_string(decay),
                                          .expected = "0 to 1"});
  for (const Tensor& parameter : parameters_) averages_.push_back(copy_to(parameter, parameter.storage()->memory()));
}

void Ema::update(const backend::Kernels& kernels) {
  for (size_t i = 0; i < parameters_.size(); ++i) kernels.ema(static_cast<float>(decay_), parameters_[i], averages_[i]);
}

}  // namespace raedit::train
