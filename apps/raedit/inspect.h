// What is in a model folder, a safetensors file or a torch file, found out without loading a weight.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "raedit/shape.h"

namespace raedit::cli {

struct TensorRow {
  std::string name;
  std::string dtype;
  Shape shape;
  uint64_t bytes = 0;
  std::string role;  // "matrix", "vector", "table", "buffer", "unread", or "" where no model is known
};

// Bytes to compute in one dtype: weights as they are kept in memory, and activations at batch 1, roughly.
struct Memory {
  uint64_t weights = 0;
  uint64_t encoder_weights = 0;  // of an autoencoder's encoder, which generating does without; not in `weights`
  uint64_t activations = 0;
};

struct Component {
  std::string name;  // its folder in the pipeline: "transformer"
  std::string kind;  // class name, or what a single file seems to be
  std::string path;
  Json config;  // long lists shortened to a description
  std::vector<std::pair<std::string, uint64_t>> files;
  std::vector<TensorRow> tensors;
  std::map<std::string, std::string> metadata;
  std::vector<std::pair<std::string, std::string>> entries;  // what a torch file or a config names, and what that is
  int64_t parameters = 0;
  int64_t buffer_numbers = 0;
  // Optional tables, and whether the checkpoint brings them (else they are computed).
  std::vector<std::pair<std::string, bool>> tables;
  std::optional<Memory> float32, bfloat16;
  std::string problem;  // why it cannot be loaded; empty when it can
};

struct Inspection {
  std::string path;
  std::string kind;
  size_t labels = 0;
  std::vector<Component> components;
};

// 1234567 -> "1,234,567"
std::string grouped(int64_t value);

// Throws Error(not_found) for a path that is not there, Error(format) for one that is no model and no file of tensors.
// What is wrong with a component lands in its `problem`.
Inspection inspect(const std::string& path);

}  // namespace raedit::cli
