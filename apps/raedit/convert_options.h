// The options of `raedit convert`: those of the scripts that it replaces, under their names, and our own.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "raedit/convert.h"

namespace raedit::cli {

// What the four have in common.
struct ConvertCommonOptions {
  std::string output_path;
  std::string dtype = "float32";
  std::string max_shard_bytes = "10GB";
  std::string latents_std = "diffusers";
  std::string cache_dir;
  bool offline = false;
  bool dry_run = false;
  bool verify = false;
  bool safe_serialization = false;  // nothing else is written
  bool json = false;
  bool quiet = false;
};

void add_common_options(CLI::App& app, ConvertCommonOptions& options);
void add_stage2_options(CLI::App& app, ConvertStage2Options& options, ConvertCommonOptions& common);
void add_rae_options(CLI::App& app, ConvertRaeOptions& options, ConvertCommonOptions& common);
void add_pipeline_options(CLI::App& app, ConvertPipelineOptions& options, ConvertCommonOptions& common);
void add_export_options(CLI::App& app, ConvertExportOptions& options);

// Without progress.
ConvertOutput convert_output(const ConvertCommonOptions& options);
LatentsStd latents_std(const ConvertCommonOptions& options);

}  // namespace raedit::cli
