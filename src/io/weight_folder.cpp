#include "io/weight_folder.h"

#include <filesystem>

#include "core/check.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "io/torch_archive.h"
#include "io/weight_index.h"

namespace raedit {
namespace fs = std::filesystem;
namespace {

std::shared_ptr<const WeightSet> open_torch(const std::string& path) {
  const TorchArchive archive = TorchArchive::open(path);
  return state_dict_of(archive, archive.root(), path);
}

std::shared_ptr<const WeightSet> open_torch_shards(const fs::path& folder, const std::string& index) {
  const std::string path = (folder / index).string();
  const weight_index::WeightMap weights = weight_index::read_weight_map(path);
  JoinedWeights::Parts shards;
  for (const std::string& name : weight_index::existing_shards(weights, folder, index)) {
    shards.push_back(open_torch((folder / name).string()));
    weight_index::check_shard((folder / name).string(), shards.back()->names(), weights, path);
  }
  return std::make_shared<JoinedWeights>(path, std::move(shards));
}

}  // namespace

std::shared_ptr<const WeightSet> open_weights(const std::string& folder, const std::string& base,
                                              const std::string& variant) {
  weight_index::check_variant(variant);
  const std::string dotted = variant.empty() ? "" : "." + variant;
  const fs::path root(folder);
  std::error_code error;
  const auto there = [&](const std::string& name) { return fs::exists(root / name, error); };

  const std::string single = base + dotted + ".safetensors";
  const auto indexes = weight_index::index_names(base, variant, "safetensors");
  if (there(indexes[0]) || there(indexes[1]) || there(single))
    return std::make_shared<SafetensorsSet>(SafetensorsSet::open(folder, base, variant));

  const std::string bin_base = base == "model" ? "pytorch_model" : base;
  const std::string bin = bin_base + dotted + ".bin";
  for (const std::string& index : weight_index::index_names(bin_base, variant, "bin"))
    if (there(index)) return open_torch_shards(root, index);
  if (there(bin)) return open_torch((root / bin).string());
  weight_index::raise_no_weights(folder, base, bin_base, single + ", " + indexes[0] + " or " + bin, "");
}

bool is_torch_file(const std::string& path) {
  if (TorchArchive::looks_like_one(path)) return true;
  const auto file = MappedFile::open(path);
  const bool begins_as_safetensors = file->size() > 8 && static_cast<char>(file->data()[8]) == '{';
  if (begins_as_safetensors) return false;
  for (const char* ending : {".pt", ".pth", ".bin", ".ckpt", ".pkl"})
    if (path.ends_with(ending)) return true;
  return false;
}

std::shared_ptr<const WeightSet> open_weight_file(const std::string& path) {
  if (is_torch_file(path)) return open_torch(path);
  return std::make_shared<SafetensorsSet>(SafetensorsFile::open(path));
}

}  // namespace raedit
