// A representation encoder in the Hugging Face layout (config.json, preprocessor_config.json, weights), as the encoder
// of an AutoencoderRAE. Source: transformers' models dinov2_with_registers, siglip, vit_mae, and what diffusers'
// autoencoder_rae.py builds of them: everything but width, patch and depth is fixed there, so a config that asks for
// something else is Error(unsupported).
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/weight_set.h"
#include "raedit/hub.h"

namespace raedit::convert {

struct EncoderFacts {
  int64_t hidden_size = 768;
  int64_t patch_size = 14;
  int64_t num_hidden_layers = 12;
  std::array<double, 3> image_mean{}, image_std{};
};

struct HfEncoder {
  std::string name;  // as it was given
  EncoderFacts facts;
  // "encoder.embeddings.cls_token", ...: without the affine part of the last norm, which RAE takes off, and without
  // heads that RAE does not use. Null where the encoder is not at hand and only its facts are known.
  std::shared_ptr<const WeightSet> weights;
  std::vector<std::string> files;  // that were read
};

// The published base model of a type. Throws Error(invalid_argument) for an unknown type.
std::string default_encoder(const std::string& type);
void check_encoder_type(const std::string& type);

// A folder or org/name[@revision].
HfEncoder open_encoder(const std::string& type, const std::string& name_or_path, const HubOptions& hub);

// What config.json and preprocessor_config.json of the published encoders say, for those who have a decoder but not
// the encoder. Nothing for other names.
std::optional<EncoderFacts> published_encoder(const std::string& name);

}  // namespace raedit::convert
