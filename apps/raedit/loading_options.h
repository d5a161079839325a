// --dtype, --quantize, --device, --threads and --packed-cache: how a model is loaded, which several commands let
// choose.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "quantize_options.h"
#include "raedit/pretrained.h"

namespace raedit::cli {

// What a command does not offer keeps its default.
struct LoadingOptions {
  std::string dtype = "float32";
  QuantizeOptions quantize;
  std::string device = "cpu";
  int threads = 0;
  std::string packed_cache;
};

void add_dtype_option(CLI::App& app, LoadingOptions& options);
void add_device_option(CLI::App& app, LoadingOptions& options);
void add_threads_option(CLI::App& app, LoadingOptions& options);
void add_packed_cache_option(CLI::App& app, LoadingOptions& options);

// Notes go to stderr as they come, unless the command wants them otherwise.
LoadOptions load_options(const LoadingOptions& options);

}  // namespace raedit::cli
