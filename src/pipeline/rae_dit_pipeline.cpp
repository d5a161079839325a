// RAEDiTPipeline: checks, noise, the denoising loop, decoding.
#include "raedit/rae_dit_pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/check.h"
#include "core/guard.h"
#include "ops/elementwise.h"
#include "ops/replay.h"
#include "pipeline/class_names.h"
#include "pipeline/request_plan.h"
#include "pipeline/velocity_field.h"
#include "tensor/arena.h"

namespace raedit {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void check_guidance(const RAEDiTPipelineArguments& a, const RAEDiT2DModelConfig& config) {
  RAEDIT_CHECK(a.guidance_scale >= 1.0 && std::isfinite(static_cast<float>(a.guidance_scale)),
               {.code = ErrorCode::invalid_argument,
                .what = "guidance_scale is out of range",
                .found = fmt::to_string(a.guidance_scale),
                .expected = "1 (no guidance) or more"});
  RAEDIT_CHECK(0.0 <= a.guidance_start && a.guidance_start <= a.guidance_end && a.guidance_end <= 1.0,
               {.code = ErrorCode::invalid_argument,
                .what = "the guidance interval is not one",
                .found = fmt::format("guidance_start {} and guidance_end {}", a.guidance_start, a.guidance_end),
                .expected = "0 <= guidance_start <= guidance_end <= 1"});
  if (a.guide_transformer != nullptr) {
    const RAEDiT2DModelConfig& guide = a.guide_transformer->config();
    const auto describe = [](const RAEDiT2DModelConfig& c) {
      return fmt::format("latents [{0}, {1}, {1}], {2} classes", c.in_channels, c.sample_size, c.num_classes);
    };
    RAEDIT_CHECK(describe(guide) == describe(config), {.code = ErrorCode::invalid_argument,
                                                       .what = "guide_transformer does not fit the transformer",
                                                       .found = describe(guide),
                                                       .expected = describe(config)});
    return;
  }
  RAEDIT_CHECK(a.guidance_scale == 1.0 || config.has_null_class(),
               {.code = ErrorCode::invalid_argument,
                .what = "this model has no null class, which classifier-free guidance needs",
                .found = fmt::format("guidance_scale {} with class_dropout_prob 0", a.guidance_scale),
                .expected = "guidance_scale 1"});
}

void check_arguments(const RAEDiTPipelineArguments& a, const RAEDiT2DModelConfig& config) {
  RAEDIT_CHECK(!a.class_labels.empty(), {.code = ErrorCode::invalid_argument, .what = "no class_labels were given"});
  RAEDIT_CHECK(a.num_images_per_prompt >= 1, {.code = ErrorCode::invalid_argument,
                                              .what = "num_images_per_prompt is too small",
                                              .found = fmt::to_string(a.num_images_per_prompt),
                                              .expected = "1 or more"});
  RAEDIT_CHECK(a.num_inference_steps >= 1, {.code = ErrorCode::invalid_argument,
                                            .what = "num_inference_steps is too small",
                                            .found = fmt::to_string(a.num_inference_steps),
                                            .expected = "1 or more"});
  a.encoder_reuse.check(a.num_inference_steps);
  check_guidance(a, config);
  // The null class is not a class: asking for it is a mistake more often than a wish.
  for (const int64_t label : a.class_labels)
    RAEDIT_CHECK(label >= 0 && label < config.num_classes,
                 {.code = ErrorCode::invalid_argument,
                  .what = "class id is out of range",
                  .found = fmt::to_string(label),
                  .expected = fmt::format("0 to {}", config.num_classes - 1)});
  const int sources = (a.seed ? 1 : 0) + (a.generators != nullptr ? 1 : 0) + (a.latents.defined() ? 1 : 0);
  RAEDIT_CHECK(sources <= 1, {.code = ErrorCode::invalid_argument,
                              .what = "more than one source of noise was given",
                              .expected = "one of seed, generators and latents"});
  RAEDIT_CHECK(!a.stream.gpu || (a.generators == nullptr && !a.latents.defined()),
               {.code = ErrorCode::invalid_argument,
                .what = "a stream says what seeds draw, and no seed draws here",
                .found = a.stream.name(),
                .expected = "neither generators nor latents"});
}

// Each label num_images_per_prompt times in place.
std::vector<int64_t> repeat_labels(const RAEDiTPipelineArguments& a) {
  std::vector<int64_t> labels;
  for (const int64_t label : a.class_labels)
    labels.insert(labels.end(), static_cast<size_t>(a.num_images_per_prompt), label);
  return labels;
}

// Where the random numbers of a request come from: a generator for each picture, or one for all of them.
class NoiseSource {
 public:
  NoiseSource(const RAEDiTPipelineArguments& a, int64_t count) : generators_(a.generators) {
    RAEDIT_CHECK(
        generators_ == nullptr || generators_->size() == 1 || static_cast<int64_t>(generators_->size()) == count,
        {.code = ErrorCode::invalid_argument,
         .what = "the number of generators does not fit the number of pictures",
         .found = fmt::to_string(generators_ == nullptr ? 0 : generators_->size()),
         .expected = fmt::format("1 or {}", count)});
    if (generators_ != nullptr) return;
    for (int64_t k = 0; k < count; ++k) own_.emplace_back(a.seed.value_or(0) + static_cast<uint64_t>(k), a.stream);
  }

