// raedit stats: mean and standard deviation of an autoencoder's latents over a picture set.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>

#include "command.h"
#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "data/picture_set.h"
#include "interrupt.h"
#include "io/files.h"
#include "io/npy.h"
#include "io/torch_write.h"
#include "loading_options.h"
#include "model_path.h"
#include "output.h"
#include "progress_bar.h"
#include "train/latent_statistics.h"
#include "train/replaced_statistics.h"
#include "transfer.h"
#include "values.h"

namespace raedit::cli {
namespace fs = std::filesystem;
namespace {

const char* const kFooter =
    "The statistics are those of the encoder's own output, whatever latents_mean, latents_std and scaling_factor the\n"
    "autoencoder has: exact, in float64, the variance that of the population. --flip counts every mirror image, too.\n"
    "FILE holds mean and var; 'raedit convert rae --stats_checkpoint FILE' reads .safetensors and .pt.\n"
    "\n"
    "Examples:\n"
    "  raedit stats --data imagenet/train --vae dit/vae --flip --output stat.pt\n"
    "  raedit stats --data flowers/ --vae vae/ --crop center --write-vae vae-flowers/";

struct StatsOptions : LoadingOptions {
  std::string data;
  ModelOptions vae;
  std::optional<int64_t> resolution;
  std::string crop = "adm";
  bool flip = false, skip_broken = false, json = false;
  int64_t batch_size = 16;
  int workers = 4;
  std::string per = "element";
  std::string output, new_vae;
  std::string latents_std = "diffusers";
};

constexpr std::array<std::string_view, 4> kEndings = {".npz", ".safetensors", ".json", ".pt"};

void check(const StatsOptions& o) {
  if (!o.output.empty()) {
    RAEDIT_CHECK(std::ranges::find(kEndings, fs::path(o.output).extension().string()) != kEndings.end(),
                 {.code = ErrorCode::invalid_argument,
                  .what = "statistics cannot be written in this format",
                  .where = "--output",
                  .found = o.output,
                  .expected = ".npz, .safetensors, .json or .pt"});
    check_file_writable(o.output);
  }
  if (o.new_vae.empty()) return;
  train::require_new_folder(o.new_vae);
  check_writable({OutputKind::folder, o.new_vae});
}

std::string vae_folder(const StatsOptions& o, const HubOptions& hub) {
  const FoundModel model = find_model(o.vae, ModelPart::autoencoder, hub);
  RAEDIT_CHECK(!model.upstream, {.code = ErrorCode::unsupported,
                                 .what = "this is an upstream model",
                                 .where = model.path,
                                 .expected = "an autoencoder in the diffusers layout",
                                 .hint = "convert it first: raedit convert rae --help"});
  std::error_code error;
  const fs::path inner = fs::path(model.path) / "vae";
  return fs::is_directory(inner, error) ? inner.string() : model.path;
}

struct Statistics {
  int64_t pictures = 0, count = 0;
  Tensor mean, var;  // float64
  std::vector<std::string> skipped;
};

Statistics measure(const StatsOptions& o, const std::string& folder, const Interrupt& interrupt, ProgressBar& bar) {
  const std::shared_ptr<const data::PictureSet> set = data::open_picture_set(o.data);
  const LoadOptions load = load_options(o);
  const AutoencoderRAE vae = train::open_raw_autoencoder(folder, load);
  Context ctx({.device = load.device, .threads = o.threads, .progress = {}, .cancel = interrupt.token()});
  data::PictureTransform transform;
  transform.resolution = o.resolution.value_or(vae.config().output_size());
  transform.crop = data::crop_from_name(o.crop);
  train::EncodedPictures::Options encoding;
  encoding.batch_size = o.batch_size;
  encoding.flips = o.flip;
  encoding.loader.workers = o.workers;
  encoding.loader.skip_broken = o.skip_broken;
  encoding.cancel = interrupt.token();
  Statistics result;
  result.pictures = set->size();
  bar.begin("encode", result.pictures);
  train::RunningMoments moments =
      train::measure_latents(ctx, vae, set, transform, encoding, [&](int64_t done, int64_t, const std::string& note) {
        if (note.empty()) return bar.step(done);
        bar.say(note);
        result.skipped.push_back(note);
      });
  bar.clear();
  if (o.per == "channel") moments = moments.over_all_but(vae.config().reshape_to_2d ? 0 : 1);
  result.count = moments.count();
  result.mean = moments.mean();
  result.var = moments.variance();
  return result;
}

void write_statistics(const std::string& path, const Statistics& s) {
  const std::string ending = fs::path(path).extension().string();
  if (ending == ".npz")
    write_npz(path,
              {{"mean", s.mean}, {"var", s.var}, {"count", Tensor::from(std::vector<int64_t>{s.count}, Shape{})}});
  if (ending == ".safetensors")
    write_safetensors(path, NamedTensors{{"mean", s.mean}, {"var", s.var}}, {{"count", fmt::to_string(s.count)}});
  if (ending == ".pt")  // as upstream's, whose code computes in the type that it finds
    write_torch(
        path, {TensorSource::of("mean", s.mean.to(DType::float32)), TensorSource::of("var", s.var.to(DType::float32))});
  if (ending == ".json") {
    const Json json{{"count", s.count}, {"mean", train::nested_list(s.mean)}, {"var", train::nested_list(s.var)}};
    write_file(path, json.dump() + "\n");
  }
}

struct Summary {
  double least = 0, mean = 0, most = 0;
};

Summary summary_of(const std::vector<double>& values) {
  const auto [least, most] = std::ranges::minmax_element(values);
  double sum = 0;
  for (const double x : values) sum += x;
  return {*least, sum / static_cast<double>(values.size()), *most};
}

void print_result(const StatsOptions& o, const Statistics& s) {
  std::vector<double> roots;
  for (const double x : s.var.to_vector<double>()) roots.push_back(std::sqrt(x));
  const Summary mean = summary_of(s.mean.to_vector<double>()), std = summary_of(roots);
  if (o.json) {
    const auto object = [](const Summary& x) { return Json{{"min", x.least}, {"mean", x.mean}, {"max", x.most}}; };
    Json json{{"pictures", s.pictures},
              {"count", s.count},
              {"shape", std::vector<int64_t>(s.mean.shape().begin(), s.mean.shape().end())},
              {"mean", object(mean)},
              {"std", object(std)},
              {"skipped", s.skipped}};
    if (!o.output.empty()) json["output"] = o.output;
    if (!o.new_vae.empty()) json["vae"] = o.new_vae;
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
    return;
  }
  fmt::print("{} pictures{}, statistics {}, {} latents each\n", s.pictures, o.flip ? " and their mirror images" : "",
             s.mean.shape().str(), s.count);
  fmt::print("mean  min {:.5g}  mean {:.5g}  max {:.5g}\n", mean.least, mean.mean, mean.most);
  fmt::print("std   min {:.5g}  mean {:.5g}  max {:.5g}\n", std.least, std.mean, std.most);
  for (const std::string& path : {o.output, o.new_vae})
    if (!path.empty()) fmt::print("-> {}\n", path);
}

int run_stats(const StatsOptions& o) {
  check(o);
  const Interrupt interrupt;
  ProgressBar bar(ProgressBar::style_of_stderr(o.json));
  Transfer transfer(bar, interrupt);
  HubOptions hub = hub_options(o.vae);
  hub.progress = transfer.downloads();
  const std::string folder = vae_folder(o, hub);
  const Statistics statistics = measure(o, folder, interrupt, bar);
  if (!o.output.empty()) write_statistics(o.output, statistics);
  if (!o.new_vae.empty()) {
    const LatentsStd convention = o.latents_std == "upstream" ? LatentsStd::upstream : LatentsStd::diffusers;
    train::save_with_statistics(folder, o.new_vae, statistics.mean, train::latents_std_of(statistics.var, convention));
  }
  print_result(o, statistics);
  return kExitOk;
}

void add_picture_options(CLI::App& app, StatsOptions& o) {
  app.add_option("--data", o.data, "a folder of class folders, a .tar, a folder of .tar files or DIR/x-{000..127}.tar")
      ->required()
      ->type_name("PATH");
  app.add_option("--resolution", o.resolution,
                 "side of the cut pictures (default: what the autoencoder gives, as in training)")
      ->type_name("N")
      ->check(whole_number(1, 32768));
  app.add_option("--crop", o.crop, "center, or upstream's adm (default adm)")
      ->type_name("WHICH")
      ->check(one_of({"center", "adm"}));
  add_switch(app, "--flip", o.flip, "count mirror images, too");
  add_switch(app, "--skip-broken", o.skip_broken, "another picture stands in for one that cannot be read");
  app.add_option("--workers", o.workers, "threads that decode pictures (default 4)")
      ->type_name("N")
      ->check(whole_number(0, 1024));
}

void add_work_options(CLI::App& app, StatsOptions& o) {
  app.add_option("--batch-size", o.batch_size, "pictures at a time (default 16)")
      ->type_name("N")
      ->check(whole_number(1, 65536));
  add_dtype_option(app, o);
  add_device_option(app, o);
  add_threads_option(app, o);
}

}  // namespace

Command add_stats(CLI::App& program) {
  auto options = std::make_shared<StatsOptions>();
  CLI::App* app = program.add_subcommand("stats", "Measure mean and deviation of latents over a picture set");
  app->add_option("--vae", options->vae.model, "an autoencoder or a pipeline, a folder or org/name[@revision]")
      ->required()
      ->type_name("DIR|NAME");
  add_hub_options(*app, options->vae);
  add_picture_options(*app, *options);
  add_work_options(*app, *options);
  app->add_option("--per", options->per, "statistics of each element or each channel (default element)")
      ->type_name("WHICH")
      ->check(one_of({"channel", "element"}));
  app->add_option("--output", options->output, "a .npz, .safetensors, .json or .pt")->type_name("FILE");
  app->add_option("--write-vae", options->new_vae, "new folder for the autoencoder with these statistics")
      ->type_name("DIR");
  app->add_option("--latents-std", options->latents_std,
                  "of --write-vae: diffusers or upstream, as for convert (default diffusers)")
      ->type_name("WHICH")
      ->check(one_of({"diffusers", "upstream"}));
  add_switch(*app, "--json", options->json, "print a JSON object");
  app->footer(kFooter);
  return {app, [options] { return run_stats(*options); }};
}

}  // namespace raedit::cli
