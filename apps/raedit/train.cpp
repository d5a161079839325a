// raedit train: from pictures and an autoencoder to a diffusion transformer.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "command.h"
#include "core/check.h"
#include "dist/communicator.h"
#include "interrupt.h"
#include "measure.h"
#include "model_path.h"
#include "print_stderr.h"
#include "raedit/convert.h"
#include "raedit/hub.h"
#include "train/stage2_config.h"
#include "train/stage2_trainer.h"
#include "train_options.h"
#include "train_progress.h"
#include "transfer.h"
#include "version.h"

namespace raedit::cli {
namespace {

const char* const kFooter =
    "Examples:\n"
    "  raedit train stage2 --train-data-dir pictures/ --pretrained-rae-model-name-or-path vae/ --output-dir run\n"
    "\n"
    "'raedit train stage2 --help' explains every option.";

const char* const kStage2Footer =
    "Every option may be spelled with underscores too, as the trainer of diffusers' examples does.\n"
    "\n"
    "Below --output-dir: checkpoint-N/, validation/, logs/, metrics.jsonl; and in the end a pipeline "
    "(model_index.json,\n"
    "transformer/, scheduler/, vae/) that 'raedit generate --model' runs. Ctrl-C saves a checkpoint first.\n"
    "\n"
    "Examples:\n"
    "  raedit train stage2 --train-data-dir pictures/ --pretrained-rae-model-name-or-path vae/ --center-crop \\\n"
    "      --cache-latents latents/ --mixed-precision bf16 --ema-decay 0.999 --output-dir run\n"
    "  raedit train stage2 --config run.yaml --resume latest\n"
    "  raedit train stage2 --config DiTDH-S_DINOv2-B.yaml --train-data-dir imagenet/train \\\n"
    "      --pretrained-rae-model-name-or-path vae/ --dry-run\n"
    "  mpirun -n 4 raedit train stage2 --config run.yaml --zero1";

// Set in ranks whose failure another one tells.
constexpr int kNotOurs = -1;

// Runs `work` on every rank, and knows afterwards, on all of them, whether it failed on any: then the first rank's
// failure is thrown there, and another's ends the run with its number. The exit code of ranks that have nothing to
// tell; kExitOk where all went well.
int on_all(dist::Communicator& ranks, const std::function<void()>& work) {
  std::optional<Error> failure;
  try {
    work();
  } catch (const Error& error) {
    failure = error;
  }
  const bool first_failed = ranks.any(failure.has_value() && ranks.is_first());
  const bool any_failed = ranks.any(failure.has_value());
  if (!any_failed) return kExitOk;
  if (first_failed && !ranks.is_first()) return kNotOurs;
  if (failure) throw Error(*failure);
  return kNotOurs;
}

HubOptions progressing_hub(const TrainOptions& options, Transfer& transfer) {
  HubOptions hub = hub_options(options.hub);
  hub.progress = transfer.downloads();
  return hub;
}

// A name's files are fetched; a folder stays as it is.
std::string local_folder(const std::string& path, const char* flag, const char* command, ModelPart part,
                         const HubOptions& hub) {
  if (path.empty()) return path;
  FoundModel found;
  if (is_model_name(path))
    found = resolve_model(path, "", part, hub);
  else
    found = {path, is_upstream_folder(path), "", ""};
  RAEDIT_CHECK(!found.upstream, {.code = ErrorCode::invalid_argument,
                                 .what = "upstream's files have to be converted once",
                                 .where = flag,
                                 .found = path,
                                 .hint = fmt::format("'{} --help' says how", command)});
  return found.path;
}

// The first rank looks and fetches; where the files are is then known to all.
int find_models(train::Stage2Options& o, const TrainOptions& given, dist::Communicator& ranks, ProgressBar& bar,
                const Interrupt& interrupt) {
  const int code = on_all(ranks, [&] {
    if (!ranks.is_first()) return;
    Transfer transfer(bar, interrupt);
    const HubOptions hub = progressing_hub(given, transfer);
    o.pretrained_rae_model_name_or_path =
        local_folder(o.pretrained_rae_model_name_or_path, "--pretrained-rae-model-name-or-path", "raedit convert rae",
                     ModelPart::autoencoder, hub);
    o.pretrained_transformer_model_name_or_path =
        local_folder(o.pretrained_transformer_model_name_or_path, "--pretrained-transformer-model-name-or-path",
                     "raedit convert stage2", ModelPart::pipeline, hub);
  });
  if (code != kExitOk) return code;
  o.pretrained_rae_model_name_or_path = ranks.broadcast(o.pretrained_rae_model_name_or_path, 0);
  o.pretrained_transformer_model_name_or_path = ranks.broadcast(o.pretrained_transformer_model_name_or_path, 0);
  return kExitOk;
}

Json to_json(const train::Stage2Options& options, const train::TrainingResult& result, int ranks, double seconds) {
  return {{"command", "train stage2"},
          {"version", kVersion},
          {"output_dir", options.output_dir},
          {"steps", result.steps},
          {"interrupted", result.interrupted},
          {"bad_steps", result.bad_steps},
          {"broken_pictures", result.broken_pictures},
          {"checkpoint", result.checkpoint},
          {"ranks", ranks},
          {"seconds", seconds},
          {"peak_memory_bytes", peak_memory_bytes()},
          {"options", train::options_json(options)}};
}

// Even where --quiet was said: how to go on is no progress.
void tell_interruption(const train::TrainingResult& result) {
  const std::string name = std::filesystem::path(result.checkpoint).filename().string();
  print_stderr(result.checkpoint.empty()
                   ? "raedit: interrupted before there was anything to save\n"
                   : fmt::format("raedit: interrupted; saved {}; continue with --resume latest\n", name));
}

int finish(const TrainOptions& given, const train::Stage2Options& options, const train::TrainingResult& result,
           const dist::Communicator& ranks, TrainProgress& progress, double seconds) {
  const int exit_code = result.interrupted ? 128 + Interrupt::signal_number() : kExitOk;
  if (!ranks.is_first()) return exit_code;
  progress.clear();
  if (result.interrupted)
    tell_interruption(result);
  else
    progress.note(
        fmt::format("trained {} steps in {} -> {}", result.steps, human_seconds(seconds), options.output_dir));
  if (given.json)
    fmt::print("{}\n",
               to_json(options, result, ranks.size(), seconds).dump(2, ' ', false, Json::error_handler_t::replace));
  return exit_code;
}

int train_on(dist::Communicator& ranks, const TrainOptions& given, const std::vector<std::string>& names) {
  const Stopwatch watch;
  TrainRequest request;
  int code = on_all(ranks, [&] {
    request = make_train_request(given, names);
    train::share_out_batch(request.options, ranks.size());
  });
  if (code != kExitOk) return code;

  train::Stage2Options& options = request.options;
  const auto style = ProgressBar::style_of_stderr(given.quiet || !ranks.is_first());
  const Interrupt interrupt;
  ProgressBar downloads(style);
  TrainProgress progress(style);
  for (const std::string& note : request.notes) progress.note("note: " + note);
  code = find_models(options, given, ranks, downloads, interrupt);
  if (code != kExitOk) return code;
  if (options.dry_run) {
    if (!ranks.is_first()) return kExitOk;
    std::string plan = train::describe_stage2_plan(options, ranks.size());
    if (!plan.ends_with('\n')) plan += '\n';
    fmt::print("{}", plan);
    return kExitOk;
  }
  const train::TrainingResult result = train::train_stage2(options, ranks, progress, interrupt.token());
  return finish(given, options, result, ranks, progress, watch.seconds());
}

int end_all(dist::Communicator& ranks, std::string message, int exit_code) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  print_stderr(fmt::format("raedit: error: rank {}: {}\n", ranks.rank(), message));
  ranks.end_all(exit_code);
  return exit_code;
}

// A failure of one rank must not leave the others waiting for it.
int run_train(const TrainOptions& given, const std::vector<std::string>& names) {
  const std::unique_ptr<dist::Communicator> ranks = dist::open_communicator();
  if (ranks->size() == 1) return train_on(*ranks, given, names);
  try {
    const int code = train_on(*ranks, given, names);
    return code == kNotOurs ? kExitFailure : code;
  } catch (const Error& error) {
    int code = error.code() == ErrorCode::invalid_argument ? kExitUsage : kExitFailure;
    if (error.code() == ErrorCode::cancelled) code = 128 + Interrupt::signal_number();
    return end_all(*ranks, error.what(), code);
  } catch (const std::exception& error) {
    return end_all(*ranks, error.what(), kExitFailure);
  }
}

Command add_stage2(CLI::App& train) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* app = train.add_subcommand("stage2", "A diffusion transformer, on latents of an autoencoder");
  add_train_options(*app, *options);
  app->footer(kStage2Footer);
  return {app, [app, options] { return run_train(*options, given_train_options(*app)); }};
}

}  // namespace

Command add_train(CLI::App& program) {
  CLI::App* app = program.add_subcommand("train", "Train a model");
  app->require_subcommand(0, 1);
  app->footer(kFooter);
  const Command stage2 = add_stage2(*app);
  return {app, [app, stage2] {
            if (stage2.app->parsed()) return stage2.run();
            print_stderr(app->get_formatter()->make_help(app, "raedit train", CLI::AppFormatMode::Normal));
            return kExitUsage;
          }};
}

}  // namespace raedit::cli
