// Options that every from_pretrained and save_pretrained shares.
#pragma once

#include <cstdint>
#include <string>

#include "raedit/context.h"
#include "raedit/dtype.h"

namespace raedit {

struct LoadOptions {
  // What matrix products read and activations are: float32 or bfloat16. Weights are converted once, while loading.
  // Norms, softmax and reductions are float32 either way, and so are the buffers (position tables, statistics).
  DType dtype = DType::float32;
  Device device = {};
  int threads = 0;  // that convert and pack weights; 0: as many as the process may use
  // diffusion_pytorch_model.VARIANT.safetensors
  std::string variant = {};
};

struct SaveOptions {
  std::string variant = {};
  // A larger model is written in shards with an index, as diffusers does.
  uint64_t max_shard_bytes = 10'000'000'000;
};

}  // namespace raedit
