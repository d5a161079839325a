// An AutoencoderRAE's folder with other statistics: config.json, weights, and what else lies in it.
#include "train/replaced_statistics.h"

#include <filesystem>

#include "core/check.h"
#include "core/json.h"
#include "io/files.h"
#include "io/folder_entries.h"
#include "io/safetensors.h"
#include "io/staged_folder.h"
#include "models/checkpoint.h"
#include "train/latent_statistics.h"

namespace raedit::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMean = "_latents_mean";
constexpr const char* kStd = "_latents_std";
constexpr const char* kConfig = "config.json";
constexpr const char* kBaseName = "diffusion_pytorch_model";
constexpr size_t kMostShardBytes = 10'000'000'000;  // as in SaveOptions

// One key a line, whatever its value: the statistics are a million numbers.
std::string dump_config(const Json& config) {
  std::string text;
  for (const auto& [key, value] : config.items())
    text += (text.empty() ? "{\n  " : ",\n  ") + Json(key).dump() + ": " + value.dump();
  return text + "\n}\n";
}

bool is_weights_file(const std::string& name) {
  return name.ends_with(".safetensors") || name.ends_with(".bin") || name.ends_with(".index.json");
}

// A model card, a licence, whatever else lies there.
void copy_other_files(const std::string& from, const StagedFolder& staged) {
  for (const auto& entry : folder_entries(from)) {
    const std::string name = entry.path().filename().string();
    if (!is_file(entry.path().string()) || name == kConfig || is_weights_file(name)) continue;
    copy_file(entry.path().string(), staged.at(name));
  }
}

std::vector<TensorSource> sources_of(const WeightSet& weights) {
  std::vector<TensorSource> sources;
  for (const std::string& name : weights.names()) {
    const TensorInfo& info = weights.info(name);
    sources.push_back({name, info.dtype, info.shape, [&weights, name] { return weights.tensor(name); }});
  }
  return sources;
}

}  // namespace

Json nested_list(const Tensor& tensor) {
  if (tensor.rank() == 0) return tensor.item();
  Json list = Json::array();
  for (int64_t i = 0; i < tensor.dim(0); ++i) list.push_back(nested_list(tensor.select(0, i)));
  return list;
}

ReplacedStatistics::ReplacedStatistics(std::shared_ptr<const WeightSet> weights, const Tensor& mean, const Tensor& std)
    : weights_(std::move(weights)), statistics_("latent statistics", {{kMean, mean}, {kStd, std}}) {
  for (const std::string& name : weights_->names())
    if (!statistics_.contains(name)) names_.push_back(name);
  names_.insert(names_.end(), {kMean, kStd});
}

void require_new_folder(const std::string& to) {
  std::error_code error;
  const bool free = !fs::exists(to, error) || (fs::is_directory(to, error) && fs::is_empty(to, error));
  RAEDIT_CHECK(!to.empty() && free, {.code = ErrorCode::invalid_argument,
                                     .what = "the folder for the autoencoder must be a new or an empty one",
                                     .where = to});
}

void save_with_statistics(const std::string& from, const std::string& to, const Tensor& mean, const Tensor& std) {
  require_new_folder(to);
  models::ModelSource source = models::open_model(from, "AutoencoderRAE", {});
  const Tensor mean32 = mean.to(DType::float32).contiguous(), std32 = std.to(DType::float32).contiguous();
  source.config["latents_mean"] = nested_list(mean32);
  source.config["latents_std"] = nested_list(std32);
  const ReplacedStatistics weights(source.weights, mean32, std32);
  StagedFolder staged(to);
  create_directories(staged.at(""));
  copy_other_files(from, staged);
  write_safetensors_sharded(staged.at(""), kBaseName, "", sources_of(weights), kMostShardBytes);
  write_file(staged.at(kConfig), dump_config(source.config));
  AutoencoderRAE::from_pretrained(staged.at(""));  // it opens, or it does not appear
  staged.commit();
}

}  // namespace raedit::train
