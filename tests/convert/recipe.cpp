#include "convert/recipe.h"

#include <cstdint>
#include <filesystem>

#include "core/json.h"
#include "io/files.h"
#include "io/safetensors.h"

namespace raedit::testing {
namespace fs = std::filesystem;
namespace {

uint64_t fnv1a64(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

Tensor recipe_tensor(const std::string& name, const Shape& shape) {
  Tensor tensor = Tensor::empty(shape, DType::float32);
  const uint64_t start = fnv1a64(name);
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    uint64_t z = (start + static_cast<uint64_t>(i)) * 0x9E3779B97F4A7C15u;
    z ^= z >> 32;
    z *= 0xD6E8FEB86659FD93u;
    z ^= z >> 32;
    const auto value = static_cast<int64_t>(z >> 40) - (int64_t{1} << 23);
    tensor.data<float>()[i] = static_cast<float>(value) * 0x1p-26f;
  }
  return tensor;
}

}  // namespace

void make_encoder(const std::string& source, const std::string& layout, const std::string& target) {
  fs::create_directories(target);
  for (const auto& entry : fs::directory_iterator(source))
    fs::copy(entry.path(), target, fs::copy_options::overwrite_existing);
  const fs::path recipe = fs::path(source) / "weights.recipe.json";
  if (!fs::exists(recipe)) return;
  const Json json = parse_json(read_file(recipe.string()), recipe.string());
  std::vector<TensorSource> tensors;
  for (const auto& [name, dims] : json.items())
    tensors.push_back(TensorSource::of(name, recipe_tensor(name, Shape(dims.get<std::vector<int64_t>>()))));
  const size_t shard = layout == "sharded" ? size_t{1} << 20 : size_t{1} << 40;
  write_safetensors_sharded(target, "model", "", tensors, shard);
}

}  // namespace raedit::testing
