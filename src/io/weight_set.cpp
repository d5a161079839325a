#include "io/weight_set.h"

#include "core/check.h"
#include "core/text.h"
#include "io/safetensors_format.h"

namespace raedit {

using safetensors_format::in_quotes;

void raise_no_tensor(std::string_view name, const WeightSet& weights) {
  raise({.code = ErrorCode::not_found,
         .what = "there is no tensor " + in_quotes(name),
         .where = weights.path(),
         .hint = did_you_mean(name, weights.names())});
}

MemoryWeights::MemoryWeights(std::string path, NamedTensors tensors) : path_(std::move(path)) {
  for (auto& [name, tensor] : tensors) {
    const TensorInfo info{tensor.dtype(), tensor.shape(), 0, tensor.nbytes()};
    RAEDIT_CHECK(entries_.emplace(name, Entry{info, tensor}).second,
                 {.code = ErrorCode::format, .what = "tensor " + in_quotes(name) + " comes twice", .where = path_});
    names_.push_back(name);
  }
}

const MemoryWeights::Entry& MemoryWeights::entry(std::string_view name) const {
  const auto it = entries_.find(name);
  if (it == entries_.end()) raise_no_tensor(name, *this);
  return it->second;
}

JoinedWeights::JoinedWeights(Parts parts) : JoinedWeights(parts.front()->path(), parts) {}

JoinedWeights::JoinedWeights(std::string path, Parts parts) : path_(std::move(path)), parts_(std::move(parts)) {
  for (size_t i = 0; i < parts_.size(); ++i)
    for (const std::string& name : parts_[i]->names()) {
      RAEDIT_CHECK(part_of_.emplace(name, i).second,
                   {.code = ErrorCode::format,
                    .what = "tensor " + in_quotes(name) + " comes twice",
                    .where = parts_[i]->path(),
                    .found = "another one in " + parts_[part_of_.find(name)->second]->path()});
      names_.push_back(name);
    }
}

std::vector<std::shared_ptr<const MappedFile>> JoinedWeights::files() const {
  std::vector<std::shared_ptr<const MappedFile>> all;
  for (const auto& part : parts_)
    for (auto& file : part->files()) all.push_back(std::move(file));
  return all;
}

const WeightSet& JoinedWeights::part(std::string_view name) const {
  const auto it = part_of_.find(name);
  if (it == part_of_.end()) raise_no_tensor(name, *this);
  return *parts_[it->second];
}

}  // namespace raedit
