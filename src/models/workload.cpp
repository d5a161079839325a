#include "models/workload.h"

#include <cmath>

#include "core/check.h"
#include "models/checkpoint.h"

namespace raedit::models {
namespace {

// Uniform numbers with standard deviation `deviation` around `mean`.
Tensor random_tensor(const Shape& shape, float deviation, float mean, uint32_t& state) {
  const Tensor tensor = Tensor::empty(shape, DType::float32);
  const float scale = deviation * std::sqrt(12.0f) / static_cast<float>(1 << 24);
  for (float *at = tensor.data<float>(), *end = at + tensor.numel(); at != end; ++at) {
    state = state * 1664525u + 1013904223u;
    *at = mean + (static_cast<float>(state >> 8) - static_cast<float>(1 << 23)) * scale;
  }
  return tensor;
}

template <class M>
void randomize(M& module, DType dtype, const backend::Kernels& kernels, Quantization quantization) {
  uint32_t state = 1;
  for (const auto& [name, p] : named_parameters(module)) {
    if (!p->required) continue;  // tables that are computed
    p->eight_bits = p->quantizable && quantization == Quantization::int8;
    const bool is_matrix = p->role == nn::Parameter::Role::matrix;
    const auto inputs = static_cast<float>(p->shape.numel() / std::max<int64_t>(p->shape[0], 1));
    const bool is_norm = name.find("norm") != std::string::npos && name.ends_with("weight");
    const float deviation = is_matrix ? 1.0f / std::sqrt(inputs) : 0.02f;
    nn::assign(*p, random_tensor(p->shape, deviation, is_norm ? 1.0f : 0.0f, state), dtype, kernels);
    p->source = Tensor();
    if (p->packed != nullptr) p->value = Tensor();
  }
}

// On the device, with nothing left that only loading needs.
template <class M>
void finish(M& module, const backend::Kernels& kernels) {
  settle(module, kernels);
  for (const auto& [name, p] : named_parameters(module))
    if (p->role == nn::Parameter::Role::matrix) p->value = Tensor();
}

double matrix_flops(const nn::Linear& linear, int64_t rows) {
  return 2.0 * static_cast<double>(linear.weight.shape.numel()) * static_cast<double>(rows);
}

double attention_flops(const nn::Attention& a, int64_t batch, int64_t tokens) {
  const int64_t rows = batch * tokens;
  const auto width = static_cast<double>(a.to_q.weight.shape[0]);
  return matrix_flops(a.to_q, rows) + matrix_flops(a.to_k, rows) + matrix_flops(a.to_v, rows) +
         matrix_flops(a.to_out, rows) + 4.0 * static_cast<double>(rows) * static_cast<double>(tokens) * width;
}

template <class M>
int64_t weight_bytes(const M& module, DType dtype, int64_t batch, Quantization q) {
  using Role = nn::Parameter::Role;
  int64_t bytes = 0;
  nn::for_each_parameter(module, [&](const std::string&, const nn::Parameter& p) {
    if (p.role == Role::unread) return;
    if (p.quantizable && q == Quantization::int8) {
      bytes += p.shape.numel();
      return;
    }
    const bool is_low = p.role == Role::matrix || p.role == Role::table;
    const int64_t numel = p.role == Role::table ? p.shape.numel() / p.shape[0] * batch : p.shape.numel();
    bytes += numel * static_cast<int64_t>(size_of(is_low ? dtype : DType::float32));
  });
  return bytes;
}

int64_t input_bytes(int64_t numel) {
  return numel * static_cast<int64_t>(size_of(DType::float32));
}

}  // namespace

RAEDiT2DModelConfig transformer_config(const std::string& size) {
  RAEDiT2DModelConfig config;  // the defaults are XL's
  if (size == "xl") return config;
  RAEDIT_CHECK(
      size == "s",
      {.code = ErrorCode::invalid_argument, .what = "no such transformer size", .found = size, .expected = "s or xl"});
  config.hidden_size = {384, 2048};
  config.depth = {12, 2};
  config.num_heads = {6, 16};
  return config;
}

AutoencoderRAEConfig autoencoder_xl_config() {
  AutoencoderRAEConfig config;
  config.decoder_hidden_size = 1152;
  config.decoder_num_hidden_layers = 28;
  config.decoder_num_attention_heads = 16;
  config.decoder_intermediate_size = 4096;
  return config;
}

RaeDitTransformer random_transformer(const RAEDiT2DModelConfig& config, DType dtype, const backend::Kernels& kernels,
                                     Quantization quantization) {
  RaeDitTransformer model(config);
  model.dtype = dtype;
  randomize(model, dtype, kernels, quantization);
  model.complete();
  finish(model, kernels);
  return model;
}

RaeDecoder random_decoder(const AutoencoderRAEConfig& config, DType dtype, const backend::Kernels& kernels,
                          Quantization quantization) {
  RaeDecoder model(config);
  randomize(model, dtype, kernels, quantization);
  model.complete();
  finish(model, kernels);
  return model;
}

Dinov2WithRegisters random_encoder(const AutoencoderRAEConfig& c, DType dtype, const backend::Kernels& kernels,
                                   Quantization quantization) {
  Dinov2WithRegisters model(c.encoder_hidden_size, c.encoder_patch_size, c.encoder_num_hidden_layers);
  randomize(model, dtype, kernels, quantization);
  finish(model, kernels);
  return model;
}

double transformer_flops(const RAEDiT2DModelConfig& config, int64_t batch) {
  const RaeDitTransformer model(config);
  const auto tokens = [&](size_t stream) {
    const int64_t side = config.sample_size / config.patch_size[stream];
    return side * side;
  };
  const int64_t s = tokens(0);
  const int64_t x = tokens(1);
  double flops = matrix_flops(model.s_embedder.proj, batch * s) + matrix_flops(model.x_embedder.proj, batch * x) +
                 matrix_flops(model.t_embedder.mlp0, batch) + matrix_flops(model.t_embedder.mlp2, batch) +
                 matrix_flops(model.final_layer.linear, batch * x) + matrix_flops(model.final_layer.ada_ln, batch * s);
  if (model.s_projector) flops += matrix_flops(*model.s_projector, batch * s);
  for (size_t i = 0; i < model.blocks.size(); ++i) {
    const RaeDitBlock& block = model.blocks[i];
    const bool encoder = static_cast<int64_t>(i) < config.depth[0];
    const int64_t n = encoder ? s : x;
    flops += attention_flops(block.attn, batch, n) + matrix_flops(block.mlp.proj, batch * n) +
             matrix_flops(block.mlp.out, batch * n) + matrix_flops(block.ada_ln, encoder ? batch : batch * s);
  }
  return flops;
}

double decoder_flops(const AutoencoderRAEConfig& config, int64_t batch) {
  const RaeDecoder model(config);
  const int64_t patches = config.num_patches();
  const int64_t n = patches + 1;  // with the class token
  double flops = matrix_flops(model.decoder_embed, batch * patches) + matrix_flops(model.decoder_pred, batch * n);
  for (const RaeDecoderLayer& layer : model.decoder_layers)
    flops += attention_flops(layer.attention, batch, n) + matrix_flops(layer.intermediate, batch * n) +
             matrix_flops(layer.output, batch * n);
  return flops;
}

double encoder_flops(const AutoencoderRAEConfig& c, int64_t batch) {
  const Dinov2WithRegisters model(c.encoder_hidden_size, c.encoder_patch_size, c.encoder_num_hidden_layers);
  const int64_t patches = c.num_patches();
  const int64_t n = patches + 1 + Dinov2WithRegisters::kRegisters;
  double flops = matrix_flops(model.patch_embeddings.proj, batch * patches);
  for (const VitBlock& layer : model.layers)
    flops += attention_flops(layer.attention, batch, n) + matrix_flops(layer.fc1, batch * n) +
             matrix_flops(layer.fc2, batch * n);
  return flops;
}

int64_t transformer_bytes(const RAEDiT2DModelConfig& config, DType dtype, int64_t batch, Quantization q) {
  return weight_bytes(RaeDitTransformer(config), dtype, batch, q) +
         input_bytes(batch * config.in_channels * config.sample_size * config.sample_size);
}

int64_t decoder_bytes(const AutoencoderRAEConfig& config, DType dtype, int64_t batch, Quantization q) {
  return weight_bytes(RaeDecoder(config), dtype, batch, q) +
         input_bytes(batch * config.num_patches() * config.encoder_hidden_size);
}

int64_t encoder_bytes(const AutoencoderRAEConfig& c, DType dtype, int64_t batch, Quantization q) {
  const Dinov2WithRegisters model(c.encoder_hidden_size, c.encoder_patch_size, c.encoder_num_hidden_layers);
  return weight_bytes(model, dtype, batch, q) + input_bytes(batch * 3 * c.encoder_input_size * c.encoder_input_size);
}

}  // namespace raedit::models
