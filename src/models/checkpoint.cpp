#include "models/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "backend/device/device.h"
#include "core/check.h"
#include "core/text.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "io/weight_folder.h"

namespace raedit::models {
namespace {

constexpr const char* kBaseName = "diffusion_pytorch_model";
constexpr size_t kMostConfigBytes = size_t{128} << 20;  // ten times the largest published: statistics per element

std::vector<std::string> names_of(const NamedParameters& parameters) {
  std::vector<std::string> names;
  for (const auto& [name, parameter] : parameters) names.push_back(name);
  return names;
}

// Tensors of the checkpoint that no parameter claims: one of them may be a missing one under another name.
std::vector<std::string> unclaimed(const NamedParameters& parameters, const WeightSet& weights) {
  const std::vector<std::string> known = names_of(parameters);
  const std::set<std::string> claimed(known.begin(), known.end());
  std::vector<std::string> names;
  for (const std::string& name : weights.names())
    if (!claimed.contains(name)) names.push_back(name);
  return names;
}

void check_tensor(const std::string& name, const nn::Parameter& parameter, const WeightSet& weights,
                  const std::vector<std::string>& strangers) {
  if (!weights.contains(name)) {
    RAEDIT_CHECK(!parameter.required, {.code = ErrorCode::format,
                                       .what = "tensor '" + name + "' is missing",
                                       .where = weights.path(),
                                       .expected = parameter.shape.str(),
                                       .hint = did_you_mean(name, strangers)});
    return;
  }
  const TensorInfo& info = weights.info(name);
  RAEDIT_CHECK(info.shape == parameter.shape, {.code = ErrorCode::format,
                                               .what = "tensor '" + name + "' has the wrong shape",
                                               .where = weights.file_of(name),
                                               .found = info.shape.str(),
                                               .expected = parameter.shape.str()});
  RAEDIT_CHECK(is_floating(info.dtype), {.code = ErrorCode::unsupported,
                                         .what = "tensor '" + name + "' has a type that weights cannot have",
                                         .where = weights.file_of(name),
                                         .found = std::string(name_of(info.dtype)),
                                         .expected = "a floating-point type"});
}

}  // namespace

Json read_config(const std::string& folder, const std::string& class_name) {
  std::error_code error;
  RAEDIT_CHECK(std::filesystem::is_directory(folder, error),
               {.code = ErrorCode::not_found, .what = "no such model folder", .where = folder});
  return read_config_file((std::filesystem::path(folder) / "config.json").string(), class_name);
}

Json read_config_file(const std::string& path, const std::string& class_name) {
  Json config = parse_json(read_file(path, kMostConfigBytes), path);
  if (config.is_object() && config.contains("_class_name")) {
    const Json& found = config["_class_name"];
    RAEDIT_CHECK(found == class_name, {.code = ErrorCode::format,
                                       .what = "this is another kind of model",
                                       .where = path,
                                       .found = found.is_string() ? found.get<std::string>() : found.type_name(),
                                       .expected = class_name});
  }
  return config;
}

ModelSource open_model(const std::string& folder, const std::string& class_name, const LoadOptions& options) {
  ModelSource source;
  source.config = read_config(folder, class_name);
  source.weights = open_weights(folder, kBaseName, options.variant);
  source.where = (std::filesystem::path(folder) / "config.json").string();
  return source;
}

void check_parameters(const NamedParameters& parameters, const WeightSet& weights) {
  const std::vector<std::string> strangers = unclaimed(parameters, weights);
  for (const auto& [name, parameter] : parameters) check_tensor(name, *parameter, weights, strangers);
  if (!strangers.empty())
    raise({.code = ErrorCode::format,
           .what = "tensor '" + strangers.front() + "' does not belong to this model",
           .where = weights.file_of(strangers.front()),
           .hint = did_you_mean(strangers.front(), names_of(parameters))});
}

void load_parameters(const NamedParameters& parameters, const WeightSet& weights, DType dtype,
                     const backend::Kernels& kernels, const TensorCheck& check) {
  // A cold disk reads this far ahead of the packing.
  constexpr size_t kAhead = size_t{128} << 20;
  size_t next = 0, ahead = 0;
  for (const auto& [name, parameter] : parameters) {
    if (!weights.contains(name)) continue;
    for (; next < parameters.size() && ahead < kAhead; ++next) {
      const std::string& later = parameters[next].first;
      if (!weights.contains(later)) continue;
      weights.prefetch(later);
      ahead += weights.info(later).nbytes;
    }
    const Tensor tensor = weights.tensor(name);
    if (check) check(name, tensor);
    nn::assign(*parameter, tensor, dtype, kernels);
    weights.drop_pages(name);
    ahead -= std::min(ahead, weights.info(name).nbytes);
  }
}

int threads_of(const LoadOptions& options) {
  return options.threads > 0 ? options.threads : available_threads();
}

std::unique_ptr<backend::Kernels> loading_kernels(const LoadOptions& options) {
  return make_kernels(options.device, threads_of(options));
}

void check_dtype(const LoadOptions& options, const std::string& where) {
  RAEDIT_CHECK(options.dtype == DType::float32 || options.dtype == DType::bfloat16,
               {.code = ErrorCode::unsupported,
                .what = "a model cannot compute in this type",
                .where = where,
                .found = std::string(name_of(options.dtype)),
                .expected = "float32 or bfloat16"});
}

void save_model(const std::string& folder, const Json& config, const NamedParameters& parameters, DType dtype,
                const SaveOptions& options) {
  create_directories(folder);
  std::vector<TensorSource> sources;
  for (const auto& [name, parameter] : parameters) {
    if (!parameter->source.defined()) continue;
    const Tensor source = parameter->source;
    const DType target = parameter->trained() ? dtype : source.dtype();
    sources.push_back({name, target, source.shape(), [source, target] { return source.cpu().to(target); }});
  }
  write_safetensors_sharded(folder, kBaseName, options.variant, sources, options.max_shard_bytes);
  const std::string text = config.dump(2) + "\n";
  write_file((std::filesystem::path(folder) / "config.json").string(), text);
}

}  // namespace raedit::models
