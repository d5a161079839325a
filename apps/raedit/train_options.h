// The options of `raedit train stage2`: flags, a config file, upstream's YAML.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "model_path.h"
#include "train/stage2_options.h"

namespace raedit::cli {

struct TrainOptions {
  train::Stage2Options stage2;  // of the command line alone
  ModelOptions hub;             // --cache-dir and --offline
  std::string config;
  bool allow_tf32 = false;
  bool json = false;
  bool quiet = false;
};

void add_train_options(CLI::App& app, TrainOptions& options);
// Names, as train::named_options() has them, of what was on the command line.
std::vector<std::string> given_train_options(const CLI::App& app);

struct TrainRequest {
  train::Stage2Options options;  // checked
  std::vector<std::string> notes;
};

// What the config file says, and then the command line. Throws Error.
TrainRequest make_train_request(const TrainOptions& options, const std::vector<std::string>& given);

}  // namespace raedit::cli
