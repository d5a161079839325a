// What the ranks that train one model owe each other in a step: the sum of their gradients, and, where the state of the
// optimizer is shared out among them, the parameters that only their owner could change.
// Source: Rajbhandari et al., "ZeRO", https://arxiv.org/abs/1910.02054, section 5.1 (the states of the optimizer).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "dist/communicator.h"
#include "dist/gradient_sum.h"
#include "raedit/tensor.h"

namespace raedit::train {

// For storages of so many bytes, which of `ranks` owns each: the largest first, each to the rank that has least.
std::vector<int> share_out(const std::vector<size_t>& bytes, int ranks);

class Stage2Ranks {
 public:
  // Parameters become those of the first rank. shared_out: each has one owner; else all ranks own all.
  Stage2Ranks(dist::Communicator& ranks, std::vector<Tensor> parameters, bool shared_out);

  dist::Communicator& communicator() const { return ranks_; }
  int size() const { return ranks_.size(); }
  // For each parameter, whether it is owned here; empty where all own all.
  std::vector<bool> owned() const;

  // Gradients, views of storages as the parameters are. ready() takes the id of a parameter's storage.
  void set_gradients(const std::vector<Tensor>& gradients);
  void ready(uint64_t parameter_storage);
  bool begun() const { return sum_->begun(); }
  // Gradients and the loss, float64 [1], become their sums.
  void finish_sum(const Tensor& loss);

  // After the owners changed their parameters. Nothing where all own all.
  void spread_parameters() const;
  // Of tensors like the parameters that are defined where they are owned: all of them. On the first rank, or
  // `everywhere`; undefined ones elsewhere. Those of another rank are copies on the host.
  std::vector<Tensor> gather(const std::vector<Tensor>& owned, bool everywhere) const;
  // The numbers of the first rank's tensor, a contiguous one on the host, on all of them.
  void broadcast(const Tensor& tensor) const;
  // What the first rank alone does. Where it fails all of them do: that one with what it threw, the others with `what`.
  void on_first(const std::function<void()>& work, const char* what, const std::string& where) const;

 private:
  void broadcast(const Storage& storage, int root) const;

  dist::Communicator& ranks_;
  const bool shared_out_;
  std::vector<Tensor> parameters_;
  std::vector<std::shared_ptr<Storage>> storages_;  // of the parameters, each once
  std::unordered_map<uint64_t, size_t> index_;      // in storages_, by id
  std::vector<int> owners_;                         // of storages_
  std::optional<dist::GradientSum> sum_;
};

}  // namespace raedit::train
