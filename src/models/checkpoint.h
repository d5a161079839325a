// From a model folder in the diffusers layout to the parameters of a module, and back.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "io/weight_set.h"
#include "nn/parameter.h"
#include "raedit/pretrained.h"

namespace raedit::models {

using NamedParameters = std::vector<std::pair<std::string, nn::Parameter*>>;

// What a model is made from: a config.json and the tensors that go with it, from wherever they come.
struct ModelSource {
  Json config;
  std::shared_ptr<const WeightSet> weights;
  std::string where;  // what messages about the config name
  // An autoencoder of which only the decoder is at hand: it decodes, and encode() throws Error(not_found).
  bool without_encoder = false;
};

// FOLDER/config.json and the weights beside it.
ModelSource open_model(const std::string& folder, const std::string& class_name, const LoadOptions& options);

template <class M>
NamedParameters named_parameters(M& module) {
  NamedParameters list;
  nn::for_each_parameter(module, [&](const std::string& name, nn::Parameter& p) { list.emplace_back(name, &p); });
  return list;
}

template <class M>
int64_t count_parameters(const M& module) {
  int64_t count = 0;
  nn::for_each_parameter(module, [&](const std::string&, const nn::Parameter& p) {
    if (p.trained() && (p.required || p.source.defined())) count += p.shape.numel();
  });
  return count;
}

// FOLDER/config.json. Throws Error(not_found) for a missing folder or file, Error(format) when _class_name names
// another class.
Json read_config(const std::string& folder, const std::string& class_name);
Json read_config_file(const std::string& path, const std::string& class_name);

// Bounds of config values, far above every real model: what a config alone asks for is built before the weights are
// looked at.
inline constexpr int64_t kMostWidth = 1 << 20;
inline constexpr int64_t kMostLayers = 4096;
inline constexpr int64_t kMostTokensAlongEdge = 512;
inline constexpr int64_t kMostTableElements = 1 << 26;  // of a position table that is computed: tokens * width

// Every name and shape must match, both ways, but for parameters that are not required. Throws Error naming the first
// tensor that does not, with the nearest name.
void check_parameters(const NamedParameters& parameters, const WeightSet& weights);

// Sees the tensors of a checkpoint on their way into parameters, while their pages are at hand. Throws to refuse one.
using TensorCheck = std::function<void(const std::string& name, const Tensor& tensor)>;

// Hands each tensor of the checkpoint to its parameter, converted or packed once, and lets the mapped file's pages go.
void load_parameters(const NamedParameters& parameters, const WeightSet& weights, DType dtype,
                     const backend::Kernels& kernels, const TensorCheck& check = {});

// The last step of loading, when every table is there: modules prepare what they run, and all of it is on the device.
template <class M>
void settle(M& module, const backend::Kernels& kernels) {
  nn::prepare(module, kernels);
  nn::for_each_parameter(module, [&](const std::string&, nn::Parameter& p) { nn::place(p, kernels); });
  kernels.synchronize();
}

int threads_of(const LoadOptions& options);
// The device that packs the weights, with these threads.
std::unique_ptr<backend::Kernels> loading_kernels(const LoadOptions& options);

// Throws Error(unsupported) unless dtype is one to compute in.
void check_dtype(const LoadOptions& options, const std::string& where);

// config.json and weights: what is trained in `dtype`, buffers as they were.
void save_model(const std::string& folder, const Json& config, const NamedParameters& parameters, DType dtype,
                const SaveOptions& options);

}  // namespace raedit::models
