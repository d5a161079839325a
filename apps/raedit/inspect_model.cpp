#include "inspect_model.h"

#include <algorithm>
#include <map>

#include "models/autoencoder_rae.h"
#include "models/checkpoint.h"
#include "models/rae_dit_transformer.h"

namespace raedit::cli {
namespace {

using nn::Parameter;

const char* role_name(Parameter::Role role) {
  switch (role) {
    case Parameter::Role::matrix: return "matrix";
    case Parameter::Role::vector: return "vector";
    case Parameter::Role::table: return "table";
    case Parameter::Role::buffer: return "buffer";
    case Parameter::Role::unread: return "unread";
  }
  return "";
}

// As nn::assign keeps it: matrices packed in the compute dtype, tables in their own type, what nobody reads not at all,
// the rest in float32.
uint64_t bytes_in_memory(const Parameter& parameter, DType compute, DType stored) {
  const auto count = static_cast<uint64_t>(parameter.shape.numel());
  switch (parameter.role) {
    case Parameter::Role::matrix: return count * size_of(compute);
    case Parameter::Role::table: return count * size_of(stored);
    case Parameter::Role::unread: return 0;
    default: return count * size_of(DType::float32);
  }
}

void describe_parameters(Component& component, const models::NamedParameters& parameters, const WeightSet& weights) {
  std::map<std::string, std::string> roles;
  component.float32 = Memory{};
  component.bfloat16 = Memory{};
  for (const auto& [name, parameter] : parameters) {
    const bool present = weights.contains(name);
    roles[name] = role_name(parameter->role);
    if (!parameter->required) component.tables.emplace_back(name, present);
    if (parameter->trained() && (present || parameter->required)) component.parameters += parameter->shape.numel();
    if (!parameter->trained()) component.buffer_numbers += parameter->shape.numel();
    const DType stored = present ? weights.info(name).dtype : DType::float32;
    const bool encoder = name.starts_with("encoder.");
    for (auto [memory, compute] :
         {std::pair(&*component.float32, DType::float32), std::pair(&*component.bfloat16, DType::bfloat16)})
      (encoder ? memory->encoder_weights : memory->weights) += bytes_in_memory(*parameter, compute, stored);
  }
  for (TensorRow& row : component.tensors)
    if (const auto role = roles.find(row.name); role != roles.end()) row.role = role->second;
}

// Numbers alive inside a block of width D with N tokens: the stream, its norm, q, k, v, the attention's result, the
// feed-forward's two halves and product.
uint64_t block_numbers(int64_t N, int64_t D, int64_t inner) {
  return static_cast<uint64_t>(N * (6 * D + 3 * inner));
}

uint64_t transformer_numbers(const RAEDiT2DModelConfig& c) {
  uint64_t most = 0;
  int64_t encoder_tokens = 0;
  for (size_t stream = 0; stream < 2; ++stream) {
    const int64_t side = c.sample_size / c.patch_size[stream], N = side * side, D = c.hidden_size[stream];
    if (stream == 0) encoder_tokens = N;
    const auto inner = static_cast<int64_t>(c.mlp_ratio * static_cast<double>(D));
    // Six modulation vectors: one set for the encoder stream, one for each token of the decoder stream.
    const auto modulation = static_cast<uint64_t>(6 * D * (stream == 0 ? 1 : N));
    most = std::max(most, block_numbers(N, D, inner) + modulation);
  }
  return most + static_cast<uint64_t>(encoder_tokens * c.hidden_size[0]);
}

uint64_t decoder_numbers(const AutoencoderRAEConfig& c) {
  const auto pixels = static_cast<uint64_t>(3 * c.output_size() * c.output_size());
  return block_numbers(c.num_patches() + 1, c.decoder_hidden_size, c.decoder_intermediate_size) + 3 * pixels;
}

void set_activations(Component& component, uint64_t numbers) {
  component.float32->activations = numbers * size_of(DType::float32);
  component.bfloat16->activations = numbers * size_of(DType::bfloat16);
}

void count_only(Component& component) {
  for (const TensorRow& row : component.tensors) component.parameters += row.shape.numel();
}

}  // namespace

void describe_model(Component& component, const WeightSet& weights) {
  if (component.kind == "RAEDiT2DModel") {
    const Json json = models::read_config(component.path, component.kind);
    const RAEDiT2DModelConfig config = models::parse_rae_dit_config(json, component.path + "/config.json");
    models::RaeDitTransformer model(config);
    const models::NamedParameters parameters = models::named_parameters(model);
    describe_parameters(component, parameters, weights);
    set_activations(component, transformer_numbers(config));
    models::check_parameters(parameters, weights);
  } else if (component.kind == "AutoencoderRAE") {
    const Json json = models::read_config(component.path, component.kind);
    const AutoencoderRAEConfig config = models::parse_autoencoder_rae_config(json, component.path + "/config.json");
    models::AutoencoderRaeParameters model(config, weights);
    const models::NamedParameters parameters = models::named_parameters(model);
    describe_parameters(component, parameters, weights);
    set_activations(component, decoder_numbers(config));
    models::check_autoencoder_parameters(config, parameters, weights);
  } else {
    count_only(component);
  }
}

}  // namespace raedit::cli
