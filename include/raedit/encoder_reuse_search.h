// Which steps should compute the encoder stream, when only so many may: encoder sharing by dynamic programming (DDT,
// Wang et al., 2504.05741, section 3.4). The list fits the model, steps and guidance that it was found with.
#pragma once

#include <cstdint>

#include "raedit/context.h"
#include "raedit/export.h"
#include "raedit/rae_dit_pipeline.h"

namespace raedit {

struct EncoderReuseSearch {
  int64_t passes = 1;                // steps that compute, 1 to num_inference_steps
  int64_t num_inference_steps = 50;  // up to 10000
  int64_t pictures = 8;              // of classes that lie evenly among all; picture k is drawn from seed + k
  uint64_t seed = 0;
  // As RAEDiTPipelineArguments has them. The first step of guidance computes whatever is asked for, since half of its
  // tokens would be missing, and is one of the passes.
  double guidance_scale = 1.0;
  const RAEDiT2DModel* guide_transformer = nullptr;
  double guidance_start = 0.0;
  double guidance_end = 1.0;
};

struct EncoderReuseFound {
  EncoderReuse reuse;     // its list of steps
  double similarity = 0;  // mean over all steps, 1 where a step has tokens of its own
  // Beside it: as many passes at even distance, and the first step of guidance where it needs one more.
  EncoderReuse even;
  double even_similarity = 0;
};

// Draws the pictures without reuse, one after the other, and measures how alike the tokens of any two steps are: the
// mean cosine between a token and the one in its place. The list is one with the largest sum, over all steps, of the
// similarity of a step's own tokens to those that it takes; of several such lists the first in order. Tokens are those
// that reuse would keep: the raw stream, before the time is added, with guidance of the conditional half, which is all
// that every step has. Holds the tokens of all steps of one picture in float32 (XL: 1.2 MB a step), and steps squared
// numbers. Progress is that of a request for each picture. Throws Error(invalid_argument) before any work for what the
// pipeline would refuse, and for counts out of range.
RAEDIT_API EncoderReuseFound find_encoder_reuse(Context& ctx, const RAEDiTPipeline& pipeline,
                                                const EncoderReuseSearch& search);

}  // namespace raedit
