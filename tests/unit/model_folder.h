// Model folders that tests may change: copies of committed ones in scratch space, with their JSON files and weights at
// hand.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "core/json.h"
#include "io/io_test_util.h"
#include "io/safetensors.h"

namespace raedit::test {

using Weights = std::map<std::string, Tensor>;

inline std::string test_data(const std::string& name) {
  return std::string(RAEDIT_TEST_DATA) + "/" + name;
}

inline Json read_json(const std::string& path) {
  return parse_json(slurp(path), path);
}

inline void write_json(const std::string& path, const Json& json) {
  spit(path, json.dump(2));
}

// Copies, so that the file may be replaced.
inline Weights read_weights(const std::string& folder) {
  const auto set = SafetensorsSet::open(folder);
  Weights weights;
  for (const std::string& name : set.names()) weights[name] = set.tensor(name).clone();
  return weights;
}

inline void write_weights(const std::string& folder, const Weights& weights) {
  write_safetensors(folder + "/diffusion_pytorch_model.safetensors", NamedTensors(weights.begin(), weights.end()));
}

// Standard normal numbers, the same for the same seed.
inline Tensor normal_tensor(const Shape& shape, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  const Tensor tensor = Tensor::empty(shape, DType::float32);
  for (int64_t i = 0; i < tensor.numel(); ++i) tensor.data<float>()[i] = normal(engine);
  return tensor;
}

// Numbers of a tensor as nested lists, as config.json holds statistics.
inline Json nested_lists(const Tensor& tensor) {
  if (tensor.rank() == 0) return tensor.item();
  Json list = Json::array();
  for (int64_t i = 0; i < tensor.dim(0); ++i) list.push_back(nested_lists(tensor.select(0, i)));
  return list;
}

class ModelFolder {
 public:
  // "transformer/base", "autoencoder/dinov2", "pipeline", ...
  explicit ModelFolder(const std::string& committed) : path_(scratch_ / "model") {
    std::filesystem::copy(test_data(committed), path_, std::filesystem::copy_options::recursive);
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all, std::filesystem::perm_options::add);
  }

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  void change_json(const std::string& file, const std::function<void(Json&)>& change) const {
    Json json = read_json(*this / file);
    change(json);
    write_json(*this / file, json);
  }
  void change_config(const std::function<void(Json&)>& change) const { change_json("config.json", change); }
  void change_weights(const std::function<void(Weights&)>& change) const {
    Weights weights = read_weights(path_);
    change(weights);
    write_weights(path_, weights);
  }

 private:
  ScratchFolder scratch_;
  std::string path_;
};

}  // namespace raedit::test
