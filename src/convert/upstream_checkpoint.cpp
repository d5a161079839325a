#include "convert/upstream_checkpoint.h"

#include <algorithm>

#include "convert/translated_weights.h"
#include "core/check.h"
#include "core/text.h"
#include "io/safetensors.h"
#include "io/torch_archive.h"
#include "io/weight_folder.h"

namespace raedit::convert {
namespace {

constexpr const char* kWrappers[] = {"module.", "_orig_mod.", "model."};

// Found first and taken off at once: a name can begin with as many wrappers as its author likes.
std::shared_ptr<const WeightSet> without_wrappers(std::shared_ptr<const WeightSet> weights) {
  const std::vector<std::string>& names = weights->names();
  size_t taken = 0;
  for (bool changed = !names.empty(); changed;) {
    changed = false;
    for (const std::string_view prefix : kWrappers) {
      const auto has_it = [&](const std::string& n) { return std::string_view(n).substr(taken).starts_with(prefix); };
      if (!std::all_of(names.begin(), names.end(), has_it)) continue;
      taken += prefix.size();
      changed = true;
    }
  }
  return taken == 0 ? weights : below(weights, names.front().substr(0, taken));
}

std::vector<std::string> keys_of(const PickleValue& dict) {
  std::vector<std::string> keys;
  for (size_t i = 0; i < dict.size(); ++i)
    if (dict.key(i).kind() == PickleKind::string) keys.emplace_back(dict.key(i).string());
  return keys;
}

// "ema.net" -> root["ema"]["net"]
PickleValue follow(const PickleValue& root, const std::string& key, const std::string& path) {
  PickleValue value = root;
  for (size_t begin = 0; begin <= key.size();) {
    const size_t end = std::min(key.find('.', begin), key.size());
    const std::string part = key.substr(begin, end - begin);
    const auto next = value.is_dict() ? value.find(part) : std::nullopt;
    if (!next) {
      std::vector<std::string> keys = value.is_dict() ? keys_of(value) : std::vector<std::string>{};
      const std::string hint = did_you_mean(part, keys);
      constexpr size_t kShown = 8;
      if (keys.size() > kShown) keys.resize(kShown);
      raise({.code = ErrorCode::not_found,
             .what = "there is no '" + key + "' in this checkpoint",
             .where = path,
             .found = value.is_dict() ? "a dict with " + join(keys) : std::string(to_string(value.kind())),
             .hint = hint});
    }
    value = *next;
    begin = end + 1;
  }
  return value;
}

StateDict open_torch(const std::string& path, const std::string& key, const std::vector<std::string>& candidates) {
  const TorchArchive archive = TorchArchive::open(path);
  std::string at = key;
  PickleValue value = archive.root();
  if (!key.empty()) {
    value = follow(value, key, path);
  } else {
    // Twice is enough for every layout we know; a circle must not hold us.
    for (int depth = 0; depth < 4 && value.is_dict(); ++depth) {
      std::optional<PickleValue> inner;
      for (const std::string& candidate : candidates) {
        inner = value.find(candidate);
        if (inner && inner->is_dict()) {
          at += (at.empty() ? "" : ".") + candidate;
          break;
        }
        inner.reset();
      }
      if (!inner) break;
      value = *inner;
    }
  }
  return {state_dict_of(archive, value, at.empty() ? path : path + ": " + at), at};
}

}  // namespace

std::shared_ptr<const WeightSet> below(const std::shared_ptr<const WeightSet>& weights, const std::string& prefix) {
  std::vector<Recipe> recipes;
  for (const std::string& name : weights->names())
    if (name.starts_with(prefix)) recipes.push_back({name.substr(prefix.size()), {{name}}});
  if (recipes.empty()) return nullptr;
  return std::make_shared<TranslatedWeights>(weights, std::move(recipes));
}

StateDict open_state_dict(const std::string& path, const std::string& key, const std::vector<std::string>& candidates) {
  StateDict result;
  if (is_torch_file(path)) {
    result = open_torch(path, key, candidates);
  } else {
    RAEDIT_CHECK(key.empty(), {.code = ErrorCode::invalid_argument,
                               .what = "a safetensors file has no keys to choose from",
                               .where = path,
                               .found = "checkpoint_key '" + key + "'"});
    result.weights = std::make_shared<SafetensorsSet>(SafetensorsFile::open(path));
  }
  result.weights = without_wrappers(std::move(result.weights));
  RAEDIT_CHECK(!result.weights->names().empty(),
               {.code = ErrorCode::format, .what = "there are no tensors in this checkpoint", .where = path});
  return result;
}

}  // namespace raedit::convert
