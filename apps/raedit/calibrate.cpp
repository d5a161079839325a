// raedit calibrate: what the matrices of a model see in a few pictures, for --quantize int8.
#include <fmt/format.h>

#include <memory>
#include <optional>

#include "command.h"
#include "core/json.h"
#include "interrupt.h"
#include "loading_options.h"
#include "measure.h"
#include "open_model.h"
#include "output.h"
#include "progress_bar.h"
#include "raedit/calibration.h"
#include "transfer.h"
#include "values.h"

namespace raedit::cli {
namespace {

const char* const kFooter =
    "Draws a few pictures, of classes that lie evenly among all, and notes the largest value that each input of each\n"
    "matrix of the blocks takes; pictures are encoded again, where the model has its encoder. Quantizing with FILE "
    "then\n"
    "shares large values between weights and inputs (SmoothQuant, arXiv 2211.10438). FILE fits this model alone.\n"
    "\n"
    "Examples:\n"
    "  raedit calibrate --output emoji64.safetensors\n"
    "  raedit generate --quantize int8 --calibration emoji64.safetensors --label cat-face\n"
    "  raedit calibrate --model dit-dh-xl/ --guide guide_transformer --output guide.safetensors\n"
    "  raedit calibrate --model dit-dh-xl/ --dtype bfloat16 --pictures 4 --steps 10 --output xl.safetensors";

struct CalibrateOptions : LoadingOptions {
  ModelOptions model;
  std::string guide, output;
  int64_t pictures = 8, steps = 10, seed = 0;
  bool json = false;
};

// With the guide in the place of the transformer, where one is named: that one is not loaded.
RAEDiTPipeline open_calibrated(const CalibrateOptions& o, const FoundModel& model, const HubOptions& hub) {
  const LoadOptions load = load_options(o);
  if (o.guide.empty()) return open_pipeline(model, load, hub);
  if (!model.upstream)
    return RAEDiTPipeline::from_pretrained(model.path, open_guide(model, std::nullopt, o.guide, load), load);
  const UpstreamModels models = upstream_models(model, hub);
  const auto of_yaml = is_guide_of_yaml(model, o.guide) ? models.guide_transformer(load) : std::nullopt;
  return models.pipeline(open_guide(model, of_yaml, o.guide, load), load);
}

int run_calibrate(const CalibrateOptions& o) {
  check_file_writable(o.output);
  const Stopwatch watch;
  const Interrupt interrupt;
  ProgressBar bar(ProgressBar::style_of_stderr(o.json));
  Transfer transfer(bar, interrupt);
  HubOptions hub = hub_options(o.model);
  hub.progress = transfer.downloads();
  const FoundModel model = find_model(o.model, ModelPart::pipeline, hub);
  const RAEDiTPipeline pipeline = open_calibrated(o, model, hub);
  ContextOptions context;
  context.threads = o.threads;
  context.cancel = interrupt.token();
  context.progress = [&](const Progress& p) {
    if (p.phase == Progress::Phase::sample) bar.step(p.step);
  };
  Context ctx(context);
  bar.begin("sample", o.steps);
  const CalibrationSummary done =
      calibrate(ctx, pipeline, {o.pictures, o.steps, static_cast<uint64_t>(o.seed)}, o.output);
  bar.clear();
  if (o.json) {
    Json json{{"model", model.path},
              {"pictures", o.pictures},
              {"steps", o.steps},
              {"seed", o.seed},
              {"matrices", done.matrices},
              {"helped", done.helped},
              {"with_encoder", done.with_encoder},
              {"output", o.output},
              {"seconds", watch.seconds()},
              {"peak_memory_bytes", peak_memory_bytes()}};
    if (!o.guide.empty()) json["guide"] = o.guide;
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
    return kExitOk;
  }
  fmt::print("{} matrices over {} pictures of {} steps{}; it helps {} of them -> {}\n", done.matrices, o.pictures,
             o.steps, done.with_encoder ? ", encoder and all" : ", without the encoder", done.helped, o.output);
  return kExitOk;
}

}  // namespace

Command add_calibrate(CLI::App& program) {
  auto options = std::make_shared<CalibrateOptions>();
  CLI::App* app = program.add_subcommand("calibrate", "Note what a model's matrices see, for --quantize int8");
  add_model_options(*app, options->model);
  app->add_option("--guide", options->guide,
                  "draw with this transformer, the --guide of 'raedit generate', and note what it sees: for\n"
                  "--guide-calibration")
      ->type_name("DIR");
  app->add_option("--output", options->output, "the .safetensors file to write")->required()->type_name("FILE");
  app->add_option("--pictures", options->pictures, "pictures to draw (default 8)")
      ->type_name("N")
      ->check(whole_number(1, 4096));
  app->add_option("--steps", options->steps, "sampling steps of each (default 10)")
      ->type_name("N")
      ->check(whole_number(1, 100000));
  app->add_option("--seed", options->seed, "picture k is drawn from seed N + k (default 0)")
      ->type_name("N")
      ->check(whole_number(0));
  add_dtype_option(*app, *options);
  add_threads_option(*app, *options);
  add_switch(*app, "--json", options->json, "print a JSON object");
  app->footer(kFooter);
  return {app, [options] { return run_calibrate(*options); }};
}

}  // namespace raedit::cli
