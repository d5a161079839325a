// Where the model is: a folder in the diffusers layout, a folder of upstream's, or a name to look up.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "raedit/hub.h"

namespace raedit::cli {

inline constexpr const char* kModelOptionHelp =
    "folder of a pipeline in the diffusers layout, an upstream folder or its YAML, or org/name[@revision]\n(default: "
    "RAEDIT_MODEL_PATH, or else the bundled emoji64)";

// --model and what goes with it.
struct ModelOptions {
  std::string model;
  std::string config;  // --config: which YAML of an upstream folder
  std::string cache_dir;
  bool offline = false;
};

void add_model_options(CLI::App& app, ModelOptions& options, const char* help = kModelOptionHelp);
// --cache-dir and --offline alone.
void add_hub_options(CLI::App& app, ModelOptions& options);
// Without progress.
HubOptions hub_options(const ModelOptions& options);

// What of a model is needed; only that is downloaded.
enum class ModelPart { pipeline, transformer, autoencoder, labels };

struct FoundModel {
  std::string path;  // a folder; or the name of an upstream repository
  bool upstream = false;
  std::string config;  // of an upstream one: its YAML
  std::string name;    // as people call it: the last part of the path or of the repository's name
};

// The folder, file or name that --model names; or else RAEDIT_MODEL_PATH, itself a model, a name, or a folder that has
// emoji64; or else the bundled model, beside the installed program or in the source tree. A name's files come from the
// cache or are downloaded. Throws Error(not_found) naming every place that was tried. What the user named is never
// passed over.
FoundModel find_model(const ModelOptions& options, ModelPart part, const HubOptions& hub);

// Where the files are of a model whose name it is; a path as it is.
FoundModel resolve_model(const std::string& path_or_name, const std::string& config, ModelPart part,
                         const HubOptions& hub);

}  // namespace raedit::cli
