// The weights of an AutoencoderRAE with other latent statistics.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "io/weight_set.h"

namespace raedit::train {

class ReplacedStatistics final : public WeightSet {
 public:
  ReplacedStatistics(std::shared_ptr<const WeightSet> weights, const Tensor& mean, const Tensor& std);

  const std::string& path() const override { return weights_->path(); }
  const std::vector<std::string>& names() const override { return names_; }
  bool contains(std::string_view name) const override { return of(name).contains(name); }
  const TensorInfo& info(std::string_view name) const override { return of(name).info(name); }
  Tensor tensor(std::string_view name) const override { return of(name).tensor(name); }
  int num_pieces(std::string_view name) const override { return of(name).num_pieces(name); }
  Tensor piece(std::string_view name, int i) const override { return of(name).piece(name, i); }
  const std::string& file_of(std::string_view name) const override { return of(name).file_of(name); }
  void drop_pages(std::string_view name) const override { of(name).drop_pages(name); }
  void prefetch(std::string_view name) const override { of(name).prefetch(name); }

 private:
  const WeightSet& of(std::string_view name) const {
    return statistics_.contains(name) ? static_cast<const WeightSet&>(statistics_) : *weights_;
  }

  std::shared_ptr<const WeightSet> weights_;
  MemoryWeights statistics_;
  std::vector<std::string> names_;
};

// Numbers as config.json holds them: lists of lists, down to the last dimension.
Json nested_list(const Tensor& tensor);

}  // namespace raedit::train
