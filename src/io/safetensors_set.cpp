// Finding and joining the safetensors files of a model folder, with diffusers' rules: names of variants and shards from
// utils/hub_utils.py and models/model_loading_utils.py.
#include <filesystem>

#include "io/safetensors.h"
#include "io/safetensors_format.h"
#include "io/weight_index.h"

namespace raedit {
namespace fs = std::filesystem;

SafetensorsSet SafetensorsSet::open(const std::string& folder, const std::string& base, const std::string& variant) {
  weight_index::check_variant(variant);
  const std::string dotted = variant.empty() ? "" : "." + variant;
  const std::string single = base + dotted + ".safetensors";
  const auto indexes = safetensors_format::index_names(base, variant);
  const fs::path root(folder);
  SafetensorsSet set;
  std::error_code error;
  for (const std::string& index : indexes) {
    if (!fs::exists(root / index, error)) continue;
    set.path_ = (root / index).string();
    const weight_index::WeightMap weights = weight_index::read_weight_map(set.path_);
    for (const std::string& shard : weight_index::existing_shards(weights, root, index)) {
      const auto file = SafetensorsFile::open((root / shard).string());
      weight_index::check_shard(file.path(), file.names(), weights, set.path_);
      set.add(file);
    }
    return set;
  }
  if (!fs::exists(root / single, error))
    weight_index::raise_no_weights(folder, base, base, single + " or " + indexes[0],
                                   "only PyTorch .bin weights are here, and safetensors are asked for");
  set.path_ = (root / single).string();
  set.add(SafetensorsFile::open(set.path_));
  return set;
}

void SafetensorsSet::add(const SafetensorsFile& file) {
  for (const std::string& name : file.names()) {
    names_.push_back(name);
    shard_of_.emplace(name, shards_.size());
  }
  shards_.push_back(file);
}

std::vector<std::shared_ptr<const MappedFile>> SafetensorsSet::files() const {
  std::vector<std::shared_ptr<const MappedFile>> all;
  for (const SafetensorsFile& shard : shards_) all.push_back(shard.file());
  return all;
}

const SafetensorsFile& SafetensorsSet::shard(std::string_view name) const {
  const auto it = shard_of_.find(name);
  if (it == shard_of_.end()) raise_no_tensor(name, *this);
  return shards_[it->second];
}

}  // namespace raedit
