// What weight folders of both kinds share: lists of shards, names of variants, and messages about what is there
// instead. Source: diffusers' utils/hub_utils.py and models/model_loading_utils.py.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace raedit::weight_index {

using WeightMap = std::map<std::string, std::string, std::less<>>;  // tensor -> file name

// What an index may be called, as diffusers does now and as older versions did. `extension` is "safetensors" or "bin".
std::array<std::string, 2> index_names(const std::string& base, const std::string& variant,
                                       const std::string& extension);

// Throws Error(format) for what is no index, and for file names that lead out of the folder.
WeightMap read_weight_map(const std::string& path);

// The names of the shards, all of which exist. Throws Error(not_found) for the first that does not.
std::set<std::string> existing_shards(const WeightMap& weights, const std::filesystem::path& folder,
                                      const std::string& index);

// Both directions: what the index promises is in the shard (`path`, with `tensors`), and nothing else is.
void check_shard(const std::string& path, const std::vector<std::string>& tensors, const WeightMap& weights,
                 const std::string& index);

// Throws Error(invalid_argument) for a variant that is no plain word.
void check_variant(const std::string& variant);

// Error(not_found), saying what is in the folder instead of `wanted`. `bin` is the base name of PyTorch's files.
[[noreturn]] void raise_no_weights(const std::string& folder, const std::string& base, const std::string& bin,
                                   const std::string& wanted, const std::string& hint_for_bin);

}  // namespace raedit::weight_index
