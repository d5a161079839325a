#include "convert/latent_statistics.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "core/check.h"
#include "io/torch_archive.h"
#include "io/weight_folder.h"

namespace raedit::convert {
namespace {

constexpr double kEps = 1e-5;

// Of a torch file only the four: upstream does not look at what else is in its dict, and takes None for nothing.
std::shared_ptr<const WeightSet> open_statistics(const std::string& path) {
  if (!TorchArchive::looks_like_one(path)) return open_weight_file(path);
  const TorchArchive archive = TorchArchive::open(path);
  const PickleValue& root = archive.root();
  if (!root.is_dict()) return state_dict_of(archive, root, path);  // which says so
  NamedTensors found;
  for (const char* name : {"latents_mean", "latents_std", "mean", "var"}) {
    const auto value = root.find(name);
    if (!value || value->kind() == PickleKind::none) continue;
    RAEDIT_CHECK(value->kind() == PickleKind::tensor, {.code = ErrorCode::format,
                                                       .what = "latent statistics must be tensors",
                                                       .where = fmt::format("{}: {}", path, name),
                                                       .found = value->describe()});
    found.emplace_back(name, archive.tensor(*value));
  }
  return std::make_shared<MemoryWeights>(path, std::move(found));
}

bool fits(const Shape& shape, const Shape& latents) {
  if (shape.rank() > latents.rank() + 1) return false;
  for (int i = 1; i <= shape.rank(); ++i) {
    const int64_t expected = i <= latents.rank() ? latents[-i] : 1;
    if (shape[-i] != expected && shape[-i] != 1) return false;
  }
  return true;
}

Tensor read(const WeightSet& weights, const char* name, const Shape& latents) {
  if (!weights.contains(name)) return {};
  const Tensor tensor = weights.tensor(name);
  RAEDIT_CHECK(is_floating(tensor.dtype()), {.code = ErrorCode::format,
                                             .what = "latent statistics must be floating-point numbers",
                                             .where = fmt::format("{}: {}", weights.path(), name),
                                             .found = std::string(name_of(tensor.dtype()))});
  RAEDIT_CHECK(fits(tensor.shape(), latents), {.code = ErrorCode::format,
                                               .what = "latent statistics do not fit the latents",
                                               .where = fmt::format("{}: {}", weights.path(), name),
                                               .found = tensor.shape().str(),
                                               .expected = latents.str() + ", or 1 in any of its dimensions"});
  for (const double x : tensor.to_vector<double>())
    RAEDIT_CHECK(std::fabs(x) <= std::numeric_limits<float>::max(),
                 {.code = ErrorCode::format,
                  .what = "latent statistics hold a number that is not finite in float32",
                  .where = fmt::format("{}: {}", weights.path(), name),
                  .found = fmt::to_string(x)});
  return tensor.to(tensor.dtype() == DType::float64 ? DType::float64 : DType::float32).contiguous().clone();
}

template <class T>
void root_of(T* values, int64_t count, LatentsStd convention) {
  const T eps = static_cast<T>(kEps);
  for (int64_t i = 0; i < count; ++i) {
    values[i] = std::sqrt(values[i] + eps);
    if (convention == LatentsStd::upstream) values[i] -= eps;
  }
}

Tensor std_of_variance(Tensor var, LatentsStd convention, const std::string& where) {
  for (const double x : var.to_vector<double>())
    RAEDIT_CHECK(x >= 0, {.code = ErrorCode::format,
                          .what = "a variance cannot be negative",
                          .where = where,
                          .found = fmt::to_string(x)});
  if (var.dtype() == DType::float64)
    root_of(var.data<double>(), var.numel(), convention);
  else
    root_of(var.data<float>(), var.numel(), convention);
  return var;
}

}  // namespace

LatentStatistics read_latent_statistics(const std::string& path, LatentsStd convention, const Shape& latents) {
  const auto weights = open_statistics(path);
  LatentStatistics statistics;
  if (weights->contains("latents_mean") || weights->contains("latents_std")) {
    statistics.mean = read(*weights, "latents_mean", latents);
    statistics.std = read(*weights, "latents_std", latents);
    return statistics;
  }
  RAEDIT_CHECK(weights->contains("mean") || weights->contains("var"),
               {.code = ErrorCode::format,
                .what = "this is no file of latent statistics",
                .where = path,
                .expected = "tensors mean and var, or latents_mean and latents_std"});
  statistics.mean = read(*weights, "mean", latents);
  const Tensor var = read(*weights, "var", latents);
  if (var.defined()) statistics.std = std_of_variance(var, convention, path + ": var");
  return statistics;
}

}  // namespace raedit::convert
