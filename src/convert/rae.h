// Upstream's RAE (a frozen encoder of the Hugging Face layout, a trained decoder, latent statistics) becomes
// AutoencoderRAE: planned in full before anything is written.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "convert/hf_encoder.h"
#include "convert/inputs.h"
#include "convert/model_writer.h"
#include "convert/upstream_config.h"

namespace raedit::convert {

struct DecoderSizes {
  int64_t hidden_size = 0, num_hidden_layers = 0, num_attention_heads = 0, intermediate_size = 0;
};

// ViTB, ViTL, ViTXL, or the path of a config.json as upstream's configs/decoder/*/ have it.
DecoderSizes decoder_sizes(const std::string& name_or_path);

// Everything that an autoencoder is made from, found already.
struct RaeParts {
  std::string encoder_type;
  HfEncoder encoder;
  std::string decoder_file, decoder_key;
  DecoderSizes decoder;
  std::string decoder_where;  // what said so, for messages
  std::optional<std::string> stats_file;
  int64_t encoder_input_size = 224, patch_size = 16, num_channels = 3;
  std::optional<int64_t> image_size;
  double scaling_factor = 1.0;
  bool reshape_to_2d = true;
  bool disable_ema = false;
  LatentsStd latents_std = LatentsStd::diffusers;
};

struct RaePlan {
  ModelPlan vae;
  Json metadata;
  std::vector<std::string> notes;
  std::vector<std::string> checkpoints;
};

// What the script's options name.
RaeParts find_rae_parts(const ConvertRaeOptions& options, const HubOptions& hub);
// What the stage_1 section of a YAML names. An encoder that is not at hand is left out when `encoder_optional`, and a
// note says what was taken for its facts.
RaeParts find_rae_parts(const ConvertPipelineOptions& options, const UpstreamConfig& config,
                        const hub::Repository& weights, const hub::Repository& configs, const HubOptions& hub,
                        bool encoder_optional, std::vector<std::string>& notes);

// Strict: every tensor of the autoencoder is there and has its shape, and nothing else is.
RaePlan plan_rae(const RaeParts& parts);

}  // namespace raedit::convert
