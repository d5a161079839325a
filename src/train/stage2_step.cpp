#include "train/stage2_step.h"

#include <cmath>

#include "core/check.h"
#include "models/checkpoint.h"
#include "ops/tape.h"
#include "train/flow_matching.h"

namespace raedit::train {
namespace {

// The context records while this lives.
class Recording {
 public:
  Recording(Context& ctx, Tape& tape) : ctx_(ctx) { ctx_.set_tape(&tape); }
  ~Recording() { ctx_.set_tape(nullptr); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

 private:
  Context& ctx_;
};

}  // namespace

Stage2Step::Stage2Step(const backend::Kernels& kernels, models::RaeDitTransformer& model,
                       const Stage2StepOptions& options)
    : model_(model), options_(options) {
  std::vector<Tensor> values;
  for (const auto& [name, parameter] : models::named_parameters(model)) {
    if (!parameter->trained()) continue;
    nn::make_trainable(*parameter, kernels);
    names_.push_back(name);
    values.push_back(parameter->value);
    gradients_.push_back(zeros_on(kernels.memory(), parameter->value.shape()));
  }
  adamw_.emplace(values, options.adamw);
  if (options.ema_decay) ema_.emplace(values, *options.ema_decay);
}

void Stage2Step::accumulate(Context& ctx, const Stage2Batch& batch, int64_t parts) {
  RAEDIT_CHECK(parts >= 1, {.code = ErrorCode::invalid_argument,
                            .what = "a step has at least one micro-batch",
                            .found = std::to_string(parts)});
  const Tensor noisy = noisy_latents(batch.latents, batch.noise, batch.sigmas);
  const Tensor target = velocity_target(batch.latents, batch.noise);
  const Tensor times = Tensor::from(batch.sigmas, {static_cast<int64_t>(batch.sigmas.size())});
  const std::vector<Tensor>& values = adamw_->parameters();
  Tape tape;
  for (const Tensor& value : values) tape.watch(value);
  const Recording recording(ctx, tape);
  const Tensor prediction = model_.forward(ctx, noisy, times, batch.class_labels, {}, {});
  LossAndGradient loss = velocity_loss(prediction, target, batch.weights);
  loss_ += loss.loss / static_cast<double>(parts);
  for (int64_t i = 0; i < loss.gradient.numel(); ++i) loss.gradient.data<float>()[i] /= static_cast<float>(parts);
  tape.backward(ctx, prediction, loss.gradient);
  for (size_t i = 0; i < values.size(); ++i) ctx.kernels().accumulate(tape.grad(ctx, values[i]), gradients_[i]);
}

Stage2StepResult Stage2Step::step(Context& ctx, double lr) {
  const backend::Kernels& kernels = ctx.kernels();
  Stage2StepResult result{loss_, global_norm(kernels, gradients_), ""};
  if (!std::isfinite(result.grad_norm) || !std::isfinite(result.loss)) {
    for (size_t i = 0; i < gradients_.size() && result.not_finite.empty(); ++i)
      if (!std::isfinite(kernels.sum_of_squares(gradients_[i]))) result.not_finite = names_[i];
    if (result.not_finite.empty()) result.not_finite = "loss";
  } else {
    adamw_->step(kernels, gradients_, lr, clip_scale(result.grad_norm, options_.max_grad_norm));
    if (ema_) ema_->update(kernels);
  }
  loss_ = 0;
  for (const Tensor& gradient : gradients_) fill_zero(gradient);
  return result;
}

}  // namespace raedit::train
