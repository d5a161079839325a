// What `raedit bench` times: one forward of a model of a published size, of a config.json with random weights, or of a
// model's own transformer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"
#include "loading_options.h"
#include "model_path.h"
#include "ops/replay.h"
#include "raedit/context.h"

namespace raedit::cli {

struct WorkloadOptions : LoadingOptions {
  std::string size = "xl";
  ModelOptions model;
  int64_t batch = 1;

  // Of its own, not random ones.
  bool has_weights() const { return model.model.empty() ? size == "bundled" : !model.model.ends_with(".json"); }
};

struct Workload {
  std::string name;
  double flops = 0;   // of one forward, two per multiply-add
  int64_t bytes = 0;  // that one forward reads at least: models/workload.h
  std::string part;   // "transformer", "decoder" or "encoder"
  Json config;        // of that part's class in diffusers, for whoever builds the same model
  std::vector<Tensor> inputs;
  ops::Replay::Work forward;
};

// Loads or makes the model, with its weights where ctx runs.
Workload make_workload(const WorkloadOptions& options, Context& ctx);

}  // namespace raedit::cli
