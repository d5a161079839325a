// The text files of an export: upstream's YAML, the decoder's config.json, and the encoder's two.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "convert/model_writer.h"

namespace raedit::convert {

// Where things are in an exported folder; the YAML says the same.
inline constexpr const char* kConfigFile = "config.yaml";
inline constexpr const char* kStage2File = "models/stage2_model.pt";
inline constexpr const char* kGuideFile = "models/guidance_model.pt";
inline constexpr const char* kDecoderFile = "models/decoder.pt";
inline constexpr const char* kStatisticsFile = "models/stat.pt";
inline constexpr const char* kDecoderConfigFolder = "configs/decoder/exported";
inline constexpr const char* kEncoderFolder = "encoder";

struct ExportedModels {
  std::optional<ModelPlan> transformer, guide, vae;
  double shift = 1.0;  // of the scheduler
};

// Path and text. Throws Error(unsupported) for what upstream cannot express: a scaling factor, other patch sizes.
std::vector<std::pair<std::string, std::string>> config_files(const ExportedModels& models);

// The encoder under the names of its Hugging Face checkpoint, with an identity for the affine part of the last norm.
std::shared_ptr<const WeightSet> export_encoder(const ModelPlan& vae);

}  // namespace raedit::convert
