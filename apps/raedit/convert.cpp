// raedit convert: upstream's checkpoints to the diffusers layout, and back. The work is the library's (convert.h).
#include "raedit/convert.h"

#include <fmt/format.h>

#include <functional>
#include <memory>
#include <utility>

#include "command.h"
#include "convert_options.h"
#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "interrupt.h"
#include "measure.h"
#include "model_path.h"
#include "output.h"
#include "print_stderr.h"
#include "progress_bar.h"
#include "transfer.h"
#include "values.h"
#include "version.h"

namespace raedit::cli {
namespace {

const char* const kFooter =
    "What was read and written, and what to know about it, goes to stderr; --json and --dry_run print on stdout.\n"
    "Options may be spelled with dashes too: --repo-or-path.\n"
    "\n"
    "Examples:\n"
    "  raedit convert pipeline --repo_or_path RAE/ --output_path dit-dh-xl/\n"
    "  raedit convert stage2 --repo_or_path RAE/ --config_path sampling.yaml --output_path stage2/\n"
    "  raedit convert rae --repo_or_path RAE/ --encoder_type dinov2 --output_path rae-dinov2/\n"
    "  raedit convert export --model dit-dh-xl/ --output_path upstream/\n"
    "\n"
    "'raedit convert COMMAND --help' explains one of them.";

const char* const kStage2Footer =
    "The options are those of convert_rae_stage2_to_diffusers.py, and some more; dashes work as well as\n"
    "underscores. A guidance model that the YAML names becomes guide_transformer/.\n"
    "\n"
    "Examples:\n"
    "  raedit convert stage2 --repo_or_path RAE/ --config_path configs/sampling.yaml --output_path out/\n"
    "  raedit convert stage2 --repo_or_path RAE/ --config_path sampling.yaml --checkpoint_path ep-0080.pt \\\n"
    "      --vae_model_name_or_path rae-dinov2/ --dtype bfloat16 --verify --output_path pipeline/\n"
    "  raedit convert stage2 --repo_or_path org/name --config_path sampling.yaml --dry_run --output_path out/";

const char* const kRaeFooter =
    "The options are those of convert_rae_to_diffusers.py, and some more; dashes work as well as underscores.\n"
    "Without --decoder_checkpoint and --stats_checkpoint, they are looked for where the published collection has\n"
    "them: decoders/ENCODER/VARIANT/ and stats/ENCODER/DATASET/.\n"
    "\n"
    "Examples:\n"
    "  raedit convert rae --repo_or_path RAE-collections/ --encoder_type dinov2 --output_path rae-dinov2/\n"
    "  raedit convert rae --repo_or_path my-rae/ --encoder_type mae --encoder_name_or_path vit-mae-base/ \\\n"
    "      --decoder_checkpoint model.pt --stats_checkpoint stat.pt --output_path rae-mae/";

const char* const kPipelineFooter =
    "Stage 1 and stage 2 of one YAML at once. 'raedit generate --model' and diffusers open the result.\n"
    "'raedit generate --model DIR' also runs such a folder as it is.\n"
    "\n"
    "Examples:\n"
    "  raedit convert pipeline --repo_or_path RAE/ --output_path dit-dh-xl/\n"
    "  raedit convert pipeline --repo_or_path RAE/ --config_path configs/sampling.yaml --dtype bfloat16 \\\n"
    "      --encoder_name_or_path dinov2-with-registers-base/ --verify --output_path dit-dh-xl/";

const char* const kExportFooter =
    "Writes the .pt files and the YAML that upstream's code loads.\n"
    "\n"
    "Examples:\n"
    "  raedit convert export --model dit-dh-xl/ --output_path upstream/\n"
    "  raedit convert export --model dit-dh-xl/transformer --dtype bfloat16 --output_path upstream/";

using Convert = std::function<ConvertReport(const ConvertOutput&)>;

// One of the four, parsed.
struct Job {
  std::string name, source;
  const ConvertCommonOptions& options;
  Convert convert;
};

Json metadata_of(const ConvertReport& report) {
  return report.metadata.empty() ? Json::object() : parse_json(report.metadata, "conversion_metadata.json");
}

void say_report(const Job& job, const ConvertReport& report, double seconds, ProgressBar& bar) {
  const Json metadata = metadata_of(report);
  if (metadata.contains("source") && metadata["source"].contains("config_path"))
    bar.say("config " + metadata["source"]["config_path"].get<std::string>());
  for (const std::string& source : report.sources) bar.say("read " + source);
  if (metadata.contains("scheduler") && metadata["scheduler"].contains("shift"))
    bar.say("scheduler shift " + metadata["scheduler"]["shift"].dump());
  for (const std::string& folder : report.written) bar.say((job.options.dry_run ? "would write " : "wrote ") + folder);
  for (const std::string& note : report.notes) bar.say("note: " + note);
  bar.say(fmt::format("{} tensors, {} of {} in {}{}", report.num_tensors, human_bytes(report.bytes), job.options.dtype,
                      human_seconds(seconds),
                      job.options.dry_run  ? ", nothing written"
                      : job.options.verify ? ", verified"
                                           : ""));
}

Json to_json(const Job& job, const ConvertReport& report, double seconds) {
  const ConvertCommonOptions& o = job.options;
  return {{"command", "convert " + job.name},
          {"version", kVersion},
          {"source", job.source},
          {"output_path", o.output_path},
          {"dtype", o.dtype},
          {"dry_run", o.dry_run},
          {"verified", o.verify && !o.dry_run},
          {"sources", report.sources},
          {"written", report.written},
          {"notes", report.notes},
          {"tensors", report.num_tensors},
          {"bytes", report.bytes},
          {"metadata", metadata_of(report)},
          {"seconds", seconds},
          {"peak_memory_bytes", peak_memory_bytes()}};
}

int run_convert(const Job& job) {
  const Stopwatch watch;
  const ConvertCommonOptions& o = job.options;
  ConvertOutput output = convert_output(o);
  if (!o.dry_run) check_writable({OutputKind::folder, o.output_path});

  ProgressBar bar(ProgressBar::style_of_stderr(o.quiet));
  const Interrupt interrupt;
  Transfer transfer(bar, interrupt);
  output.progress = [&](const std::string& what, uint64_t done, uint64_t total) {
    return transfer.step(what, done, total);
  };
  output.hub.progress = transfer.downloads();
  bar.say(fmt::format("convert {} -> {}", job.source, o.output_path));
  const ConvertReport report = job.convert(output);
  const double seconds = watch.seconds();
  say_report(job, report, seconds, bar);
  if (o.json)
    fmt::print("{}\n", to_json(job, report, seconds).dump(2, ' ', false, Json::error_handler_t::replace));
  else if (o.dry_run)
    fmt::print("{}\n", metadata_of(report).dump(2, ' ', false, Json::error_handler_t::replace));
  return kExitOk;
}

Command add_stage2(CLI::App& convert) {
  auto options = std::make_shared<std::pair<ConvertStage2Options, ConvertCommonOptions>>();
  CLI::App* app = convert.add_subcommand("stage2", "A diffusion transformer: weights, scheduler, guidance model");
  add_stage2_options(*app, options->first, options->second);
  add_common_options(*app, options->second);
  app->footer(kStage2Footer);
  return {app, [options] {
            return run_convert({"stage2", options->first.repo_or_path, options->second,
                                [&](const ConvertOutput& output) { return convert_stage2(options->first, output); }});
          }};
}

Command add_rae(CLI::App& convert) {
  auto options = std::make_shared<std::pair<ConvertRaeOptions, ConvertCommonOptions>>();
  CLI::App* app = convert.add_subcommand("rae", "An autoencoder: encoder, decoder, statistics");
  add_rae_options(*app, options->first, options->second);
  add_common_options(*app, options->second);
  app->footer(kRaeFooter);
  return {app, [options] {
            options->first.latents_std = latents_std(options->second);
            return run_convert({"rae", options->first.repo_or_path, options->second,
                                [&](const ConvertOutput& output) { return convert_rae(options->first, output); }});
          }};
}

Command add_pipeline(CLI::App& convert) {
  auto options = std::make_shared<std::pair<ConvertPipelineOptions, ConvertCommonOptions>>();
  CLI::App* app = convert.add_subcommand("pipeline", "Both, and names of the classes: a folder to generate with");
  add_pipeline_options(*app, options->first, options->second);
  add_common_options(*app, options->second);
  app->footer(kPipelineFooter);
  return {app, [options] {
            options->first.latents_std = latents_std(options->second);
            return run_convert({"pipeline", options->first.repo_or_path, options->second,
                                [&](const ConvertOutput& output) { return convert_pipeline(options->first, output); }});
          }};
}

Command add_export(CLI::App& convert) {
  auto options = std::make_shared<std::pair<ConvertExportOptions, ConvertCommonOptions>>();
  CLI::App* app = convert.add_subcommand("export", "Back: from the diffusers layout to upstream's files");
  add_export_options(*app, options->first);
  add_common_options(*app, options->second);
  app->footer(kExportFooter);
  return {app, [options] {
            return run_convert({"export", options->first.model, options->second, [&](const ConvertOutput& output) {
                                  ConvertExportOptions local = options->first;
                                  if (is_model_name(local.model))
                                    local.model = resolve_model(local.model, "", ModelPart::pipeline, output.hub).path;
                                  return convert_export(local, output);
                                }});
          }};
}

}  // namespace

Command add_convert(CLI::App& program) {
  CLI::App* app = program.add_subcommand("convert", "Convert checkpoints of upstream's code, and back");
  app->require_subcommand(0, 1);
  app->footer(kFooter);
  const std::vector<Command> kinds{add_stage2(*app), add_rae(*app), add_pipeline(*app), add_export(*app)};
  return {app, [app, kinds] {
            for (const Command& kind : kinds)
              if (kind.app->parsed()) return kind.run();
            print_stderr(app->get_formatter()->make_help(app, "raedit convert", CLI::AppFormatMode::Normal));
            return kExitUsage;
          }};
}

}  // namespace raedit::cli
