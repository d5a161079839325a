#include "train/transformer_weights.h"

#include <cmath>
#include <map>

#include "raedit/generator.h"

namespace raedit::train {
namespace {

bool has(const std::string& name, const char* part) {
  return name.find(part) != std::string::npos;
}

Tensor uniform(const Shape& shape, double bound, Generator& generator) {
  const Tensor tensor = generator.rand(shape);
  for (float *at = tensor.data<float>(), *end = at + tensor.numel(); at != end; ++at)
    *at = static_cast<float>((2.0 * *at - 1.0) * bound);
  return tensor;
}

Tensor normal(const Shape& shape, double deviation, Generator& generator) {
  const Tensor tensor = generator.randn(shape);
  for (float *at = tensor.data<float>(), *end = at + tensor.numel(); at != end; ++at)
    *at = static_cast<float>(*at * deviation);
  return tensor;
}

// What one row of a weight reads.
int64_t inputs_of(const Shape& shape) {
  return shape.numel() / std::max<int64_t>(shape[0], 1);
}

// `inputs`: of the weight that a bias belongs to, which comes before it or behind it in the list.
Tensor initial_value(const std::string& name, const Shape& shape, int64_t inputs, Generator& generator) {
  const bool is_weight = name.ends_with("weight"), is_bias = name.ends_with("bias");
  if (has(name, "adaLN_modulation") || has(name, "final_layer.linear")) return Tensor::zeros(shape, DType::float32);
  if (has(name, "norm")) return Tensor::full(shape, is_bias ? 0.0f : 1.0f);
  if (has(name, "s_embedder") || has(name, "x_embedder")) {
    if (is_bias) return Tensor::zeros(shape, DType::float32);
    return uniform(shape, std::sqrt(6.0 / static_cast<double>(inputs + shape[0])), generator);
  }
  if (has(name, "y_embedder") || (has(name, "t_embedder") && is_weight)) return normal(shape, 0.02, generator);
  if (name == "t_embedder.W") return normal(shape, 1.0, generator);
  return uniform(shape, 1.0 / std::sqrt(static_cast<double>(inputs)), generator);
}

void set(nn::Parameter& parameter, const Tensor& source) {
  parameter.source = source;
  parameter.value = parameter.role == nn::Parameter::Role::matrix ? source.reshape({parameter.shape[0], -1}) : source;
}

void finish(models::RaeDitTransformer& model, const backend::Kernels& kernels) {
  model.complete();
  for (const auto& [name, parameter] : models::named_parameters(model))
    if (!parameter->trained()) nn::place(*parameter, kernels);
}

constexpr const char* kLabelTable = "y_embedder.embedding_table.weight";

std::vector<float> mean_row(const Tensor& table) {
  std::vector<double> sums(static_cast<size_t>(table.dim(1)));
  const float* from = table.data<float>();
  for (int64_t i = 0; i < table.numel(); ++i) sums[static_cast<size_t>(i % table.dim(1))] += from[i];
  std::vector<float> mean;
  for (const double sum : sums) mean.push_back(static_cast<float>(sum / static_cast<double>(table.dim(0))));
  return mean;
}

// [classes (+ none), D] -> [classes + added (+ none), D]
Tensor grown_table(const Tensor& table, bool has_null_class, int64_t added) {
  const int64_t rows = table.dim(0), width = table.dim(1), classes = has_null_class ? rows - 1 : rows;
  const Tensor grown = Tensor::empty({rows + added, width}, DType::float32);
  grown.slice(0, 0, classes).copy_from(table.slice(0, 0, classes));
  const Tensor begin = has_null_class ? table.slice(0, classes, rows) : Tensor::from(mean_row(table), {1, width});
  for (int64_t row = classes; row < rows + added; ++row) grown.slice(0, row, row + 1).copy_from(begin);
  return grown;
}

}  // namespace

models::ModelSource with_more_classes(const models::ModelSource& source, const RAEDiT2DModelConfig& config,
                                      int64_t added) {
  models::ModelSource grown = source;
  grown.config["num_classes"] = config.num_classes + added;
  NamedTensors tensors;
  for (const std::string& name : source.weights->names()) {
    const Tensor tensor = source.weights->tensor(name);
    tensors.emplace_back(name, name == kLabelTable
                                   ? grown_table(tensor.to(DType::float32).contiguous(), config.has_null_class(), added)
                                   : tensor);
  }
  grown.weights = std::make_shared<MemoryWeights>(source.weights->path(), std::move(tensors));
  return grown;
}

Json config_json(const RAEDiT2DModelConfig& c) {
  return Json{{"_class_name", "RAEDiT2DModel"},
              {"class_dropout_prob", c.class_dropout_prob},
              {"depth", c.depth},
              {"hidden_size", c.hidden_size},
              {"in_channels", c.in_channels},
              {"mlp_ratio", c.mlp_ratio},
              {"num_classes", c.num_classes},
              {"num_heads", c.num_heads},
              {"patch_size", c.patch_size[0] == c.patch_size[1] ? Json(c.patch_size[0]) : Json(c.patch_size)},
              {"sample_size", c.sample_size},
              {"use_pos_embed", c.use_pos_embed},
              {"use_qknorm", c.use_qknorm},
              {"use_rmsnorm", c.use_rmsnorm},
              {"use_rope", c.use_rope},
              {"use_swiglu", c.use_swiglu},
              {"wo_shift", c.wo_shift}};
}

std::unique_ptr<models::RaeDitTransformer> fresh_transformer(const RAEDiT2DModelConfig& config, uint64_t seed,
                                                             DType dtype, const backend::Kernels& kernels) {
  Json json = config_json(config);
  auto model = std::make_unique<models::RaeDitTransformer>(models::parse_rae_dit_config(json, "the model's shape"));
  model->config_json = std::move(json);
  model->dtype = dtype;
  Generator generator(seed);
  const models::NamedParameters parameters = models::named_parameters(*model);
  std::map<std::string, int64_t> inputs;  // by the name without .weight
  for (const auto& [name, parameter] : parameters)
    if (name.ends_with(".weight")) inputs[name.substr(0, name.size() - 7)] = inputs_of(parameter->shape);
  for (const auto& [name, parameter] : parameters) {
    if (!parameter->required) continue;  // tables that complete() computes
    const auto owner = inputs.find(name.substr(0, name.rfind('.')));
    set(*parameter, initial_value(name, parameter->shape, owner == inputs.end() ? 1 : owner->second, generator));
  }
  finish(*model, kernels);
  return model;
}

std::unique_ptr<models::RaeDitTransformer> load_transformer(const models::ModelSource& source, DType dtype,
                                                            const backend::Kernels& kernels) {
  auto model = std::make_unique<models::RaeDitTransformer>(models::parse_rae_dit_config(source.config, source.where));
  model->config_json = source.config;
  model->dtype = dtype;
  const models::NamedParameters parameters = models::named_parameters(*model);
  models::check_parameters(parameters, *source.weights);
  for (const auto& [name, parameter] : parameters)
    if (source.weights->contains(name)) {
      set(*parameter, source.weights->tensor(name).to(DType::float32).clone());
      source.weights->drop_pages(name);
    }
  finish(*model, kernels);
  return model;
}

models::ModelSource trained_source(const models::RaeDitTransformer& model, const std::vector<std::string>& names,
                                   const std::vector<Tensor>& values) {
  std::map<std::string, Tensor> trained;
  for (size_t i = 0; i < names.size(); ++i) trained.emplace(names[i], values[i]);
  models::RaeDitTransformer copy = model;  // tensors are shared
  NamedTensors tensors;
  for (const auto& [name, parameter] : models::named_parameters(copy)) {
    const auto value = trained.find(name);
    if (value != trained.end())
      tensors.emplace_back(name, value->second.cpu().reshape(parameter->shape));
    else if (parameter->source.defined())
      tensors.emplace_back(name, parameter->source.cpu());
  }
  return {model.config_json, std::make_shared<MemoryWeights>("the trained model", std::move(tensors)),
          "the trained model"};
}

}  // namespace raedit::train
