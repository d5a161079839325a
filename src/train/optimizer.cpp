#include "train/optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>

#include "core/check.h"
#include "tensor/memory.h"

namespace raedit::train {
namespace {

void check_range(const char* name, double value, bool good, const char* expected) {
  RAEDIT_CHECK(good, {.code = ErrorCode::invalid_argument,
                      .what = fmt::format("{} is out of range", name),
                      .where = "Optimizer",
                      .found = fmt::to_string(value),
                      .expected = expected});
}

void check_options(const OptimizerOptions& options) {
  const AdamWOptions& adamw = options.adamw;
  check_range("beta1", adamw.beta1, adamw.beta1 >= 0 && adamw.beta1 < 1, "0 up to 1");
  check_range("beta2", adamw.beta2, adamw.beta2 >= 0 && adamw.beta2 < 1, "0 up to 1");
  check_range("eps", adamw.eps, adamw.eps >= 0, "0 or more");
  check_range("weight_decay", adamw.weight_decay, adamw.weight_decay >= 0, "0 or more");
  if (options.ema_decay)
    check_range("the decay of the moving average", *options.ema_decay,
                *options.ema_decay >= 0 && *options.ema_decay <= 1, "0 to 1");
}

// Zeros in the likeness of parameters: views of storages that are as large as theirs.
class Likeness {
 public:
  Likeness(std::shared_ptr<const DeviceMemory> memory, DType dtype) : memory_(std::move(memory)), dtype_(dtype) {}
  Tensor of(const Tensor& parameter) {
    const auto elements = static_cast<int64_t>(parameter.storage()->bytes() / sizeof(float));
    auto& storage = storages_[parameter.storage()->id()];
    if (storage == nullptr)  // bfloat16 zeros are float32 zeros, and half as many
      storage = zeros_on(memory_, {dtype_ == DType::bfloat16 ? (elements + 1) / 2 : elements}).storage();
    return parameter.same_view_of(storage, dtype_);
  }

 private:
  std::shared_ptr<const DeviceMemory> memory_;
  DType dtype_;
  std::map<uint64_t, std::shared_ptr<Storage>> storages_;
};

constexpr int64_t kStateSize = 3;
constexpr int64_t kNumbers = 8;

}  // namespace

Optimizer::Optimizer(const backend::Kernels& kernels, std::vector<Tensor> parameters, const OptimizerOptions& options)
    : options_(options), parameters_(std::move(parameters)) {
  check_options(options);
  const auto memory = kernels.memory();
  std::vector<backend::Trained> trained;
  Likeness gradients(memory, DType::float32), exp_avg(memory, DType::float32), exp_avg_sq(memory, DType::float32),
      averages(memory, DType::float32), rounded(memory, DType::bfloat16);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& parameter = parameters_[i];
    gradients_.push_back(gradients.of(parameter));
    exp_avg_.push_back(owned(i) ? exp_avg.of(parameter) : Tensor());
    exp_avg_sq_.push_back(owned(i) ? exp_avg_sq.of(parameter) : Tensor());
    trained.push_back({gradients_.back(), parameter, exp_avg_.back(), exp_avg_sq_.back(), {}, {}});
    if (!owned(i)) trained.back().exp_avg = trained.back().exp_avg_sq = gradients_.back();  // only the norm looks here
    if (options.ema_decay) {
      averages_.push_back(owned(i) ? averages.of(parameter) : Tensor());
      if (owned(i)) kernels.copy(parameter, averages_.back());
      trained.back().average = averages_.back();
    }
    if (options.rounded) {
      rounded_.push_back(rounded.of(parameter));
      trained.back().rounded = rounded_.back();
    }
  }
  round_all(kernels);
  set_ = kernels.trained_set(trained);
  add_shares(kernels, trained);
  const Tensor doubles = zeros_on(memory, {2 * kStateSize});
  state_ = Tensor(doubles.storage(), 0, {kStateSize}, DType::float64);
  loss_ = Tensor(doubles.storage(), 0, {1}, DType::float64);
}

