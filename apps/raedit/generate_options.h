// The options of `raedit generate`.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "loading_options.h"
#include "model_path.h"
#include "raedit/convert.h"
#include "raedit/rae_dit_pipeline.h"

namespace raedit::cli {

// Of one request: room for every set that people evaluate on.
inline constexpr int64_t kMostPictures = 1'000'000;

// Which of those that have a default were on the command line.
struct GivenOptions {
  bool count = false, seed = false, steps = false, guidance = false, guidance_start = false, guidance_end = false,
       rng = false;
};

struct GenerateOptions : LoadingOptions {
  ModelOptions model;
  GivenOptions given;
  std::vector<std::string> labels;
  std::vector<int64_t> class_ids;
  int64_t count = 1;
  int64_t steps = 50;
  double guidance = 1.0;
  std::string guide;
  std::string guide_calibration;
  double guidance_start = 0.0;
  double guidance_end = 1.0;
  std::string encoder_reuse = "1";
  int64_t seed = 0;
  std::string rng = "torch-cpu";
  std::string latents;
  int64_t batch_size = 8;
  std::string output;
  std::string output_type = "image";
  int grid = 0;
  bool json = false;
  bool quiet = false;

  bool wants_latents() const { return output_type == "latent"; }
};

void add_generate_options(CLI::App& app, GenerateOptions& options);
// --steps, and all that says how it is guided.
void add_guided_steps(CLI::App& app, GenerateOptions& options, int64_t most_steps);
// Of a command that has some of them.
GivenOptions given_options(const CLI::App& app);
// What upstream's YAML samples with, unless the command line says otherwise. A note on it, or nothing.
std::string take_defaults(GenerateOptions& options, const UpstreamPipeline& upstream);
// --encoder-reuse as the pipeline takes it: "3", or "0,1,2,5,9".
EncoderReuse encoder_reuse(const GenerateOptions& options);
// --rng as the pipeline takes it.
RandomStream random_stream(const GenerateOptions& options);
// What only several options together can get wrong. Throws Error(invalid_argument).
void check_generate_options(const GenerateOptions& options);

}  // namespace raedit::cli
