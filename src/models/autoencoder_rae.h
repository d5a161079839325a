// AutoencoderRAE: pixels -> frozen encoder -> normalised latents, and latents -> trained decoder -> pixels.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "core/json.h"
#include "io/weight_set.h"
#include "models/dinov2_with_registers.h"
#include "models/rae_decoder.h"
#include "raedit/autoencoder_rae.h"

namespace raedit::models {

// What a checkpoint of the autoencoder holds.
struct AutoencoderRaeParameters {
  Dinov2WithRegisters encoder;
  RaeDecoder decoder;
  nn::Parameter encoder_mean, encoder_std;  // [1,3,1,1], of the encoder's input
  nn::Parameter latents_mean, latents_std;  // per element, per channel or one number

  explicit AutoencoderRaeParameters(const AutoencoderRAEConfig& config);

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

struct AutoencoderRae {
  AutoencoderRAEConfig config;
  Json config_json;  // as it was read: latents_mean and latents_std are long lists
  DType dtype = DType::float32;
  AutoencoderRaeParameters parameters;
  Tensor latents_divisor;  // latents_std + 1e-5

  AutoencoderRae(const AutoencoderRAEConfig& config, Json json, std::shared_ptr<const WeightSet> weights,
                 const LoadOptions& options);

  Tensor encode(Context& ctx, const Tensor& pixels) const;
  Tensor decode(Context& ctx, const Tensor& latents) const;

 private:
  const Dinov2WithRegisters& ready_encoder(Context& ctx) const;
  Tensor normalize_pixels(Context& ctx, const Tensor& pixels) const;

  std::shared_ptr<const WeightSet> weights_;
  // The encoder waits in the mapped file until somebody encodes.
  mutable Dinov2WithRegisters encoder_;
  mutable std::once_flag encoder_once_;
};

AutoencoderRAEConfig parse_autoencoder_rae_config(const Json& json, const std::string& where);

}  // namespace raedit::models
