// What a training step will need, known before it runs: the model's own forward and backward, on a device that counts
// allocations and computes nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "raedit/rae_dit_transformer.h"

namespace raedit::train {

struct MemoryPlan {
  struct Part {
    std::string name;  // "weights", "gradients", "optimizer moments", "moving averages", "activations", ...
    uint64_t bytes = 0;
    std::string how;  // "10.0 M x float32"
  };
  std::vector<Part> parts;
  uint64_t total() const;
  // A table for people, with the sum, what the machine has, and for each part the flag that makes it smaller.
  std::string table(uint64_t available_bytes) const;
};

struct MemoryPlanOptions {
  int64_t batch = 4;  // of one micro-batch
  bool bf16 = false;
  bool gradient_checkpointing = false;
  bool ema = false;
  int zero1_ranks = 1;  // moments shared out among so many
};

MemoryPlan plan_memory(const RAEDiT2DModelConfig& config, const MemoryPlanOptions& options);

// What this process may still use: the smaller of the machine's available memory and its cgroup's rest.
uint64_t available_memory();

}  // namespace raedit::train
