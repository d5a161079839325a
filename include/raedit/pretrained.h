// Options that every from_pretrained and save_pretrained shares.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "raedit/context.h"
#include "raedit/dtype.h"

namespace raedit {

// int8: matrices of the blocks (attention, feed-forward, modulation) are 8-bit integers with one scale per output, and
// the rows that meet them are rounded to 8 bits, too. Everything else stays in `dtype`. For inference on the processor.
enum class Quantization { none, int8 };

// Weights stay mapped from their files as long as the model, or a tensor of it, is there: replace such a file (a new
// one under its name), never truncate or overwrite it in place.
struct LoadOptions {
  // What matrix products read and activations are: float32 or bfloat16. Weights are converted once, while loading.
  // Norms, softmax and reductions are float32 either way, and so are the buffers (position tables, statistics).
  DType dtype = DType::float32;
  Device device = {};
  int threads = 0;  // that convert and pack weights; 0: as many as the process may use
  // diffusion_pytorch_model.VARIANT.safetensors
  std::string variant = {};
  Quantization quantization = Quantization::none;
  // A file that calibrate() wrote for this model, for less error in int8; empty: none.
  std::string calibration = {};
  // A folder for packed weights, which later loads of the same checkpoint map instead of packing anew; empty: what the
  // environment variable RAEDIT_PACKED_CACHE names, or none. On the processor.
  std::string packed_cache = {};
  // Hears of what went another way than asked for, one line each. An autoencoder keeps it: its encoder is loaded when
  // somebody encodes.
  std::function<void(const std::string&)> note = {};
};

struct SaveOptions {
  std::string variant = {};
  // A larger model is written in shards with an index, as diffusers does.
  uint64_t max_shard_bytes = 10'000'000'000;
};

}  // namespace raedit
