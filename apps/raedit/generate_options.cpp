#include "generate_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "core/check.h"
#include "core/text.h"
#include "values.h"

namespace raedit::cli {
namespace {

constexpr int64_t kMostSteps = int64_t{1} << 24;

// Nothing where it is neither a number nor a list of several.
std::optional<EncoderReuse> parse_encoder_reuse(const std::string& text) {
  EncoderReuse reuse;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    const auto step = number_of<int64_t>(std::string_view(text).substr(begin, comma - begin));
    if (!step || *step < 0) return std::nullopt;
    reuse.steps.push_back(*step);
    begin = comma + 1;
  }
  if (reuse.steps.size() > 1) return reuse;
  reuse.every = reuse.steps.front();
  reuse.steps.clear();
  return reuse;
}

CLI::Validator encoder_schedule() {
  return CLI::Validator(
      [](const std::string& text) {
        const auto reuse = parse_encoder_reuse(text);
        if (reuse && reuse->every >= 1) return std::string();
        return fmt::format("must be a number from 1 on, or a list of steps such as 0,1,2,5 (found '{}')", text);
      },
      "");
}

void add_what(CLI::App& app, GenerateOptions& o) {
  add_model_options(app, o.model);
  app.add_option("--label", o.labels, "class to draw, by name, as often as you like ('raedit labels' lists them)")
      ->type_name("NAME")
      ->allow_extra_args(false);
  app.add_option("--class-id", o.class_ids, "class to draw, by number, as often as you like")
      ->type_name("N")
      ->allow_extra_args(false)
      ->check(whole_number(0));
  app.add_option("--count", o.count, "pictures of each class (default 1)")
      ->type_name("N")
      ->check(whole_number(1, kMostPictures));
}

void add_sampling(CLI::App& app, GenerateOptions& o) {
  add_guided_steps(app, o, kMostSteps);
  app.add_option(
         "--encoder-reuse", o.encoder_reuse,
         "compute the encoder stream in every K-th step alone, or in a list of steps\n(0,1,2,5,9; 'raedit reuse' "
         "finds one), and reuse its tokens in the others: faster, for\nother pictures (default 1: compute in "
         "every step)")
      ->type_name("K|LIST")
      ->check(encoder_schedule());
  app.add_option("--seed", o.seed, "picture k is drawn from seed N + k (default 0)")
      ->type_name("N")
      ->check(whole_number(0));
  app.add_option(
         "--rng", o.rng,
         "which of torch's generators: torch-cpu, or torch-cuda:sm=132,threads=2048 for the one\nof a GPU with as "
         "many multiprocessors and threads on each (default torch-cpu)")
      ->type_name("STREAM");
  app.add_option("--latents", o.latents,
                 "noise to start from instead of seeds, in a .safetensors file\n(NAME: which tensor, default latents)")
      ->type_name("FILE[:NAME]");
}

void add_machine(CLI::App& app, GenerateOptions& o) {
  app.add_option("--batch-size", o.batch_size,
                 "pictures at a time; changes memory and speed, never pictures (default 8)")
      ->type_name("N")
      ->check(whole_number(1, 4096));
  add_dtype_option(app, o);
  add_quantize_options(app, o.quantize);
  app.add_option("--guide-calibration", o.guide_calibration,
                 "the same for the guide: what 'raedit calibrate --guide' wrote for it")
      ->type_name("FILE");
  add_device_option(app, o);
  add_threads_option(app, o);
  add_packed_cache_option(app, o);
}

void add_result(CLI::App& app, GenerateOptions& o) {
  app.add_option("--output", o.output,
                 "where to: .png (several pictures make a grid), a folder (one PNG each),\n.npy, .npz or .safetensors "
                 "(default raedit.png; for latents raedit.safetensors)")
      ->type_name("PATH");
  app.add_option("--output-type", o.output_type, "image, or latent: nothing is decoded (default image)")
      ->type_name("TYPE")
      ->check(one_of({"image", "latent"}));
  app.add_option("--grid", o.grid, "columns of the grid in a .png (default: as square as can be)")
      ->type_name("COLUMNS")
      ->check(whole_number(1, kMostPictures));
  add_switch(app, "--json", o.json, "print one JSON object with settings, seconds, speed and peak memory");
  add_switch(app, "--quiet", o.quiet, "no progress on stderr");
}

}  // namespace

