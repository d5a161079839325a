// AutoencoderRAE: a frozen representation encoder (DINOv2 with registers, SigLIP 2 or MAE) and a trained ViT decoder,
// as in diffusers' models/autoencoders/autoencoder_rae.py and "Diffusion Transformers with Representation Autoencoders"
// (2510.11690).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "raedit/context.h"
#include "raedit/export.h"
#include "raedit/pretrained.h"
#include "raedit/tensor.h"

namespace raedit {

namespace models {
struct AutoencoderRae;
struct ModelSource;
struct Internals;
}  // namespace models

// The fields of config.json but for the statistics, which are tensors of the checkpoint.
struct AutoencoderRAEConfig {
  std::string encoder_type = "dinov2";  // or siglip2 or mae
  int64_t encoder_hidden_size = 768;
  int64_t encoder_patch_size = 14;
  int64_t encoder_num_hidden_layers = 12;
  int64_t decoder_hidden_size = 512;
  int64_t decoder_num_hidden_layers = 8;
  int64_t decoder_num_attention_heads = 16;
  int64_t decoder_intermediate_size = 2048;
  int64_t patch_size = 16;  // of the decoder
  int64_t encoder_input_size = 224;
  std::optional<int64_t> image_size;  // derived from patch_size when absent; must agree when present
  int64_t num_channels = 3;
  double noise_tau = 0.0;  // training only
  bool reshape_to_2d = true;
  bool use_encoder_loss = false;  // training only
  double scaling_factor = 1.0;
  // Shapes of latents_mean and latents_std: per element [C,h,w], per channel [C,1,1], or [1] when absent.
  Shape latents_mean_shape = {1};
  Shape latents_std_shape = {1};

  int64_t grid() const { return encoder_input_size / encoder_patch_size; }  // latent side
  int64_t num_patches() const { return grid() * grid(); }
  int64_t output_size() const { return patch_size * grid(); }  // side of a decoded picture
  // Throws Error(format) naming the key for unknown keys, wrong types and values out of range.
  RAEDIT_API static AutoencoderRAEConfig from_file(const std::string& path);
};

// A handle; copies share the weights, which never change. Safe to use from many threads, each with its own Context.
class RAEDIT_API AutoencoderRAE {
 public:
  // The encoder is checked at once and made ready at its first use: generating needs the decoder alone.
  static AutoencoderRAE from_pretrained(const std::string& folder, const LoadOptions& options = {});
  // The same from a config and tensors that lie elsewhere: a checkpoint under translated names
  // (src/models/checkpoint.h).
  static AutoencoderRAE from_source(const models::ModelSource& source, const LoadOptions& options = {});
  void save_pretrained(const std::string& folder, const SaveOptions& options = {}) const;

  const AutoencoderRAEConfig& config() const;
  DType dtype() const;
  int64_t num_parameters() const;

  // One picture at a time, for less memory. The numbers do not change.
  void enable_slicing(bool on = true) { use_slicing_ = on; }

  // Pixels [B,3,H,W] float32 in [0,1], of any size (resized bicubically to encoder_input_size, aspect not kept) ->
  // normalised latents [B,C,h,w], or [B,N,C] without reshape_to_2d, in dtype().
  Tensor encode(Context& ctx, const Tensor& pixels) const;
  // Latents -> pixels [B,3,S,S] float32 with S = config().output_size(). Not clamped.
  Tensor decode(Context& ctx, const Tensor& latents) const;
  // decode(encode(pixels))
  Tensor reconstruct(Context& ctx, const Tensor& pixels) const { return decode(ctx, encode(ctx, pixels)); }

 private:
  friend struct models::Internals;
  explicit AutoencoderRAE(std::shared_ptr<const models::AutoencoderRae> model) : model_(std::move(model)) {}
  std::shared_ptr<const models::AutoencoderRae> model_;
  bool use_slicing_ = false;
};

}  // namespace raedit