  // Normal numbers of this shape [N,...] as float32. Generators draw in the model's dtype, as torch does, so a bfloat16
  // model starts from the numbers that diffusers would start from.
  Tensor draw(const Shape& shape, DType dtype) {
    std::vector<Generator>& generators = generators_ != nullptr ? *generators_ : own_;
    if (generators.size() == 1) return generators.front().randn(shape, dtype).to(DType::float32);
    const Tensor noise = Tensor::empty(shape, DType::float32);
    Shape one = shape;
    one.set(0, 1);
    for (int64_t k = 0; k < shape[0]; ++k)
      noise.slice(0, k, k + 1).copy_from(generators[static_cast<size_t>(k)].randn(one, dtype));
    return noise;
  }

 private:
  std::vector<Generator> own_;
  std::vector<Generator>* generators_;
};

// What sampling starts from, [N,C,S,S] float32.
Tensor prepare_latents(const RAEDiTPipelineArguments& a, int64_t count, const RAEDiT2DModelConfig& config, DType dtype,
                       NoiseSource& noise) {
  const Shape shape{count, config.in_channels, config.sample_size, config.sample_size};
  if (!a.latents.defined()) return noise.draw(shape, dtype);
  RAEDIT_CHECK(a.latents.shape() == shape, {.code = ErrorCode::invalid_argument,
                                            .what = "latents have the wrong shape",
                                            .found = a.latents.shape().str(),
                                            .expected = shape.str()});
  return a.latents.to(DType::float32);
}

// Latents without noise, and how often the encoder stream was computed.
RAEDiTPipelineOutput denoise(Context& ctx, const RAEDiT2DModel& model, FlowMatchEulerDiscreteScheduler scheduler,
                             Tensor latents, const Tensor& labels, const RAEDiTPipelineArguments& a,
                             NoiseSource& noise) {
  const auto start = Clock::now();
  scheduler.set_timesteps(a.num_inference_steps);
  const auto total = static_cast<int64_t>(scheduler.timesteps().size());
  const std::vector<float> times = step_times(scheduler);
  // From the arena, like those of every later step: the second step then takes no more memory than the first.
  Tensor first = ctx.empty(latents.shape(), latents.dtype());
  first.copy_from(latents);
  latents = std::move(first);
  VelocityField velocity(ctx, model, labels, a, times);
  for (int64_t i = 0; i < total; ++i) {
    ctx.throw_if_cancelled();
    const auto index = static_cast<size_t>(i);
    const Tensor v = velocity.at(latents, index);
    if (a.observe_tokens && velocity.computes_tokens(index)) a.observe_tokens(i, velocity.tokens());
    StepOptions options;
    if (scheduler.config().stochastic_sampling) options.noise = noise.draw(latents.shape(), model.dtype());
    latents = scheduler.step(ctx, v, scheduler.timesteps()[index], latents, options);
    ctx.report({Progress::Phase::sample, i + 1, total, seconds_since(start)});
  }
  RAEDiTPipelineOutput output;
  output.latents = latents.clone();
  output.encoder_passes = velocity.encoder_passes();
  return output;
}

// A black picture must not pass for a result.
void check_finite(const Tensor& latents) {
  const float* values = latents.data<float>();
  RAEDIT_CHECK(std::all_of(values, values + latents.numel(), [](float x) { return std::isfinite(x); }),
               {.code = ErrorCode::not_finite,
                .what = "sampling ended in numbers that are not finite",
                .where = "RAEDiTPipeline",
                .hint = "a smaller guidance_scale, float32, or latents that are finite may help"});
}

// `count` pictures from latents [count,...] as pixels of the range that pictures have.
Tensor decode_some(Context& ctx, const AutoencoderRAE& vae, const Tensor& latents) {
  const auto work = [vae](Context& c, const std::vector<Tensor>& in) {
    return ops::clamp(c, vae.decode(c, in[0]), 0.0f, 1.0f);
  };
  if (!ctx.has_graphs()) return work(ctx, {latents});
  const std::string key = fmt::format("decode {} {}", fmt::ptr(&vae.config()), latents.shape().str());
  return ops::kept_replay(ctx, key, [&] { return work; }).run(ctx, {latents});
}

// The processor decodes pictures one by one, since the decoder's activations are the peak of memory otherwise; a device
// with its own memory wants to be filled.
Tensor decode(Context& ctx, const AutoencoderRAE& vae, const Tensor& latents) {
  const auto start = Clock::now();
  const int64_t count = latents.dim(0);
  const int64_t most = ctx.has_graphs() ? 16 : 1;
  Tensor images;
  for (int64_t i = 0; i < count; i += most) {
    ctx.throw_if_cancelled();
    const int64_t end = std::min(i + most, count);
    const Tensor some = decode_some(ctx, vae, latents.slice(0, i, end));
    if (!images.defined()) images = Tensor::empty({count, some.dim(1), some.dim(2), some.dim(3)}, DType::float32);
    images.slice(0, i, end).copy_from(some);
    ctx.report({Progress::Phase::decode, end, count, seconds_since(start)});
  }
  return images;
}

}  // namespace

