#include "io/weight_index.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "io/files.h"
#include "io/safetensors_format.h"

namespace raedit::weight_index {
namespace fs = std::filesystem;

using safetensors_format::in_quotes;

namespace {

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
std::set<std::string> variants_in(const std::vector<std::string>& files, const std::string& base,
                                  const std::string& dotted) {
  std::set<std::string> variants;
  for (const std::string& name : files) {
    if (name == base + dotted || name == base + dotted + ".index.json") variants.insert("");
    std::string variant = between(name, base + dotted + ".index.", ".json");
    if (variant.empty()) variant = between(name, base + ".", dotted);
    if (!variant.empty() && variant.find("-of-") == std::string::npos) variants.insert(variant);
  }
  return variants;
}

}  // namespace

std::array<std::string, 2> index_names(const std::string& base, const std::string& variant,
                                       const std::string& extension) {
  const std::string dotted = variant.empty() ? "" : "." + variant;
  return {base + "." + extension + ".index" + dotted + ".json", base + "." + extension + dotted + ".index.json"};
}

void check_variant(const std::string& variant) {
  RAEDIT_CHECK(variant.find('/') == variant.npos, {.code = ErrorCode::invalid_argument,
                                                   .what = "not the name of a variant",
                                                   .found = in_quotes(variant),
                                                   .expected = "a word such as 'fp16'"});
}

void raise_no_weights(const std::string& folder, const std::string& base, const std::string& bin,
                      const std::string& wanted, const std::string& hint_for_bin) {
  constexpr size_t kShown = 12;
  std::vector<std::string> files = list_folder(folder);
  std::set<std::string> found_variants = variants_in(files, base, ".safetensors");
  const bool only_bin = found_variants.empty();
  if (only_bin) found_variants = variants_in(files, bin, ".bin");
  std::vector<std::string> variants;
  for (const std::string& variant : found_variants)
    variants.push_back(variant.empty() ? "none (the default weights)" : in_quotes(variant));

  std::string hint = "check the folder";
  if (!variants.empty()) hint = "variants here: " + join(variants);
  if (!variants.empty() && only_bin && !hint_for_bin.empty()) hint = hint_for_bin;
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

std::set<std::string> existing_shards(const WeightMap& weights, const fs::path& folder, const std::string& index) {
  std::set<std::string> shards;
  for (const auto& [tensor, file] : weights) shards.insert(file);
  std::error_code error;
  for (const std::string& shard : shards)
    RAEDIT_CHECK(fs::exists(folder / shard, error),
                 {.code = ErrorCode::not_found,
                  .what = "shard is missing",
                  .where = (folder / shard).string(),
                  .hint = fmt::format("{} needs {} files; download or copy the rest", index, shards.size())});
  return shards;
}

void check_shard(const std::string& path, const std::vector<std::string>& tensors, const WeightMap& weights,
                 const std::string& index) {
  const std::string file_name = fs::path(path).filename().string();
  for (const std::string& tensor : tensors) {
    const auto it = weights.find(tensor);
    RAEDIT_CHECK(it != weights.end(), {.code = ErrorCode::format,
                                       .what = fmt::format("tensor {} is not in the index", in_quotes(tensor)),
                                       .where = path,
                                       .hint = "shards and " + index + " do not belong together"});
    RAEDIT_CHECK(it->second == file_name,
                 {.code = ErrorCode::format,
                  .what = fmt::format("tensor {} is in another shard than the index says", in_quotes(tensor)),
                  .where = index,
                  .found = file_name,
                  .expected = it->second,
                  .hint = "shards and index do not belong together"});
  }
  const std::set<std::string_view> present(tensors.begin(), tensors.end());
  for (const auto& [tensor, name] : weights)
    RAEDIT_CHECK(name != file_name || present.contains(tensor),
                 {.code = ErrorCode::format,
                  .what = fmt::format("shard lacks tensor {}, which the index places in it", in_quotes(tensor)),
                  .where = path,
                  .hint = "shards and " + index + " do not belong together"});
}

}  // namespace raedit::weight_index
