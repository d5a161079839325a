#include "pipeline/request_plan.h"

#include <vector>

#include "backend/counting/counting_kernels.h"
#include "backend/device/device.h"
#include "ops/elementwise.h"
#include "pipeline/velocity_field.h"
#include "tensor/arena.h"

namespace raedit {
namespace {

// As the pipeline does it, less the steps that ask for what the one before them asked for.
void sample(Context& ctx, const RAEDiT2DModel& model, FlowMatchEulerDiscreteScheduler& scheduler, const Tensor& labels,
            const RAEDiTPipelineArguments& arguments, const Shape& shape) {
  scheduler.set_timesteps(arguments.num_inference_steps);
  const std::vector<float> times = step_times(scheduler);
  StepOptions options;
  if (scheduler.config().stochastic_sampling) options.noise = Tensor::empty(shape, DType::float32);
  Tensor latents = ctx.empty(shape, DType::float32);
  VelocityField velocity(ctx, model, labels, arguments, times);
  size_t taken = 0;
  for (size_t i = 0; i < times.size(); ++i) {
    if (i > 0 && velocity.repeats(i)) continue;
    const Tensor v = velocity.at(latents, i);
    latents = scheduler.step(ctx, v, scheduler.timesteps()[taken++], latents, options);
  }
}

}  // namespace

size_t plan_request(const backend::Kernels& kernels, const RAEDiT2DModel& model, const AutoencoderRAE* vae,
                    FlowMatchEulerDiscreteScheduler scheduler, const Tensor& labels,
                    const RAEDiTPipelineArguments& arguments) {
  Context ctx = context_on(backend::make_counting_kernels(kernels));
  Arena addresses(Arena::AddressesOnly{});
  addresses.keep_blocks();  // as what is cut from a reserve is kept
  ctx.arena().swap(addresses);
  const RAEDiT2DModelConfig& config = model.config();
  Shape shape{labels.dim(0), config.in_channels, config.sample_size, config.sample_size};
  sample(ctx, model, scheduler, labels, arguments, shape);
  shape.set(0, 1);
  if (vae != nullptr) ops::clamp(ctx, vae->decode(ctx, Tensor::empty(shape, DType::float32)), 0.0f, 1.0f);
  return ctx.arena().reserved_bytes();
}

}  // namespace raedit
