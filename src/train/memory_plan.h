// What a training step will need, known before it runs: the model's own forward and backward, on a device that counts
// allocations and computes nothing.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "raedit/rae_dit_transformer.h"

namespace raedit::train {

inline constexpr uint64_t kUnknownMemory = std::numeric_limits<uint64_t>::max();

struct MemoryPlan {
  struct Part {
    std::string name;  // "weights", "gradients", "optimizer moments", "moving averages", "activations", ...
    uint64_t bytes = 0;
    std::string how;    // "10.0 M x float32"
    std::string lower;  // the flags that make it smaller and are not set yet
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
  // The device has memory of its own, which is meant then. What its kernels and libraries take there for themselves is
  // not counted.
  bool own_memory = false;
};

// Of the transformer alone: an autoencoder that encodes pictures beside it comes on top. Throws Error(invalid_argument)
// for options out of range, Error(out_of_memory) for what no machine has addresses for.
MemoryPlan plan_memory(const RAEDiT2DModelConfig& config, const MemoryPlanOptions& options);

// What this process may still use: the smaller of the machine's available memory and the rest that its control groups
// leave it; kUnknownMemory where the system says neither. root: stands before /proc and /sys.
uint64_t available_memory(const std::string& root = "");

}  // namespace raedit::train
