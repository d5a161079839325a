#include "train/stage2_step.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "models/checkpoint.h"
#include "ops/tape.h"
#include "tensor/memory.h"
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
                       const Stage2StepOptions& options, dist::Communicator* ranks)
    : model_(model), kernels_(kernels), checkpointing_(options.checkpointing), whole_replay_(!options.ema_warmup) {
  const bool mixed = model.dtype == DType::bfloat16;
  const models::NamedParameters parameters = models::named_parameters(model);
  for (const auto& [name, parameter] : parameters) {
    if (!parameter->trained()) continue;
    if (parameter->source.defined()) parameter->value = parameter->source.reshape(parameter->value.shape());
    nn::make_trainable(*parameter, kernels);
  }
  if (mixed)
    for (models::RaeDitBlock& block : model.blocks) block.attn.join_trainable(kernels);
  std::vector<Tensor> values;
  std::vector<bool> decays;
  for (const auto& [name, parameter] : parameters) {
    if (!parameter->trained()) continue;
    names_.push_back(name);
    values.push_back(parameter->value);
    if (options.decay_matrices_only) decays.push_back(parameter->role == nn::Parameter::Role::matrix);
  }
  std::vector<bool> owned;
  if (ranks != nullptr && ranks->size() > 1) {
    ranks_.emplace(*ranks, values, options.zero1);
    owned = ranks_->owned();
  }
  optimizer_.emplace(kernels, std::move(values),
                     OptimizerOptions{options.adamw, options.max_grad_norm, options.ema_decay, mixed,
                                      options.ema_warmup, std::move(decays), std::move(owned)});
  if (ranks_) ranks_->set_gradients(optimizer_->gradients());
}

void Stage2Step::accumulate(Context& ctx, const Stage2Batch& batch, int64_t parts) {
  RAEDIT_CHECK(parts >= 1, {.code = ErrorCode::invalid_argument,
                            .what = "a step has at least one micro-batch",
                            .found = std::to_string(parts)});
  RAEDIT_CHECK(!ranks_ || (parts % ranks_->size() == 0 && !ranks_->begun()),
               {.code = ErrorCode::invalid_argument,
                .what = "ranks take equally many micro-batches, and no more than were announced",
                .found = std::to_string(parts)});
  const FlowMatchingPair pair = flow_matching(ctx, batch.latents, batch.noise, batch.sigmas);
  Tape tape;
  const std::vector<Tensor>&values = parameters(), &rounded = optimizer_->rounded();
  if (!rounded.empty()) tape.use_half_gradients();
  if (checkpointing_) tape.use_checkpointing();
  if (ranks_ && accumulated_ + 1 == parts / ranks_->size())
    tape.call_when_final([this](uint64_t storage) { ranks_->ready(storage); });
  for (size_t i = 0; i < values.size(); ++i)
    tape.watch(values[i], optimizer_->gradients()[i], accumulated_ == 0, rounded.empty() ? Tensor() : rounded[i]);
  const Recording recording(ctx, tape);
  const Tensor prediction = model_.forward(ctx, pair.noisy, ctx.here(batch.sigmas), batch.class_labels, {}, {});
  const Tensor gradient = velocity_loss(ctx, prediction, pair.target, batch.weights, parts, optimizer_->loss());
  tape.backward(ctx, prediction, gradient);
  ++accumulated_;
}

Stage2StepResult Stage2Step::step(Context& ctx, double lr) {
  const std::vector<Tensor>& gradients = optimizer_->gradients();
  if (accumulated_ == 0)
    for (const Tensor& gradient : gradients) fill_zero(gradient);
  accumulated_ = 0;
  if (ranks_) ranks_->finish_sum(optimizer_->loss());
  const Optimizer::Result taken = optimizer_->step(ctx.kernels(), lr);
  if (ranks_ && taken.finite) {
    ranks_->spread_parameters();
    optimizer_->refresh(ctx.kernels());
  }
  return result_of(taken);
}

Stage2StepResult Stage2Step::result_of(const Optimizer::Result& taken) const {
  const std::vector<Tensor>& gradients = optimizer_->gradients();
  Stage2StepResult result{taken.loss, taken.grad_norm, ""};
  if (taken.finite) return result;
  const auto first_of = [&](auto begin, auto end) {
    return std::find_if(begin, end, [&](const Tensor& t) { return !std::isfinite(kernels_.sum_of_squares(t)); });
  };
  const std::vector<Tensor>& values = parameters();
  if (const auto value = first_of(values.begin(), values.end()); value != values.end())
    result.not_finite = names_[static_cast<size_t>(value - values.begin())];
  else if (!std::isfinite(taken.loss))
    result.not_finite = "loss";
  // Going back, what is not finite spreads to all that came before: it began in the last of the list.
  else if (const auto gradient = first_of(gradients.rbegin(), gradients.rend()); gradient != gradients.rend())
    result.not_finite = names_[static_cast<size_t>(gradients.rend() - gradient) - 1];
  else
    result.not_finite = "gradient norm";
  return result;
}

Stage2StepResult Stage2Step::replay(Context& ctx, const Stage2Batch& batch, double lr) {
  RAEDIT_CHECK(
      accumulated_ == 0,
      {.code = ErrorCode::invalid_argument, .what = "gradients were accumulated and not used", .where = "replay"});
  if (ranks_) {
    accumulate(ctx, batch, ranks_->size());
    return step(ctx, lr);
  }
  if (!replay_)
    replay_.emplace([this](Context& c, const std::vector<Tensor>& in) {
      accumulate(c, {in[0], in[1], in[2], in[3], in[4]});
      accumulated_ = 0;
      if (whole_replay_) optimizer_->launch(c.kernels());
      return optimizer_->loss();
    });
  // The model looks at labels that are on the host; here they are not when it sees them.
  model_.check_condition(batch.latents.defined() ? batch.latents.dim(0) : 0, batch.sigmas, batch.class_labels);
  optimizer_->set_lr(lr);
  replay_->run(ctx, {batch.latents, batch.noise, batch.sigmas, batch.class_labels, batch.weights});
  if (!whole_replay_) optimizer_->launch(ctx.kernels());
  return result_of(optimizer_->finish());
}

}  // namespace raedit::train