RAEDiTPipelineOutput RAEDiTPipeline::operator()(Context& ctx, const RAEDiTPipelineArguments& arguments) const {
  return guarded("RAEDiTPipeline", [&] {
    const RAEDiT2DModelConfig& config = transformer_.config();
    check_arguments(arguments, config);
    const std::vector<int64_t> ids = repeat_labels(arguments);
    const auto count = static_cast<int64_t>(ids.size());
    const Tensor labels = Tensor::from(ids, {count});

    const auto start = Clock::now();
    NoiseSource noise(arguments, count);
    const Tensor latents = prepare_latents(arguments, count, config, transformer_.dtype(), noise);
    if (!ctx.has_graphs()) {
      const AutoencoderRAE* const decodes = arguments.output_type == OutputType::latent ? nullptr : &vae_;
      const size_t bytes = plan_request(ctx.kernels(), transformer_, decodes, scheduler_, labels, arguments);
      if (bytes > ctx.arena().reserved_bytes()) ctx.arena().reserve(bytes);
    }
    RAEDiTPipelineOutput output = denoise(ctx, transformer_, scheduler_, latents, labels, arguments, noise);
    check_finite(output.latents);
    output.sample_seconds = seconds_since(start);
    if (arguments.output_type == OutputType::latent) return output;

    const auto decode_start = Clock::now();
    output.images = decode(ctx, vae_, output.latents);
    output.decode_seconds = seconds_since(decode_start);
    if (arguments.output_type == OutputType::pil)
      for (int64_t i = 0; i < count; ++i) output.pictures.push_back(to_image(output.images.select(0, i)));
    return output;
  });
}

std::vector<int64_t> RAEDiTPipeline::get_label_ids(const std::vector<std::string>& names) const {
  return ids_of_names(labels_, names);
}

}  // namespace raedit
