#include "raedit/calibration.h"

#include "core/check.h"
#include "core/guard.h"
#include "models/internals.h"
#include "models/quantization.h"

namespace raedit {
namespace {

// The context is handed back without an observer, whatever happens.
class Observed {
 public:
  Observed(Context& ctx, models::SeenInputs& seen) : ctx_(ctx) {
    ctx.set_input_observer([&seen](const nn::Parameter& matrix, const Tensor& input) { seen.see(matrix, input); });
  }
  ~Observed() { ctx_.set_input_observer({}); }
  Observed(const Observed&) = delete;
  Observed& operator=(const Observed&) = delete;

 private:
  Context& ctx_;
};

RAEDiTPipelineArguments arguments_of(const RAEDiTPipeline& pipeline, const CalibrationOptions& o) {
  RAEDiTPipelineArguments arguments;
  const int64_t classes = pipeline.transformer().config().num_classes;
  for (int64_t k = 0; k < o.pictures; ++k) arguments.class_labels.push_back(k * classes / o.pictures % classes);
  arguments.num_inference_steps = o.num_inference_steps;
  arguments.seed = o.seed;
  arguments.output_type = OutputType::pt;
  return arguments;
}

}  // namespace

CalibrationSummary calibrate(Context& ctx, const RAEDiTPipeline& pipeline, const CalibrationOptions& options,
                             const std::string& path) {
  return guarded("calibrate", [&] {
    RAEDIT_CHECK(ctx.kernels().memory() == nullptr, {.code = ErrorCode::unsupported,
                                                     .what = "calibration runs on the processor alone",
                                                     .where = "calibrate",
                                                     .found = ctx.description()});
    RAEDIT_CHECK(options.pictures > 0, {.code = ErrorCode::invalid_argument,
                                        .what = "calibration needs a picture at least",
                                        .where = "CalibrationOptions::pictures",
                                        .found = std::to_string(options.pictures)});
    models::SeenInputs seen;
    const Observed observed(ctx, seen);
    const Tensor images = pipeline(ctx, arguments_of(pipeline, options)).images;
    const models::RaeDitTransformer& transformer = models::Internals::of(pipeline.transformer());
    const models::AutoencoderRae& vae = models::Internals::of(pipeline.vae());
    CalibrationSummary summary;
    summary.with_encoder = vae.has_encoder();
    if (summary.with_encoder)
      for (int64_t k = 0; k < options.pictures; ++k) {
        ctx.throw_if_cancelled();
        pipeline.vae().encode(ctx, images.slice(0, k, k + 1));
      }
    ctx.set_input_observer({});
    ctx.throw_if_cancelled();
    models::CalibratedPart coder = calibrated_part(vae.parameters, seen, ctx.kernels());
    if (summary.with_encoder) {
      const auto part = std::visit([&](const auto& encoder) { return calibrated_part(encoder, seen, ctx.kernels()); },
                                   vae.loaded_encoder());
      coder.seen += part.seen;
      for (const auto& [name, most] : part.maxima) coder.maxima["encoder." + name] = most;
    }
    ctx.throw_if_cancelled();
    coder.sums = models::sums_of_matrices(vae.parameters, ctx.threads());
    models::CalibratedPart denoiser = calibrated_part(transformer, seen, ctx.kernels());
    denoiser.sums = models::sums_of_matrices(transformer, ctx.threads());
    ctx.throw_if_cancelled();
    summary.matrices = coder.seen + denoiser.seen;
    summary.helped = static_cast<int64_t>(coder.maxima.size() + denoiser.maxima.size());
    models::write_calibration(path, {{models::kTransformerPart, denoiser}, {models::kAutoencoderPart, coder}});
    return summary;
  });
}

}  // namespace raedit
