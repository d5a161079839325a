// Classifier-free guidance and the interval in which it acts.
// Source: diffusers pipelines/rae_dit/pipeline_rae_dit.py; Ho and Salimans, https://arxiv.org/abs/2207.12598;
// Kynkaanniemi et al., https://arxiv.org/abs/2404.07724.
#pragma once

#include "raedit/context.h"

namespace raedit {

// uncond + scale * (cond - uncond), in this order. Both [B,...] of one shape and dtype. For autoguidance uncond is what
// the weaker model says.
Tensor classifier_free_guidance(Context& ctx, const Tensor& cond, const Tensor& uncond, double scale);

// Whether `t`, the model's time in [0,1], lies in [start, end], both ends included. Outside, the conditional output
// stands alone. The bounds are rounded to float32 first, as torch does with a number beside a float32 tensor: an end of
// 0.8 includes the float32 nearest to 0.8, though that is larger than 0.8.
bool guidance_active(float t, double start, double end);

}  // namespace raedit
