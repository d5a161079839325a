#include "pipeline/velocity_field.h"

#include <fmt/format.h>

#include <algorithm>

#include "backend/kernels.h"
#include "diffusion/guidance.h"
#include "ops/elementwise.h"
#include "ops/moving.h"

namespace raedit {
namespace {

// Modulations of the XL model in bfloat16: 400 MB, and 25 MB.
constexpr int64_t kMostRowsOfDevice = 1024, kMostRowsOfHost = 64;

Tensor both_halves(Context& ctx, const Tensor& latents, int64_t rows) {
  return latents.dim(0) == rows ? latents : ops::concat(ctx, {latents, latents}, 0);
}

using Inputs = std::vector<Tensor>;

// How a model is called in a piece of work: `in` are the inputs of the work, `latents` the first of them, twice for
// both halves.
using Call = Tensor (*)(const RAEDiT2DModel& model, Context& c, const Tensor& latents, const Inputs& in);

// [latents, times, labels]
Tensor whole(const RAEDiT2DModel& model, Context& c, const Tensor& latents, const Inputs& in) {
  return model.forward(c, latents, in[1], in[2]);
}

Tensor encoder(const RAEDiT2DModel& model, Context& c, const Tensor& latents, const Inputs& in) {
  return model.encoder_stream(c, latents, model.condition(c, in[1], in[2]));
}

// [latents, parts of a conditioning]
Tensor whole_conditioned(const RAEDiT2DModel& model, Context& c, const Tensor& latents, const Inputs& in) {
  return model.forward(c, latents, RAEDiTConditioning{in[1], in[2], in[3]});
}

Tensor encoder_conditioned(const RAEDiT2DModel& model, Context& c, const Tensor& latents, const Inputs& in) {
  return model.encoder_stream(c, latents, RAEDiTConditioning{in[1], in[2], in[3]});
}

// [latents, times, tokens]
Tensor decoder(const RAEDiT2DModel& model, Context& c, const Tensor& latents, const Inputs& in) {
  return model.decoder_stream(c, latents, in[2], in[1]);
}

// By the null class, all inputs but the latents are those of both halves.
ops::Replay::Work velocity(const RAEDiT2DModel& model, Call call, double scale) {
  return [model, call, scale](Context& c, const Inputs& in) {
    const int64_t count = in[0].dim(0);
    Tensor v = call(model, c, both_halves(c, in[0], in[1].dim(0)), in);
    if (v.dim(0) != count) v = classifier_free_guidance(c, v.slice(0, 0, count), v.slice(0, count, 2 * count), scale);
    return ops::cast(c, v, DType::float32);
  };
}

// By another model, which reads the last input in the place of the third: its own tokens, or the same labels.
ops::Replay::Work guided_velocity(const RAEDiT2DModel& model, const RAEDiT2DModel& guide, Call call, double scale) {
  return [model, guide, call, scale](Context& c, const Inputs& in) {
    const Tensor v = call(model, c, in[0], in);
    const Tensor other = call(guide, c, in[0], {in[0], in[1], in.back()});
    return ops::cast(c, classifier_free_guidance(c, v, other, scale), DType::float32);
  };
}

}  // namespace

std::vector<float> step_times(const FlowMatchEulerDiscreteScheduler& scheduler) {
  const auto train_steps = static_cast<float>(scheduler.config().num_train_timesteps);
  std::vector<float> times;
  for (const float timestep : scheduler.timesteps()) times.push_back(timestep / train_steps);
  return times;
}

VelocityField::VelocityField(Context& ctx, const RAEDiT2DModel& model, const Tensor& labels,
                             const RAEDiTPipelineArguments& arguments, const std::vector<float>& times)
    : ctx_(ctx), model_(model), labels_(labels), arguments_(arguments), times_(times), first_row_(times.size()) {
  plan_encoder_passes();
  // A device makes all steps or none; the processor as many as may be, in equal parts, which lie where the last one
  // lay.
  const int64_t passes = encoder_passes(), rows = 2 * labels.dim(0);
  const int64_t most = (ctx.has_graphs() ? kMostRowsOfDevice : kMostRowsOfHost) / rows;
  if (ctx.has_graphs())
    steps_ahead_ = passes <= most ? passes : 0;
  else if (const int64_t parts = most > 0 ? (passes + most - 1) / most : 0; parts > 0)
    steps_ahead_ = (passes + parts - 1) / parts;
}

int64_t VelocityField::encoder_passes() const {
  return std::count(encodes_.begin(), encodes_.end(), true);
}

bool VelocityField::repeats(size_t i) const {
  const Guidance guidance = guidance_at(times_[i]);
  if (guidance != guidance_at(times_[i - 1]) || encodes_[i] != encodes_[i - 1]) return false;
  return guidance == Guidance::guide || steps_ahead_ == 0 || i < ahead_end_;
}

Tensor VelocityField::at(const Tensor& latents, size_t i) {
  const Guidance guidance = guidance_at(times_[i]);
  if (in_pieces_) return from_tokens(latents, i, guidance);
  if (conditioning_of(i, guidance).modulations.defined()) return from_conditioning(latents, i, guidance);
  const double scale = arguments_.guidance_scale;
  const auto work = guidance == Guidance::guide ? guided_velocity(model_, *arguments_.guide_transformer, whole, scale)
                                                : velocity(model_, whole, scale);
  const Tensor times = Tensor::full({rows_of(guidance)}, times_[i]);
  return run(key("velocity", guidance), work, {latents, times, labels_of(guidance)});
}

VelocityField::Guidance VelocityField::guidance_at(float t) const {
  if (arguments_.guidance_scale <= 1.0 || !guidance_active(t, arguments_.guidance_start, arguments_.guidance_end))
    return Guidance::none;
  return arguments_.guide_transformer != nullptr ? Guidance::guide : Guidance::null_class;
}

int64_t VelocityField::rows_of(Guidance guidance) const {
  return guidance == Guidance::null_class ? 2 * labels_.dim(0) : labels_.dim(0);
}

Tensor VelocityField::labels_of(Guidance guidance) const {
  if (guidance != Guidance::null_class) return labels_;
  const int64_t count = labels_.dim(0);
  const Tensor both = Tensor::empty({2 * count}, DType::int64);
  both.slice(0, 0, count).copy_from(labels_);
  std::fill_n(both.data<int64_t>() + count, count, model_.config().num_classes);
  return both;
}

// The steps of the schedule, and those that need tokens which nobody made: the first ones under guidance.
void VelocityField::plan_encoder_passes() {
  int64_t rows = 0;
  bool guided = false;
  for (size_t i = 0; i < times_.size(); ++i) {
    const Guidance guidance = guidance_at(times_[i]);
    const bool missing = rows < rows_of(guidance) || (guidance == Guidance::guide && !guided);
    encodes_.push_back(missing || arguments_.encoder_reuse.computes(static_cast<int64_t>(i)));
    if (!encodes_.back()) continue;
    rows = rows_of(guidance);
    guided = guidance == Guidance::guide;
  }
  in_pieces_ = encoder_passes() < static_cast<int64_t>(times_.size()) || arguments_.observe_tokens;
}

// Of steps_ahead_ steps from `begin` on that compute the encoder stream: a row for each picture, or half of one.
void VelocityField::condition_ahead(size_t begin) {
  std::vector<float> t;
  std::vector<int64_t> labels;
  int64_t steps = 0;
  for (ahead_end_ = begin; ahead_end_ < times_.size() && steps < steps_ahead_; ++ahead_end_) {
    const Guidance guidance = guidance_at(times_[ahead_end_]);
    if (!encodes_[ahead_end_] || guidance == Guidance::guide) continue;
    ++steps;
    first_row_[ahead_end_] = static_cast<int64_t>(t.size());
    t.insert(t.end(), static_cast<size_t>(rows_of(guidance)), times_[ahead_end_]);
    for (const int64_t id : labels_of(guidance).to_vector<int64_t>()) labels.push_back(id);
  }
  ahead_ = {};  // its memory serves the next
  const auto rows = static_cast<int64_t>(t.size());
  ahead_ = model_.condition(ctx_, Tensor::from(t, {rows}), Tensor::from(labels, {rows}));
}

// Nothing where it is not made ahead.
RAEDiTConditioning VelocityField::conditioning_of(size_t i, Guidance guidance) {
  if (guidance == Guidance::guide || steps_ahead_ == 0) return {};
  if (i >= ahead_end_) condition_ahead(i);
  return ahead_.slice(first_row_[i], first_row_[i] + rows_of(guidance));
}

Tensor VelocityField::from_conditioning(const Tensor& latents, size_t i, Guidance guidance) {
  const RAEDiTConditioning now = conditioning_of(i, guidance);
  const auto work = velocity(model_, whole_conditioned, arguments_.guidance_scale);
  return run(key("conditioned", guidance), work, {latents, now.time, now.activated, now.modulations});
}

Tensor VelocityField::from_tokens(const Tensor& latents, size_t i, Guidance guidance) {
  if (encodes_[i]) compute_tokens(latents, i, guidance);
  const int64_t rows = rows_of(guidance);
  const Tensor times = Tensor::full({rows}, times_[i]);
  const double scale = arguments_.guidance_scale;
  if (guidance == Guidance::guide)
    return run(key("decoder", guidance), guided_velocity(model_, *arguments_.guide_transformer, decoder, scale),
               {latents, times, tokens_, guide_tokens_});
  // Past the interval of guidance the first half is still of use.
  return run(key("decoder", guidance), velocity(model_, decoder, scale), {latents, times, tokens_.slice(0, 0, rows)});
}

void VelocityField::compute_tokens(const Tensor& latents, size_t i, Guidance guidance) {
  tokens_ = guide_tokens_ = Tensor();  // their memory serves the new ones
  if (const RAEDiTConditioning now = conditioning_of(i, guidance); now.modulations.defined()) {
    tokens_ = encode(model_, {latents, now.time, now.activated, now.modulations});
    return;
  }
  const std::vector<Tensor> inputs{latents, Tensor::full({rows_of(guidance)}, times_[i]), labels_of(guidance)};
  tokens_ = encode(model_, inputs);
  if (guidance == Guidance::guide) guide_tokens_ = encode(*arguments_.guide_transformer, inputs);
}

// [latents, times, labels] or [latents, parts of a conditioning] -> tokens.
Tensor VelocityField::encode(const RAEDiT2DModel& model, const std::vector<Tensor>& inputs) {
  const bool conditioned = inputs.size() == 4;
  const auto work = [model, call = conditioned ? encoder_conditioned : encoder](Context& c, const Inputs& in) {
    return call(model, c, both_halves(c, in[0], in[1].dim(0)), in);
  };
  const std::string name =
      fmt::format("encoder {} {} {} {}", fmt::ptr(&model.config()), inputs[0].dim(0), inputs[1].dim(0), conditioned);
  const Tensor tokens = run(name, work, inputs);
  if (!ctx_.has_graphs()) return tokens;
  // A replay's result is overwritten by the next one.
  const Tensor kept = ctx_.empty(tokens.shape(), tokens.dtype());
  ctx_.kernels().copy(tokens, kept);
  return kept;
}

// Says everything that the work depends on besides its inputs.
std::string VelocityField::key(const char* name, Guidance guidance) const {
  const void* guide = guidance == Guidance::guide ? &arguments_.guide_transformer->config() : nullptr;
  return fmt::format("{} {} {} {} {} {}", name, fmt::ptr(&model_.config()), labels_.dim(0), static_cast<int>(guidance),
                     guidance == Guidance::none ? 1.0 : arguments_.guidance_scale, fmt::ptr(guide));
}

Tensor VelocityField::run(const std::string& key, const ops::Replay::Work& work, const std::vector<Tensor>& inputs) {
  if (!ctx_.has_graphs()) return work(ctx_, inputs);
  return ops::kept_replay(ctx_, key, [&] { return work; }).run(ctx_, inputs);
}

}  // namespace raedit
