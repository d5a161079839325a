// Finding and joining the weight files of a model folder, with diffusers' rules: names of variants and shards from
// utils/hub_utils.py and models/model_loading_utils.py.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "io/safetensors_format.h"

namespace raedit {
namespace fs = std::filesystem;
namespace {

using safetensors_format::in_quotes;
using safetensors_format::index_names;

using WeightMap = std::map<std::string, std::string, std::less<>>;  // tensor -> file name

std::vector<std::string> list_folder(const std::string& folder) {
  std::error_code error;
  fs::directory_iterator it(folder, error);
  if (error) raise_read_error("cannot open the folder", folder, error.value());
  std::vector<std::string> names;
  while (!error && it != fs::directory_iterator()) {
    names.push_back(it->path().filename().string());
    it.increment(error);
  }
  if (error) raise_read_error("cannot read the folder", folder, error.value());
  std::sort(names.begin(), names.end());
  return names;
}

std::string between(std::string_view name, std::string_view prefix, std::string_view suffix) {
  if (name.size() <= prefix.size() + suffix.size() || !name.starts_with(prefix) || !name.ends_with(suffix)) return {};
  return std::string(name.substr(prefix.size(), name.size() - prefix.size() - suffix.size()));
}

// "" stands for weights without a variant.
std::set<std::string> variants_in(const std::vector<std::string>& files, const std::string& base) {
  std::set<std::string> variants;
  for (const std::string& name : files) {
    if (name == base + ".safetensors" || name == base + ".safetensors.index.json") variants.insert("");
    std::string variant = between(name, base + ".safetensors.index.", ".json");
    if (variant.empty()) variant = between(name, base + ".", ".safetensors");
    if (!variant.empty() && variant.find("-of-") == std::string::npos) variants.insert(variant);
  }
  return variants;
}

[[noreturn]] void raise_no_weights(const std::string& folder, const std::string& base, const std::string& wanted) {
  constexpr size_t kShown = 12;
  std::vector<std::string> files = list_folder(folder);
  std::vector<std::string> variants;
  for (const std::string& variant : variants_in(files, base))
    variants.push_back(variant.empty() ? "none (the default weights)" : in_quotes(variant));
  const bool pickled = std::any_of(files.begin(), files.end(), [&](const std::string& name) {
    return name.starts_with(base) && (name.ends_with(".bin") || name.ends_with(".bin.index.json"));
  });

  std::string hint = "check the folder";
  if (!variants.empty())
    hint = "variants here: " + join(variants);
  else if (pickled)
    hint = "only PyTorch .bin weights are here; convert them to safetensors first";
  const size_t more = files.size() > kShown ? files.size() - kShown : 0;
  files.resize(files.size() - more);
  std::string found = files.empty() ? "an empty folder" : join(files);
  if (more > 0) found += fmt::format(" and {} more", more);
  raise({.code = ErrorCode::not_found,
         .what = "no weights in this folder",
         .where = folder,
         .found = found,
         .expected = wanted,
         .hint = hint});
}

WeightMap read_weight_map(const std::string& path) {
  const Json root = parse_json(read_file(path, safetensors_format::kMaxHeaderBytes), path);
  const auto fail = [&](const std::string& what, const std::string& found) {
    raise({.code = ErrorCode::format,
           .what = what,
           .where = path,
           .found = found,
           .expected = "an object that gives each tensor the plain name of its file"});
  };
  if (!root.is_object() || !root.contains("weight_map")) fail("index has no weight_map", root.type_name());
  const Json& map = root["weight_map"];
  if (!map.is_object() || map.empty())
    fail("weight_map of the index is wrong", map.is_object() ? "an empty object" : map.type_name());
  WeightMap weights;
  for (const auto& [tensor, file] : map.items()) {
    if (!file.is_string()) fail("weight_map has no file name for tensor " + in_quotes(tensor), file.type_name());
    const auto& name = file.get_ref<const std::string&>();
    // Never out of the folder: an index is a stranger's file.
    if (name.empty() || name == "." || name == ".." || name.find_first_of(std::string_view("/\\\0", 3)) != name.npos)
      fail("weight_map has a bad file name for tensor " + in_quotes(tensor), in_quotes(name));
    weights.emplace(tensor, name);
  }
  return weights;
}

// Both directions: what the index promises is there, and nothing else is.
void check_shard(const SafetensorsFile& file, const std::string& file_name, const WeightMap& weights,
                 const std::string& index) {
  for (const std::string& tensor : file.names()) {
    const auto it = weights.find(tensor);
    RAEDIT_CHECK(it != weights.end(), {.code = ErrorCode::format,
                                       .what = fmt::format("tensor {} is not in the index", in_quotes(tensor)),
                                       .where = file.path(),
                                       .hint = "shards and " + index + " do not belong together"});
    RAEDIT_CHECK(it->second == file_name,
                 {.code = ErrorCode::format,
                  .what = fmt::format("tensor {} is in another shard than the index says", in_quotes(tensor)),
                  .where = index,
                  .found = file_name,
                  .expected = it->second,
                  .hint = "shards and index do not belong together"});
  }
  for (const auto& [tensor, name] : weights)
    RAEDIT_CHECK(name != file_name || file.contains(tensor),
                 {.code = ErrorCode::format,
                  .what = fmt::format("shard lacks tensor {}, which the index places in it", in_quotes(tensor)),
                  .where = file.path(),
                  .hint = "shards and " + index + " do not belong together"});
}

}  // namespace

SafetensorsSet SafetensorsSet::open(const std::string& folder, const std::string& base, const std::string& variant) {
  RAEDIT_CHECK(variant.find('/') == variant.npos, {.code = ErrorCode::invalid_argument,
                                                   .what = "not the name of a variant",
                                                   .found = in_quotes(variant),
                                                   .expected = "a word such as 'fp16'"});
  const std::string dotted = variant.empty() ? "" : "." + variant;
  const std::string single = base + dotted + ".safetensors";
  const std::array<std::string, 2> indexes = index_names(base, variant);
  const fs::path root(folder);
  SafetensorsSet set;
  std::error_code error;
  for (const std::string& index : indexes) {
    if (!fs::exists(root / index, error)) continue;
    set.path_ = (root / index).string();
    const WeightMap weights = read_weight_map(set.path_);
    std::set<std::string> shards;
    for (const auto& [tensor, file] : weights) shards.insert(file);
    for (const std::string& shard : shards) {
      RAEDIT_CHECK(fs::exists(root / shard, error),
                   {.code = ErrorCode::not_found,
                    .what = "shard is missing",
                    .where = (root / shard).string(),
                    .hint = fmt::format("{} needs {} files; download or copy the rest", index, shards.size())});
      const auto file = SafetensorsFile::open((root / shard).string());
      check_shard(file, shard, weights, set.path_);
      set.add(file);
    }
    return set;
  }
  if (!fs::exists(root / single, error)) raise_no_weights(folder, base, single + " or " + indexes[0]);
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

const SafetensorsFile& SafetensorsSet::shard(std::string_view name) const {
  const auto it = shard_of_.find(name);
  if (it == shard_of_.end()) raise_no_tensor(name, *this);
  return shards_[it->second];
}

}  // namespace raedit
