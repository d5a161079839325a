// raedit reuse: which steps should compute the encoder stream, for --encoder-reuse of raedit generate.
#include <fmt/format.h>

#include <memory>
#include <optional>

#include "command.h"
#include "core/check.h"
#include "core/json.h"
#include "generate_options.h"
#include "interrupt.h"
#include "measure.h"
#include "open_model.h"
#include "progress_bar.h"
#include "raedit/encoder_reuse_search.h"
#include "transfer.h"
#include "values.h"
#include "version.h"

namespace raedit::cli {
namespace {

const char* const kFooter =
    "Draws a few pictures, of classes that lie evenly among all, without reuse, and measures how alike the encoder's\n"
    "tokens of any two steps are. Of all lists of so many steps it prints the one whose steps, together, take tokens\n"
    "most like their own (DDT, arXiv 2504.05741): --encoder-reuse of 'raedit generate' with the same model, --steps\n"
    "and guidance. It says, too, how alike they are with as many steps at even distance.\n"
    "\n"
    "Examples:\n"
    "  raedit reuse --steps 25 --passes 9\n"
    "  raedit generate --steps 25 --encoder-reuse $(raedit reuse --steps 25 --passes 9) --label cat-face\n"
    "  raedit reuse --model dit-dh-xl/ --dtype bfloat16 --steps 50 --guidance 1.5 --passes 17 --pictures 2 --json";

struct ReuseOptions {
  GenerateOptions request;  // model, steps, guidance, seed, dtype, device, threads, json
  int64_t passes = 0, pictures = 8;
};

struct OpenModels {
  RAEDiTPipeline pipeline;
  std::optional<RAEDiT2DModel> guide;
};

// With the guide of the command line or of an upstream YAML, as raedit generate has them.
OpenModels open_models(GenerateOptions& o, const FoundModel& model, const HubOptions& hub, ProgressBar& bar) {
  check_guide(model, o.guide);
  const LoadOptions load = load_options(o);
  std::optional<RAEDiT2DModel> guide;
  RAEDiTPipeline pipeline = open_pipeline(model, load, hub, [&](const UpstreamPipeline& upstream) {
    guide = upstream.guide_transformer;
    if (const std::string taken = take_defaults(o, upstream); !taken.empty()) bar.say("note: " + taken);
    check_generate_options(o);
  });
  if (!o.guide.empty()) guide = open_guide(model, guide, o.guide, load);
  return {std::move(pipeline), std::move(guide)};
}

// How many steps there are may be in a YAML that was not read yet; then find_encoder_reuse looks.
void check_reuse_options(const ReuseOptions& o) {
  check_generate_options(o.request);
  RAEDIT_CHECK(!o.request.given.steps || o.passes <= o.request.steps,
               {.code = ErrorCode::invalid_argument,
                .what = "there cannot be more passes than steps",
                .where = "--passes",
                .found = fmt::to_string(o.passes),
                .expected = fmt::format("1 to {}", o.request.steps)});
}

// As --encoder-reuse takes it, where one number alone is a distance.
std::string as_option(const EncoderReuse& reuse, int64_t num_inference_steps) {
  return reuse.steps.size() > 1 ? fmt::format("{}", fmt::join(reuse.steps, ",")) : fmt::to_string(num_inference_steps);
}

EncoderReuseFound search(const ReuseOptions& o, const OpenModels& models, const Interrupt& interrupt,
                         ProgressBar& bar) {
  const GenerateOptions& r = o.request;
  EncoderReuseSearch search;
  search.passes = o.passes;
  search.num_inference_steps = r.steps;
  search.pictures = o.pictures;
  search.seed = static_cast<uint64_t>(r.seed);
  search.guidance_scale = r.guidance;
  if (models.guide) search.guide_transformer = &*models.guide;
  search.guidance_start = r.guidance_start;
  search.guidance_end = r.guidance_end;
  int64_t done = 0;
  ContextOptions context;
  context.device = Device::from_name(r.device);
  context.threads = r.threads;
  context.cancel = interrupt.token();
  context.progress = [&](const Progress&) { bar.step(++done); };
  Context ctx(context);
  bar.begin("sample", o.pictures * r.steps);
  EncoderReuseFound found = find_encoder_reuse(ctx, models.pipeline, search);
  bar.clear();
  return found;
}

Json to_json(const ReuseOptions& o, const FoundModel& model, const EncoderReuseFound& found, double seconds) {
  const GenerateOptions& r = o.request;
  return {{"command", "reuse"},
          {"version", kVersion},
          {"model", model.path},
          {"steps", r.steps},
          {"passes", o.passes},
          {"guidance", r.guidance},
          {"guidance_start", r.guidance_start},
          {"guidance_end", r.guidance_end},
          {"pictures", o.pictures},
          {"seed", r.seed},
          {"dtype", r.dtype},
          {"encoder_reuse", as_option(found.reuse, r.steps)},
          {"similarity", found.similarity},
          {"even", as_option(found.even, r.steps)},
          {"even_similarity", found.even_similarity},
          {"seconds", seconds},
          {"peak_memory_bytes", peak_memory_bytes()}};
}

int run_reuse(ReuseOptions o) {
  check_reuse_options(o);
  const Stopwatch watch;
  const Interrupt interrupt;
  GenerateOptions& r = o.request;
  ProgressBar bar(ProgressBar::style_of_stderr(r.json));
  Transfer transfer(bar, interrupt);
  HubOptions hub = hub_options(r.model);
  hub.progress = transfer.downloads();
  const FoundModel model = find_model(r.model, ModelPart::pipeline, hub);
  const Stopwatch load;
  const OpenModels models = open_models(r, model, hub, bar);
  bar.say(fmt::format("load {} in {}", model.path, human_seconds(load.seconds())));
  interrupt.throw_if_cancelled();
  const EncoderReuseFound found = search(o, models, interrupt, bar);
  interrupt.throw_if_cancelled();
  bar.say(fmt::format("similarity {:.4f}; at even distance {:.4f} ({})", found.similarity, found.even_similarity,
                      as_option(found.even, r.steps)));
  if (r.json)
    fmt::print("{}\n", to_json(o, model, found, watch.seconds()).dump(2, ' ', false, Json::error_handler_t::replace));
  else
    fmt::print("{}\n", as_option(found.reuse, r.steps));
  return kExitOk;
}

}  // namespace

Command add_reuse(CLI::App& program) {
  auto options = std::make_shared<ReuseOptions>();
  CLI::App* app = program.add_subcommand("reuse", "Find the steps for --encoder-reuse");
  GenerateOptions& request = options->request;
  add_model_options(*app, request.model);
  app->add_option("--passes", options->passes, "steps that compute the encoder stream")
      ->required()
      ->type_name("N")
      ->check(whole_number(1, 10000));
  add_guided_steps(*app, request, 10000);
  app->add_option("--pictures", options->pictures, "pictures to draw (default 8)")
      ->type_name("N")
      ->check(whole_number(1, 4096));
  app->add_option("--seed", request.seed, "picture k is drawn from seed N + k (default 0)")
      ->type_name("N")
      ->check(whole_number(0));
  add_dtype_option(*app, request);
  add_device_option(*app, request);
  add_threads_option(*app, request);
  add_switch(*app, "--json", request.json, "print a JSON object");
  app->footer(kFooter);
  return {app, [app, options] {
            options->request.given = given_options(*app);
            return run_reuse(*options);
          }};
}

}  // namespace raedit::cli