void add_guided_steps(CLI::App& app, GenerateOptions& o, int64_t most_steps) {
  app.add_option("--steps", o.steps, "sampling steps (default 50, or an upstream YAML's)")
      ->type_name("N")
      ->check(whole_number(1, most_steps));
  app.add_option("--guidance", o.guidance, "classifier-free guidance scale; 1 is none (default 1, or a YAML's)")
      ->type_name("X")
      ->check(number(1));
  app.add_option(
         "--guide", o.guide,
         "weaker transformer to guide with instead (autoguidance): a folder, or one\ninside the model's, such as "
         "guide_transformer (default: what an upstream YAML says)")
      ->type_name("DIR");
  app.add_option("--guidance-start", o.guidance_start, "guidance acts from this time (default 0, the finished picture)")
      ->type_name("T")
      ->check(number(0, 1));
  app.add_option("--guidance-end", o.guidance_end, "and up to this one (default 1, pure noise)")
      ->type_name("T")
      ->check(number(0, 1));
}

void add_generate_options(CLI::App& app, GenerateOptions& options) {
  add_what(app, options);
  add_sampling(app, options);
  add_machine(app, options);
  add_result(app, options);
}

GivenOptions given_options(const CLI::App& app) {
  const auto given = [&](const char* name) {
    const CLI::Option* option = app.get_option_no_throw(name);
    return option != nullptr && option->count() > 0;
  };
  return {given("--count"),          given("--seed"),         given("--steps"), given("--guidance"),
          given("--guidance-start"), given("--guidance-end"), given("--rng")};
}

EncoderReuse encoder_reuse(const GenerateOptions& o) {
  return parse_encoder_reuse(o.encoder_reuse).value_or(EncoderReuse{});
}

RandomStream random_stream(const GenerateOptions& o) {
  try {
    return RandomStream::from_name(o.rng);
  } catch (const Error& error) {
    ErrorInfo info = error.info();
    info.where = "--rng";
    throw Error(std::move(info));
  }
}

std::string take_defaults(GenerateOptions& o, const UpstreamPipeline& upstream) {
  std::string taken;
  const auto take = [&](bool given, auto& value, auto from, const char* name) {
    if (given) return;
    value = from;
    taken += fmt::format(" {} {}", name, from);
  };
  take(o.given.steps, o.steps, upstream.num_inference_steps, "--steps");
  take(o.given.guidance, o.guidance, upstream.guidance_scale, "--guidance");
  take(o.given.guidance_start, o.guidance_start, upstream.guidance_start, "--guidance-start");
  take(o.given.guidance_end, o.guidance_end, upstream.guidance_end, "--guidance-end");
  return taken.empty() ? "" : upstream.config_path + " says" + taken;
}

void check_generate_options(const GenerateOptions& o) {
  // How many steps there are may be in a YAML that was not read yet; then the pipeline looks at the list.
  encoder_reuse(o).check(o.given.steps ? o.steps : kMostSteps);
  check_quantize_options(o.quantize, o.device);
  RAEDIT_CHECK(o.quantize.on() || o.guide_calibration.empty(),
               {.code = ErrorCode::invalid_argument,
                .what = "--guide-calibration is for --quantize int8 alone",
                .found = o.guide_calibration});
  RAEDIT_CHECK(o.guidance_start <= o.guidance_end,
               {.code = ErrorCode::invalid_argument,
                .what = "the guidance interval is reversed",
                .found = fmt::format("--guidance-start {} and --guidance-end {}", o.guidance_start, o.guidance_end),
                .expected = "start <= end; time runs from 1 (noise) down to 0 (picture)"});
  RAEDIT_CHECK(o.latents.empty() || !o.given.seed, {.code = ErrorCode::invalid_argument,
                                                    .what = "--seed and --latents exclude each other",
                                                    .hint = "both say what noise to start from"});
  RAEDIT_CHECK(o.latents.empty() || !o.given.rng, {.code = ErrorCode::invalid_argument,
                                                   .what = "--rng and --latents exclude each other",
                                                   .hint = "both say what noise to start from"});
  (void)random_stream(o);
}

}  // namespace raedit::cli