void Optimizer::add_shares(const backend::Kernels& kernels, const std::vector<backend::Trained>& trained) {
  RAEDIT_CHECK((options_.decays.empty() || options_.decays.size() == trained.size()) &&
                   (options_.owned.empty() || options_.owned.size() == trained.size()),
               {.code = ErrorCode::internal, .what = "not one word for each parameter", .where = "Optimizer"});
  std::vector<backend::Trained> with, without;
  for (size_t i = 0; i < trained.size(); ++i)
    if (owned(i)) (options_.decays.empty() || options_.decays[i] ? with : without).push_back(trained[i]);
  const auto add = [&](std::vector<backend::Trained> some, double weight_decay) {
    if (some.empty()) return;
    const auto set = some.size() == trained.size() ? set_ : kernels.trained_set(std::move(some));
    shares_.push_back({set, weight_decay, zeros_on(kernels.memory(), {kNumbers})});
  };
  add(std::move(with), options_.adamw.weight_decay);
  add(std::move(without), 0.0);
}

void Optimizer::round_all(const backend::Kernels& kernels) const {
  for (size_t i = 0; i < rounded_.size(); ++i) kernels.copy(parameters_[i], rounded_[i]);
}

void Optimizer::set_lr(double lr) {
  for (const Share& share : shares_) set_numbers(share, lr);
}

void Optimizer::set_numbers(const Share& share, double lr) const {
  const AdamWOptions& adamw = options_.adamw;
  const auto t = static_cast<double>(steps_ + 1);
  backend::AdamWStep s;
  s.decay = static_cast<float>(1.0 - lr * share.weight_decay);
  s.one_minus_beta1 = static_cast<float>(1.0 - adamw.beta1);
  s.beta2 = static_cast<float>(adamw.beta2);
  s.one_minus_beta2 = static_cast<float>(1.0 - adamw.beta2);
  s.step_size = static_cast<float>(lr / (1.0 - std::pow(adamw.beta1, t)));
  s.root = static_cast<float>(std::sqrt(1.0 - std::pow(adamw.beta2, t)));
  s.eps = static_cast<float>(adamw.eps);
  std::array<float, kNumbers> numbers{};
  static_assert(sizeof(s) == sizeof(numbers));
  std::memcpy(numbers.data(), &s, sizeof(s));
  if (const auto& memory = share.numbers.storage()->memory())
    memory->from_host(share.numbers.raw(), numbers.data(), sizeof(numbers));
  else
    std::memcpy(share.numbers.raw(), numbers.data(), sizeof(numbers));
}

float Optimizer::ema_decay() const {
  const double decay = options_.ema_decay.value_or(0);
  const auto t = static_cast<double>(steps_ + 1);
  return static_cast<float>(options_.ema_warmup ? std::min(decay, (1 + t) / (10 + t)) : decay);
}

void Optimizer::launch(const backend::Kernels& kernels) {
  kernels.gradient_norm(*set_, state_);
  for (const Share& share : shares_)
    kernels.update(*share.set, state_, options_.max_grad_norm, share.numbers, ema_decay());
}

Optimizer::Result Optimizer::finish() {
  const auto state = state_.to_vector<double>();
  fill_zero(state_);
  const Result result{state[0], state[1], state[2] != 0.0};
  if (result.finite) ++steps_;
  return result;
}

Optimizer::Result Optimizer::step(const backend::Kernels& kernels, double lr) {
  set_lr(lr);
  launch(kernels);
  return finish();
}

void Optimizer::refresh(const backend::Kernels& kernels) const {
  for (size_t i = 0; i < rounded_.size(); ++i)
    if (!owned(i)) kernels.copy(parameters_[i], rounded_[i]);
}

void Optimizer::restored(const backend::Kernels& kernels, int64_t steps) {
  round_all(kernels);
  fill_zero(state_);
  steps_ = steps;
}

}  // namespace raedit::train
