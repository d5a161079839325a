// Models of the published sizes with random weights, and what one forward costs: for benchmarks, which must not depend
// on a checkpoint being there. Random, never zeros: processors are faster on zeros.
#pragma once

#include <string>

#include "models/dinov2_with_registers.h"
#include "models/rae_decoder.h"
#include "models/rae_dit_transformer.h"

namespace raedit::models {

// "s" and "xl": DiT-DH-S and DiT-DH-XL on 768x16x16 latents (2510.11690, table of configurations).
RAEDiT2DModelConfig transformer_config(const std::string& size);
// The published autoencoder: DINOv2-B with registers at 224 pixels, ViT-XL decoder to 256 pixels.
AutoencoderRAEConfig autoencoder_xl_config();

// Normal-like weights of the size that keeps activations near 1. Matrices exist packed only, those of the blocks in 8
// bits where `quantization` says so.
RaeDitTransformer random_transformer(const RAEDiT2DModelConfig& config, DType dtype, const backend::Kernels& kernels,
                                     Quantization quantization = Quantization::none);
RaeDecoder random_decoder(const AutoencoderRAEConfig& config, DType dtype, const backend::Kernels& kernels,
                          Quantization quantization = Quantization::none);
Dinov2WithRegisters random_encoder(const AutoencoderRAEConfig& config, DType dtype, const backend::Kernels& kernels,
                                   Quantization quantization = Quantization::none);

// Operations of one forward, two per multiply-add, matrix products and attention only.
double transformer_flops(const RAEDiT2DModelConfig& config, int64_t batch);
double decoder_flops(const AutoencoderRAEConfig& config, int64_t batch);
double encoder_flops(const AutoencoderRAEConfig& config, int64_t batch);

// Bytes that one forward reads at least: every weight once, as the model keeps it (matrices in `dtype` or in 8 bits,
// the rest in float32; of a table that is looked up only the rows of the batch), and its input once.
int64_t transformer_bytes(const RAEDiT2DModelConfig& config, DType dtype, int64_t batch,
                          Quantization quantization = Quantization::none);
int64_t decoder_bytes(const AutoencoderRAEConfig& config, DType dtype, int64_t batch,
                      Quantization quantization = Quantization::none);
int64_t encoder_bytes(const AutoencoderRAEConfig& config, DType dtype, int64_t batch,
                      Quantization quantization = Quantization::none);

}  // namespace raedit::models
