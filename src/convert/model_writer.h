// Planned models become folders in the diffusers layout: tensor by tensor, counted for the progress, and compared with
// their source afterwards when that is asked for.
#pragma once

#include <string>
#include <vector>

#include "io/safetensors.h"
#include "models/checkpoint.h"
#include "raedit/convert.h"

namespace raedit::convert {

// One model of a conversion, before anything is written.
struct ModelPlan {
  std::string class_name;             // "RAEDiT2DModel", "AutoencoderRAE"
  models::ModelSource source;         // complete: every tensor that the folder will hold
  std::vector<std::string> computed;  // tensors that the checkpoint did not bring
};

// For metadata: null for what was not given.
inline Json or_null(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

// The dtype that a tensor of this type is written in: `dtype` for floating-point ones.
DType written_dtype(DType from, DType dtype);
uint64_t written_bytes(const WeightSet& weights, DType dtype);

// Counts what is done of one kind of work and reports it. Throws Error(cancelled) when told to stop.
class WorkProgress {
 public:
  WorkProgress(const ConvertProgress& report, std::string what, uint64_t total)
      : report_(report), what_(std::move(what)), total_(total) {}
  void add(uint64_t bytes);

 private:
  const ConvertProgress& report_;
  std::string what_;
  uint64_t total_, done_ = 0;
};

// The tensors of `weights` as sources for a writer: each is produced when its turn comes and its pages are let go
// before the next one's.
std::vector<TensorSource> tensor_sources(const WeightSet& weights, DType dtype, WorkProgress& progress);

// config.json and weights.
void write_model(const std::string& folder, const ModelPlan& plan, const ConvertOutput& output, WorkProgress& progress);

// Compares every tensor of `written` with what `expected` means in `dtype`, bit for bit, and that there are no more.
// Throws Error(io) naming the first difference.
void verify_weights(const WeightSet& written, const WeightSet& expected, DType dtype, WorkProgress& progress);

// Reads the folder back and compares config and every tensor, bit for bit. Throws Error(io) naming the first
// difference.
void verify_model(const std::string& folder, const ModelPlan& plan, const ConvertOutput& output,
                  WorkProgress& progress);

}  // namespace raedit::convert
