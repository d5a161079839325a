// AutoencoderRAE: pixels -> frozen encoder -> normalised latents, and latents -> trained decoder -> pixels.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <variant>

#include "core/json.h"
#include "io/weight_set.h"
#include "models/checkpoint.h"
#include "models/dinov2_with_registers.h"
#include "models/rae_decoder.h"
#include "models/siglip2.h"
#include "models/vit_mae.h"
#include "raedit/autoencoder_rae.h"

namespace raedit::models {

class PackedCache;

using Encoder = std::variant<Dinov2WithRegisters, Siglip2, VitMae>;

// What a checkpoint of the autoencoder holds.
struct AutoencoderRaeParameters {
  Encoder encoder;
  RaeDecoder decoder;
  nn::Parameter encoder_mean, encoder_std;  // [1,3,1,1], of the encoder's input
  nn::Parameter latents_mean, latents_std;  // per element, per channel or one number

  // Under the names that diffusers gives them with the transformers that can build the encoder (docs/parity.md).
  explicit AutoencoderRaeParameters(const AutoencoderRAEConfig& config);
  // The names of the encoder's parts are those that `weights` has.
  AutoencoderRaeParameters(const AutoencoderRAEConfig& config, const WeightSet& weights);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("encoder", self.encoder);
    visit("decoder", self.decoder);
    visit("encoder_mean", self.encoder_mean);
    visit("encoder_std", self.encoder_std);
    visit("_latents_mean", self.latents_mean);
    visit("_latents_std", self.latents_std);
  }
};

// check_parameters(), but for weights with another encoder than the config's, which it says first.
void check_autoencoder_parameters(const AutoencoderRAEConfig& config, const NamedParameters& parameters,
                                  const WeightSet& weights);

struct AutoencoderRae {
  AutoencoderRAEConfig config;
  Json config_json;  // as it was read: latents_mean and latents_std are long lists
  DType dtype = DType::float32;
  AutoencoderRaeParameters parameters;
  Tensor latents_divisor;  // latents_std + 1e-5

  // `without_encoder`: the weights are the decoder's alone.
  AutoencoderRae(const AutoencoderRAEConfig& config, Json json, std::shared_ptr<const WeightSet> weights,
                 const LoadOptions& options, bool without_encoder = false);

  Tensor encode(Context& ctx, const Tensor& pixels) const;
  Tensor decode(Context& ctx, const Tensor& latents) const;

  bool has_encoder() const { return !without_encoder_; }
  // What encode() runs, after it ran.
  const Encoder& loaded_encoder() const { return encoder_; }

 private:
  const Encoder& ready_encoder(Context& ctx) const;
  Tensor normalize_pixels(Context& ctx, const Tensor& pixels) const;

  std::shared_ptr<const WeightSet> weights_;
  bool without_encoder_;
  TensorCheck calibration_check_;
  std::shared_ptr<PackedCache> cache_;  // null: none
  // The encoder waits in the mapped file until somebody encodes.
  mutable Encoder encoder_;
  mutable std::once_flag encoder_once_;
};

AutoencoderRAEConfig parse_autoencoder_rae_config(const Json& json, const std::string& where);

}  // namespace raedit::models
