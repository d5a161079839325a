// raedit generate: class names in, pictures out.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>

#include "command.h"
#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "generate_options.h"
#include "interrupt.h"
#include "io/picture_codec.h"
#include "latents_file.h"
#include "measure.h"
#include "model_classes.h"
#include "open_model.h"
#include "output.h"
#include "progress_bar.h"
#include "raedit/rae_dit_pipeline.h"
#include "transfer.h"
#include "version.h"

namespace raedit::cli {
namespace {

const char* const kFooter =
    "Without --label and --class-id, --count pictures of classes drawn from the seed. Several classes follow\n"
    "each other in the order labels, then class ids, each --count times.\n"
    "\n"
    "Files: .npy and .npz hold float32 [N,H,W,3] in [0,1] (npz: images, class_labels, seeds); .safetensors\n"
    "holds images [N,3,H,W] float32 in [0,1], latents [N,C,h,w] and class_labels.\n"
    "\n"
    "A folder of upstream's (torch checkpoints and a YAML) runs as it is, with the steps and the guidance of its YAML\n"
    "unless options say otherwise.\n"
    "\n"
    "Examples:\n"
    "  raedit generate --label cat-face --seed 42 --output cat.png\n"
    "  raedit generate --label drink --label heart --count 8 --guidance 3 --grid 8 --output grid.png\n"
    "  raedit generate --class-id 13 --count 100 --steps 25 --output cats/\n"
    "  raedit generate --label music --output-type latent --output music.safetensors\n"
    "  raedit generate --latents noise.safetensors --label warning --json --output images.npz";

struct PhaseSeconds {
  double load = 0, sample = 0, decode = 0, write = 0, total = 0;
};

// One run of the command, from options to files.
struct Generation {
  GenerateOptions options;
  Output output;
  FoundModel model;
  std::vector<std::string> notes, of_loading;
  std::optional<RAEDiT2DModel> guide;  // guides instead of the class that is none
  Tensor latents;                      // given noise; undefined when it is drawn from seeds
  std::vector<Picture> pictures;
  int64_t encoder_passes = 0;  // of each picture
  PhaseSeconds seconds;
};

void check_output(Generation& g) {
  const GenerateOptions& o = g.options;
  const std::string fallback = o.wants_latents() ? "raedit.safetensors" : "raedit.png";
  g.output = parse_output(o.output.empty() ? fallback : o.output, o.wants_latents());
  RAEDIT_CHECK(o.grid == 0 || g.output.kind == OutputKind::png, {.code = ErrorCode::invalid_argument,
                                                                 .what = "only a .png can be a grid",
                                                                 .where = "--grid",
                                                                 .found = g.output.path});
  check_writable(g.output);
}

// torch.randint(num_classes, (1,), generator=torch.Generator().manual_seed(seed))
int64_t class_of_seed(uint64_t seed, int64_t num_classes) {
  return static_cast<int64_t>(Generator(seed).random() % static_cast<uint64_t>(num_classes));
}

std::vector<int64_t> class_of_each_picture(const Generation& g, const ModelClasses& model) {
  const GenerateOptions& o = g.options;
  const int64_t num_classes = model.num_classes;
  std::vector<int64_t> classes = ids_of_labels(model, o.labels);
  for (const int64_t id : o.class_ids) {
    RAEDIT_CHECK(id < num_classes, {.code = ErrorCode::invalid_argument,
                                    .what = "class id is out of range",
                                    .where = "--class-id",
                                    .found = fmt::to_string(id),
                                    .expected = fmt::format("0 to {}", num_classes - 1)});
    classes.push_back(id);
  }
  const auto asked = static_cast<int64_t>(std::max<size_t>(classes.size(), 1));
  RAEDIT_CHECK(o.count <= kMostPictures / asked, {.code = ErrorCode::invalid_argument,
                                                  .what = "too many pictures for one request",
                                                  .found = fmt::format("{} of each of {} classes", o.count, asked),
                                                  .expected = fmt::format("at most {}", kMostPictures)});
  std::vector<int64_t> each;
  for (const int64_t id : classes) each.insert(each.end(), static_cast<size_t>(o.count), id);
  if (!classes.empty()) return each;
  const int64_t count = g.latents.defined() && !o.given.count ? g.latents.dim(0) : o.count;
  for (int64_t k = 0; k < count; ++k)
    each.push_back(class_of_seed(static_cast<uint64_t>(o.seed) + static_cast<uint64_t>(k), num_classes));
  return each;
}

void check_latents(const Generation& g, const RAEDiT2DModelConfig& config) {
  if (!g.latents.defined()) return;
  const Shape expected{static_cast<int64_t>(g.pictures.size()), config.in_channels, config.sample_size,
                       config.sample_size};
  RAEDIT_CHECK(g.latents.shape() == expected,
               {.code = ErrorCode::invalid_argument,
                .what = "latents have the wrong shape",
                .where = g.options.latents,
                .found = g.latents.shape().str(),
                .expected = fmt::format("{} for {} picture(s) of this model", expected.str(), expected[0])});
}

// make_grid would say so too, but only after all the work.
void check_grid_size(const Generation& g, int64_t side) {
  const auto count = static_cast<int64_t>(g.pictures.size());
  if (g.output.kind != OutputKind::png) return;
  const int64_t columns = g.options.grid > 0 ? std::min<int64_t>(g.options.grid, count)
                                             : static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  const int64_t width = columns * side, height = (count + columns - 1) / columns * side;
  RAEDIT_CHECK(width <= kMaxImageSide && height <= kMaxImageSide && width * height <= kMaxImagePixels,
               {.code = ErrorCode::invalid_argument,
                .what = "the grid is too large for one PNG",
                .found = fmt::format("{} pictures, {} x {} pixels", count, width, height),
                .expected = fmt::format("sides up to {}, {} pixels", kMaxImageSide, kMaxImagePixels),
                .hint = "write into a folder: --output pictures/"});
}

void choose_classes(Generation& g, const ModelClasses& model) {
  const std::vector<int64_t> classes = class_of_each_picture(g, model);
  for (size_t k = 0; k < classes.size(); ++k) {
    const auto label = model.id2label.find(classes[k]);
    g.pictures.push_back(
        {classes[k], label == model.id2label.end() ? "" : label->second, static_cast<uint64_t>(g.options.seed) + k});
  }
}

RAEDiTPipelineArguments arguments_of(const Generation& g, int64_t first, int64_t end) {
  const GenerateOptions& o = g.options;
  RAEDiTPipelineArguments arguments;
  for (int64_t k = first; k < end; ++k) arguments.class_labels.push_back(g.pictures[static_cast<size_t>(k)].class_id);
  arguments.guidance_scale = o.guidance;
  if (g.guide) arguments.guide_transformer = &*g.guide;
  arguments.guidance_start = o.guidance_start;
  arguments.guidance_end = o.guidance_end;
  arguments.num_inference_steps = o.steps;
  arguments.encoder_reuse = encoder_reuse(o);
  if (g.latents.defined())
    arguments.latents = g.latents.slice(0, first, end);
  else
    arguments.seed = g.pictures[static_cast<size_t>(first)].seed;
  arguments.stream = random_stream(o);
  const bool as_pictures = g.output.kind == OutputKind::png || g.output.kind == OutputKind::folder;
  arguments.output_type = o.wants_latents() ? OutputType::latent : as_pictures ? OutputType::pil : OutputType::pt;
  return arguments;
}

RequestInfo request_info(const Generation& g) {
  const GenerateOptions& o = g.options;
  const std::string latents = o.latents.empty() ? "" : std::filesystem::path(o.latents).filename().string();
  return {
      as_utf8(g.model.name), as_utf8(latents), random_stream(o).name(),        o.steps, o.guidance, o.guidance_start,
      o.guidance_end,        o.encoder_reuse,  dtype_text(o.dtype, o.quantize)};
}

void sample(Generation& g, const RAEDiTPipeline& pipeline, Context& ctx, OutputWriter& writer, int64_t& batches_done) {
  const auto count = static_cast<int64_t>(g.pictures.size());
  for (int64_t first = 0; first < count; first += g.options.batch_size, ++batches_done) {
    const int64_t end = std::min(count, first + g.options.batch_size);
    RAEDiTPipelineOutput batch = pipeline(ctx, arguments_of(g, first, end));
    g.encoder_passes = batch.encoder_passes;
    g.seconds.sample += batch.sample_seconds;
    g.seconds.decode += batch.decode_seconds;
    const Stopwatch write;
    writer.add(std::move(batch), first);
    g.seconds.write += write.seconds();
  }
}

// What came before an interruption is not lost, and is told.
void sample_telling_what_was_reached(Generation& g, const RAEDiTPipeline& pipeline, Context& ctx, OutputWriter& writer,
                                     ProgressBar& bar, int64_t& batches_done) {
  try {
    sample(g, pipeline, ctx, writer, batches_done);
  } catch (const Error&) {
    if (const size_t there = writer.written().size(); there > 0)
      bar.say(fmt::format("{} of {} pictures are in {}", there, g.pictures.size(), g.output.path));
    throw;
  }
}

Json to_json(const Generation& g, const Context& ctx, const std::vector<std::string>& paths) {
  const GenerateOptions& o = g.options;
  Json labels = Json::array(), ids = Json::array(), seeds = Json::array();
  for (const Picture& picture : g.pictures) {
    labels.push_back(picture.label.empty() ? Json(nullptr) : Json(picture.label));
    ids.push_back(picture.class_id);
    seeds.push_back(picture.seed);
  }
  Json json{{"command", "generate"}, {"version", kVersion}, {"model", g.model.path}, {"pictures", g.pictures.size()}};
  json["labels"] = labels;
  json["class_ids"] = ids;
  if (o.latents.empty()) {
    json["seeds"] = seeds;
    json["rng"] = random_stream(o).name();
  } else {
    json["latents"] = o.latents;
  }
  json["steps"] = o.steps;
  json["guidance"] = o.guidance;
  json["guidance_by"] = g.guide ? "guide_transformer" : "null class";
  json["guidance_start"] = o.guidance_start;
  json["guidance_end"] = o.guidance_end;
  json["encoder_reuse"] = o.encoder_reuse;
  json["encoder_passes"] = g.encoder_passes;
  json["batch_size"] = o.batch_size;
  json["dtype"] = o.dtype;
  json["quantize"] = o.quantize.quantize;
  if (!o.quantize.calibration.empty()) json["calibration"] = o.quantize.calibration;
  if (!o.guide_calibration.empty()) json["guide_calibration"] = o.guide_calibration;
  json["output_type"] = o.output_type;
  json["device"] = ctx.description();
  json["threads"] = ctx.threads();
  const PhaseSeconds& s = g.seconds;
  json["seconds"] = {
      {"load", s.load}, {"sample", s.sample}, {"decode", s.decode}, {"write", s.write}, {"total", s.total}};
  json["images_per_second"] = static_cast<double>(g.pictures.size()) / (s.sample + s.decode);
  json["peak_memory_bytes"] = peak_memory_bytes();
  json["notes"] = g.notes;
  json["outputs"] = paths;
  return json;
}

// Whether there is one may depend on a YAML.
void check_guide_calibration(const GenerateOptions& o, bool guided_otherwise) {
  RAEDIT_CHECK(o.guide_calibration.empty() || !o.guide.empty() || guided_otherwise,
               {.code = ErrorCode::invalid_argument,
                .what = "--guide-calibration is for a guide, and there is none",
                .found = o.guide_calibration,
                .hint = "name one with --guide; the model's own calibration is --calibration"});
}

void take_upstream(Generation& g, const UpstreamPipeline& upstream) {
  check_guide_calibration(g.options, upstream.guide_transformer.has_value());
  g.notes = upstream.notes;
  g.guide = upstream.guide_transformer;
  if (const std::string taken = take_defaults(g.options, upstream); !taken.empty()) g.notes.push_back(taken);
  check_generate_options(g.options);
}

// Both models: the calibrations are one's own each.
RAEDiTPipeline open_models(Generation& g, LoadOptions load, const HubOptions& hub) {
  const GenerateOptions& o = g.options;
  const bool by_yaml = o.guide.empty() || is_guide_of_yaml(g.model, o.guide);
  RAEDiTPipeline pipeline = open_pipeline(
      g.model, load, hub, [&](const UpstreamPipeline& upstream) { take_upstream(g, upstream); },
      by_yaml ? o.guide_calibration : "");
  load.calibration = o.guide_calibration;
  if (!o.guide.empty()) g.guide = open_guide(g.model, g.guide, o.guide, load);
  return pipeline;
}

// Of upstream's models the classes are not known yet.
void check_before_loading(Generation& g) {
  check_guide(g.model, g.options.guide);
  if (g.model.upstream) return;
  if (const auto classes = classes_in(g.model.path)) choose_classes(g, *classes);
}

RAEDiTPipeline open_all(Generation& g, ProgressBar& bar, const Interrupt& interrupt) {
  Transfer transfer(bar, interrupt);
  HubOptions hub = hub_options(g.options.model);
  hub.progress = transfer.downloads();
  g.model = find_model(g.options.model, ModelPart::pipeline, hub);
  check_guide_calibration(g.options, g.model.upstream);
  check_before_loading(g);
  const Stopwatch watch;
  LoadOptions load = load_options(g.options);
  load.note = [&g](const std::string& text) { g.of_loading.push_back(text); };
  RAEDiTPipeline pipeline = open_models(g, load, hub);
  g.seconds.load = watch.seconds();
  g.notes.insert(g.notes.end(), g.of_loading.begin(), g.of_loading.end());
  bar.say(fmt::format("load {} in {}", g.model.path, human_seconds(g.seconds.load)));
  for (const std::string& note : g.notes) bar.say("note: " + note);
  return pipeline;
}

std::string summary(const Generation& g, const std::vector<std::string>& paths) {
  const PhaseSeconds& s = g.seconds;
  const std::string what = g.options.wants_latents() ? "latent" : "picture";
  return fmt::format("{} {}{} in {} (sample {}, decode {}) -> {}", g.pictures.size(), what,
                     g.pictures.size() == 1 ? "" : "s", human_seconds(s.total), human_seconds(s.sample),
                     human_seconds(s.decode), paths.size() == 1 ? paths[0] : g.output.path);
}

int run_generate(const GenerateOptions& options) {
  const Stopwatch total;
  check_generate_options(options);
  Generation g;
  g.options = options;
  const GenerateOptions& o = g.options;
  check_output(g);
  if (!o.latents.empty()) g.latents = load_latents(o.latents);

  ProgressBar bar(ProgressBar::style_of_stderr(o.quiet));
  const Interrupt interrupt;
  const RAEDiTPipeline pipeline = open_all(g, bar, interrupt);
  if (g.pictures.empty()) choose_classes(g, classes_of(pipeline));
  check_latents(g, pipeline.transformer().config());
  check_grid_size(g, pipeline.vae().config().output_size());
  interrupt.throw_if_cancelled();

  int64_t batches_done = 0;
  ContextOptions context;
  context.device = Device::from_name(o.device);
  context.threads = o.threads;
  context.cancel = interrupt.token();
  context.progress = [&](const Progress& p) {
    if (p.phase == Progress::Phase::sample) bar.step(batches_done * p.total + p.step);
  };
  Context ctx(context);
  const int64_t batches = (static_cast<int64_t>(g.pictures.size()) + o.batch_size - 1) / o.batch_size;
  bar.begin("sample", batches * o.steps);
  OutputWriter writer(g.output, request_info(g), g.pictures, o.grid);
  sample_telling_what_was_reached(g, pipeline, ctx, writer, bar, batches_done);
  interrupt.throw_if_cancelled();

  const Stopwatch write;
  const std::vector<std::string>& paths = writer.finish();
  g.seconds.write += write.seconds();
  g.seconds.total = total.seconds();
  bar.say(summary(g, paths));
  if (o.json) fmt::print("{}\n", to_json(g, ctx, paths).dump(2, ' ', false, Json::error_handler_t::replace));
  return kExitOk;
}

}  // namespace

Command add_generate(CLI::App& program) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* app = program.add_subcommand("generate", "Draw pictures of classes");
  add_generate_options(*app, *options);
  app->footer(kFooter);
  return {app, [app, options] {
            options->given = given_options(*app);
            return run_generate(*options);
          }};
}

}  // namespace raedit::cli
