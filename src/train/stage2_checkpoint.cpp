// checkpoint-N/: everything that a step of training changes, to the last bit.
#include <algorithm>
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

// Averages that are not gone on with would be lost at the next checkpoint, and none can be gone on with that are not
// there.
void check_averages(const std::string& folder, bool wanted) {
  std::error_code error;
  const bool there = fs::is_directory(fs::path(folder) / "ema", error);
  RAEDIT_CHECK(there == wanted, {.code = ErrorCode::invalid_argument,
                                 .what = there ? "the checkpoint has moving averages, and this run would drop them"
                                               : "the checkpoint has no moving averages to go on with",
                                 .where = folder,
                                 .found = wanted ? "--ema-decay" : "no --ema-decay",
                                 .expected = there ? "--ema-decay as the run began with" : "none, as the run began",
                                 .hint = "a new run can begin with its weights: "
                                         "--pretrained-transformer-model-name-or-path " +
                                         in(folder, there ? "ema" : "transformer")});
}

}  // namespace

std::vector<Tensor> Stage2Step::gather(const std::vector<Tensor>& owned, bool everywhere) const {
  return ranks_ ? ranks_->gather(owned, everywhere) : owned;
}

std::vector<Tensor> Stage2Step::all_averages() const {
  return gather(averages(), true);
}

void Stage2Step::save(const std::string& folder, const Json& trainer,
                      const std::function<void(const StagedFolder&)>& more) const {
  const std::vector<Tensor> exp_avg = gather(optimizer_->exp_avg(), false),
                            exp_avg_sq = gather(optimizer_->exp_avg_sq(), false), all = gather(averages(), false);
  const auto write = [&] {
    RAEDIT_CHECK(
        trainer.is_null() || (trainer.is_object() && !trainer.contains("step")),
        {.code = ErrorCode::internal, .what = "the state of a trainer is an object without steps", .where = "save"});
    Json state{{"step", steps()}};
    if (!trainer.is_null()) state.update(trainer);
    StagedFolder staged(folder);
    save_with(model_, parameters(), staged.at("transformer"));
    if (!all.empty()) save_with(model_, all, staged.at("ema"));
    NamedTensors moments;
    for (size_t i = 0; i < names_.size(); ++i) {
      moments.emplace_back("exp_avg." + names_[i], exp_avg[i].cpu());
      moments.emplace_back("exp_avg_sq." + names_[i], exp_avg_sq[i].cpu());
    }
    write_safetensors(staged.at(kOptimizer), moments, {{"format", "pt"}});
    write_file(staged.at(kState), state.dump(2) + "\n");
    if (more) more(staged);
    staged.commit();
  };
  if (!ranks_) return write();
  ranks_->on_first(write, "the checkpoint cannot be written", folder);
}

// Of each parameter its value, moments and average; undefined where another rank has them.
std::vector<Tensor> Stage2Step::places() const {
  std::vector<Tensor> places;
  for (size_t i = 0; i < names_.size(); ++i) {
    places.insert(places.end(), {parameters()[i], optimizer_->exp_avg()[i], optimizer_->exp_avg_sq()[i]});
    if (!averages().empty()) places.push_back(averages()[i]);
  }
  return places;
}

// trainer_state.json, and what goes into places(): all of it is there and fits, or nothing is read.
Json Stage2Step::read(const std::string& folder, std::vector<Tensor>& contents) const {
  const std::string state_path = in(folder, kState);
  Json state = parse_json(read_file(state_path), state_path);
  JsonReader reader(state, state_path);
  if (reader.int64("step") < 0) reader.fail("step", "0 or more");
  check_averages(folder, !averages().empty());
  const auto moments = SafetensorsFile::open(in(folder, kOptimizer));
  const SafetensorsSet optimizer(moments), transformer = SafetensorsSet::open(in(folder, "transformer"));
  std::optional<SafetensorsSet> ema;
  if (!averages().empty()) ema.emplace(SafetensorsSet::open(in(folder, "ema")));
  for (size_t i = 0; i < names_.size(); ++i) {
    const Tensor& value = parameters()[i];
    contents.push_back(checked(transformer, names_[i], value));
    contents.push_back(checked(optimizer, "exp_avg." + names_[i], value));
    contents.push_back(checked(optimizer, "exp_avg_sq." + names_[i], value));
    if (ema) contents.push_back(checked(*ema, names_[i], value));
  }
  return state;
}

Json Stage2Step::restore(const std::string& folder) {
  const std::vector<Tensor> targets = places();
  std::vector<Tensor> contents;
  Json state;
  if (ranks_) {
    if (ranks_->begun()) ranks_->finish_sum(optimizer_->loss());  // of gradients that are not wanted any more
    ranks_->on_first([&] { state = read(folder, contents); }, "the checkpoint cannot be read", folder);
    state = parse_json(ranks_->communicator().broadcast(state.dump(), 0), folder);
  } else {
    state = read(folder, contents);
  }
  const size_t each = targets.size() / std::max<size_t>(1, names_.size());
  for (size_t i = 0; i < targets.size(); ++i) {
    if (contents.size() == i) contents.push_back(Tensor::empty(parameters()[i / each].shape(), DType::float32));
    if (ranks_) ranks_->broadcast(contents[i]);
    if (targets[i].defined()) targets[i].copy_from(contents[i]);
    contents[i] = Tensor();
  }
  optimizer_->restored(kernels_, state.at("step").get<int64_t>());
  accumulated_ = 0;
  return state;
}

}  // namespace raedit::train
