// checkpoint-N/: everything that a step of training changes, to the last bit.
#include <filesystem>

#include "core/check.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "io/staged_folder.h"
#include "models/checkpoint.h"
#include "train/stage2_step.h"

namespace raedit::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kState = "trainer_state.json";

std::string in(const std::string& folder, const char* name) {
  return (fs::path(folder) / name).string();
}

// The model with other numbers in the place of its parameters: tensors are shared, nothing is copied.
void save_with(const models::RaeDitTransformer& model, const std::vector<Tensor>& values, const std::string& folder) {
  models::RaeDitTransformer copy = model;
  const models::NamedParameters parameters = models::named_parameters(copy);
  size_t i = 0;
  for (const auto& [name, parameter] : parameters)
    if (parameter->trained()) parameter->source = values[i++].reshape(parameter->shape);
  models::save_model(folder, model.config_json, parameters, DType::float32, {});
}

// Checked against what it will overwrite, before anything is.
Tensor checked(const WeightSet& weights, const std::string& name, const Tensor& target) {
  const Tensor tensor = weights.tensor(name);
  RAEDIT_CHECK(tensor.dtype() == DType::float32 && tensor.numel() == target.numel(),
               {.code = ErrorCode::format,
                .what = "tensor '" + name + "' is not of this model",
                .where = weights.file_of(name),
                .found = std::string(name_of(tensor.dtype())) + " " + tensor.shape().str(),
                .expected = "float32 " + target.shape().str()});
  return tensor.contiguous().reshape(target.shape());
}

}  // namespace

void Stage2Step::save(const std::string& folder, const Json& trainer,
                      const std::function<void(const StagedFolder&)>& more) const {
  RAEDIT_CHECK(
      trainer.is_object() && !trainer.contains("step"),
      {.code = ErrorCode::internal, .what = "the state of a trainer is an object without steps", .where = "save"});
  Json state{{"step", steps()}};
  state.update(trainer);
  StagedFolder staged(folder);
  save_with(model_, parameters(), staged.at("transformer"));
  if (!averages().empty()) save_with(model_, averages(), staged.at("ema"));
  NamedTensors moments;
  for (size_t i = 0; i < names_.size(); ++i) {
    moments.emplace_back("exp_avg." + names_[i], optimizer_->exp_avg()[i].cpu());
    moments.emplace_back("exp_avg_sq." + names_[i], optimizer_->exp_avg_sq()[i].cpu());
  }
  write_safetensors(staged.at(kOptimizer), moments, {{"format", "pt"}});
  write_file(staged.at(kState), state.dump(2) + "\n");
  if (more) more(staged);
  staged.commit();
}

Json Stage2Step::restore(const std::string& folder) {
  const std::string state_path = in(folder, kState);
  Json state = parse_json(read_file(state_path), state_path);
  JsonReader reader(state, state_path);
  const int64_t step = reader.int64("step");
  if (step < 0) reader.fail("step", "0 or more");
  const auto moments = SafetensorsFile::open(in(folder, kOptimizer));
  const SafetensorsSet optimizer(moments), transformer = SafetensorsSet::open(in(folder, "transformer"));
  std::optional<SafetensorsSet> ema;
  if (!averages().empty()) ema.emplace(SafetensorsSet::open(in(folder, "ema")));

  std::vector<std::pair<Tensor, Tensor>> copies;  // from, to
  for (size_t i = 0; i < names_.size(); ++i) {
    const Tensor& value = parameters()[i];
    copies.emplace_back(checked(transformer, names_[i], value), value);
    copies.emplace_back(checked(optimizer, "exp_avg." + names_[i], value), optimizer_->exp_avg()[i]);
    copies.emplace_back(checked(optimizer, "exp_avg_sq." + names_[i], value), optimizer_->exp_avg_sq()[i]);
    if (ema) copies.emplace_back(checked(*ema, names_[i], value), averages()[i]);
  }
  for (const auto& [from, to] : copies) to.copy_from(from);
  optimizer_->restored(kernels_, step);
  accumulated_ = 0;
  return state;
}

}  // namespace raedit::train
