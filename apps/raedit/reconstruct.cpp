// raedit reconstruct: pictures through the autoencoder and back, with the PSNR of what came out.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "command.h"
#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "interrupt.h"
#include "io/files.h"
#include "loading_options.h"
#include "open_model.h"
#include "ops/resample.h"
#include "output.h"
#include "picture.h"
#include "progress_bar.h"
#include "raedit/autoencoder_rae.h"
#include "raedit/image.h"
#include "transfer.h"
#include "values.h"
#include "version.h"

namespace raedit::cli {
namespace fs = std::filesystem;
namespace {

const char* const kFooter =
    "The PSNR is over all pixels and channels of the 8-bit result, against the input resized to the model's\n"
    "output size by the encoder's own bicubic filter and clamped to [0,1] (an input of that size is compared\n"
    "as it is).\n"
    "\n"
    "Examples:\n"
    "  raedit reconstruct photo.jpg\n"
    "  raedit reconstruct *.png --output reconstructed/\n"
    "  raedit reconstruct photo.jpg --model DIR --dtype bfloat16 --output result.png";

struct ReconstructOptions : LoadingOptions {
  std::vector<std::string> images;
  ModelOptions model;
  std::string output;
  bool json = false;
};

struct Job {
  std::string input, output;
  std::optional<Image> image;  // until its turn comes
};

std::string default_name(const fs::path& input) {
  return input.stem().string() + "_reconstructed.png";
}

std::vector<Job> plan(const ReconstructOptions& o) {
  std::vector<Job> jobs;
  std::map<std::string, std::string> taken;
  const bool given = !o.output.empty();
  const Output output = given ? parse_output(o.output, false) : Output{};
  const bool folder = given && output.kind == OutputKind::folder;
  RAEDIT_CHECK(!given || folder || output.kind == OutputKind::png, {.code = ErrorCode::invalid_argument,
                                                                    .what = "reconstructions are PNG files",
                                                                    .where = "--output",
                                                                    .found = o.output,
                                                                    .expected = "a .png or a folder"});
  RAEDIT_CHECK(!given || folder || o.images.size() == 1, {.code = ErrorCode::invalid_argument,
                                                          .what = "several images cannot go into one file",
                                                          .where = "--output",
                                                          .found = o.output,
                                                          .expected = "a folder"});
  for (const std::string& input : o.images) {
    const fs::path path(input);
    std::string target = o.output;
    if (folder) target = (fs::path(o.output) / default_name(path)).string();
    if (!given) target = (path.parent_path() / default_name(path)).string();
    const auto [other, fresh] = taken.emplace(target, input);
    RAEDIT_CHECK(fresh, {.code = ErrorCode::invalid_argument,
                         .what = "two images would be written to one file",
                         .where = target,
                         .found = other->second + " and " + input});
    jobs.push_back({input, target, std::nullopt});
  }
  if (folder)
    check_writable(output);
  else
    for (const Job& job : jobs) check_file_writable(job.output);
  return jobs;
}

// A pipeline's vae/, or the folder of an autoencoder itself.
std::string autoencoder_folder(const std::string& model) {
  std::error_code error;
  const fs::path inner = fs::path(model) / "vae";
  return fs::is_directory(inner, error) ? inner.string() : model;
}

AutoencoderRAE open_autoencoder(const FoundModel& model, const LoadOptions& load, const HubOptions& hub) {
  if (model.upstream) return upstream_models(model, hub).vae(load);
  return AutoencoderRAE::from_pretrained(autoencoder_folder(model.path), load);
}

double psnr(const Tensor& result, const Tensor& reference) {
  const std::vector<float> a = result.to_vector<float>(), b = reference.to_vector<float>();
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double distance = static_cast<double>(a[i]) - std::clamp(static_cast<double>(b[i]), 0.0, 1.0);
    sum += distance * distance;
  }
  if (sum == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(static_cast<double>(a.size()) / sum);
}

double reconstruct(Context& ctx, const AutoencoderRAE& vae, Job& job, const PngText& text) {
  const Image input = job.image ? *std::exchange(job.image, std::nullopt) : load_image(job.input);
  const Tensor pixels = to_tensor(input).reshape({1, 3, input.height, input.width});
  const int64_t side = vae.config().output_size();
  const Tensor reference = pixels.dim(2) == side && pixels.dim(3) == side
                               ? pixels
                               : ops::resample(ctx, pixels, side, side, ops::Filter::bicubic);
  const Image result = to_image(vae.reconstruct(ctx, pixels).select(0, 0));
  save_png(result, job.output, text);
  return psnr(to_tensor(result), reference);
}

// All of them at once: a broken or missing picture costs no work. Those that do not fit are read again.
void load_images(std::vector<Job>& jobs) {
  size_t room = size_t{256} << 20;
  for (Job& job : jobs) {
    Image image = load_image(job.input);
    if (image.rgb.size() > room) continue;
    room -= image.rgb.size();
    job.image = std::move(image);
  }
}

int run_reconstruct(const ReconstructOptions& o) {
  check_quantize_options(o.quantize, o.device);
  std::vector<Job> jobs = plan(o);
  load_images(jobs);
  const Interrupt interrupt;
  ProgressBar bar(ProgressBar::style_of_stderr(o.json));
  Transfer transfer(bar, interrupt);
  HubOptions hub = hub_options(o.model);
  hub.progress = transfer.downloads();
  const FoundModel model = find_model(o.model, ModelPart::autoencoder, hub);
  LoadOptions load = load_options(o);
  load.note = [&](const std::string& text) { bar.say("note: " + text); };
  const AutoencoderRAE vae = open_autoencoder(model, load, hub);
  bar.clear();
  ContextOptions options;
  options.device = load.device;
  options.threads = o.threads;
  options.cancel = interrupt.token();
  Context ctx(options);

  if (!o.output.empty() && parse_output(o.output, false).kind == OutputKind::folder) create_directories(o.output);
  Json json = Json::array();
  double sum = 0;
  for (Job& job : jobs) {
    interrupt.throw_if_cancelled();
    const PngText text{{"Software", std::string("raedit ") + kVersion},
                       {"Model", as_utf8(model.name)},
                       {"Source", as_utf8(fs::path(job.input).filename().string())},
                       {"DType", dtype_text(o.dtype, o.quantize)}};
    const double decibels = reconstruct(ctx, vae, job, text);
    sum += decibels;
    json.push_back({{"input", job.input}, {"output", job.output}, {"psnr_db", decibels}});
    if (!o.json) fmt::print("{}  PSNR {:.2f} dB  -> {}\n", job.input, decibels, job.output);
  }
  if (o.json)
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
  else if (jobs.size() > 1)
    fmt::print("mean PSNR {:.2f} dB over {} images\n", sum / static_cast<double>(jobs.size()), jobs.size());
  return kExitOk;
}

}  // namespace

Command add_reconstruct(CLI::App& program) {
  auto options = std::make_shared<ReconstructOptions>();
  CLI::App* app = program.add_subcommand("reconstruct", "Encode and decode pictures, and print the PSNR");
  app->add_option("IMAGE", options->images, "PNG, JPEG or WebP files of any size")->required()->type_name("");
  add_model_options(*app, options->model,
                    "a pipeline or an autoencoder, a folder or org/name (default: as for generate)");
  app->add_option("--output", options->output, "a .png, or a folder (default: NAME_reconstructed.png beside NAME.png)")
      ->type_name("PATH");
  add_dtype_option(*app, *options);
  add_quantize_options(*app, options->quantize);
  add_device_option(*app, *options);
  add_threads_option(*app, *options);
  add_packed_cache_option(*app, *options);
  add_switch(*app, "--json", options->json, "print a JSON array");
  app->footer(kFooter);
  return {app, [options] { return run_reconstruct(*options); }};
}

}  // namespace raedit::cli
