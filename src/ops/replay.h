// Replay: a piece of a model that runs again and again on tensors of the same shapes, as the steps of sampling do.
// Where a device has graphs it is captured once and replayed, which costs one call instead of hundreds.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/kernels.h"
#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::ops {

class Replay {
 public:
  // Runs on the device alone: reads nothing back, and what it takes from the host (small constants) never changes.
  using Work = std::function<Tensor(Context&, const std::vector<Tensor>& inputs)>;

  explicit Replay(Work work) : work_(std::move(work)) {}

  // work(ctx, inputs). The first run is a plain one, which also makes the kernels choose their ways; the second is
  // captured. Inputs have the shapes and dtypes of the first run, on the host or the device. The result is overwritten
  // by the next run.
  const Tensor& run(Context& ctx, const std::vector<Tensor>& inputs);

 private:
  void set_inputs(Context& ctx, const std::vector<Tensor>& inputs);

  Work work_;
  std::vector<Tensor> inputs_;
  Tensor output_;
  std::unique_ptr<backend::Graph> graph_;
  int64_t runs_ = 0;
};

// The Replay that this Context keeps under `key` from request to request, made by `make` the first time. The key says
// everything that `work` depends on besides its inputs, and `work` holds on to what it names.
Replay& kept_replay(Context& ctx, const std::string& key, const std::function<Replay::Work()>& make);

}  // namespace raedit::ops
