// Calibration for 8-bit matrices: what their inputs look like in a few runs of the model, for less error later
// (SmoothQuant, Xiao et al., 2211.10438).
#pragma once

#include <cstdint>
#include <string>

#include "raedit/context.h"
#include "raedit/export.h"
#include "raedit/rae_dit_pipeline.h"

namespace raedit {

struct CalibrationOptions {
  int64_t pictures = 8;  // of classes that lie evenly among all; picture k is drawn from seed + k
  int64_t num_inference_steps = 10;
  uint64_t seed = 0;
};

struct CalibrationSummary {
  int64_t matrices = 0;  // that were seen
  int64_t helped = 0;    // whose products come nearer to float32's: these are in the file
  bool with_encoder = false;
};

// Draws pictures, encodes them again where the encoder is at hand, and writes the largest magnitude that each input
// channel of a matrix saw, for those matrices whose products of some of the rows come nearer to float32's that way: a
// safetensors file for LoadOptions::calibration. The pipeline is one without
// quantization, on the processor.
RAEDIT_API CalibrationSummary calibrate(Context& ctx, const RAEDiTPipeline& pipeline, const CalibrationOptions& options,
                                        const std::string& path);

}  // namespace raedit
