// The flow-matching objective: the model is shown sigma * noise + (1 - sigma) * latents at time sigma and is to say
// noise - latents. Source: diffusers' examples of pull request 13231 (train_rae_dit.py); Lipman et al.,
// https://arxiv.org/abs/2210.02747.
#pragma once

#include <span>

#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::train {

// sigma * noise + (1 - sigma) * latents; both [B,...] float32 and one sigma for each of B.
Tensor noisy_latents(const Tensor& latents, const Tensor& noise, std::span<const float> sigmas);
// noise - latents
Tensor velocity_target(const Tensor& latents, const Tensor& noise);

struct LossAndGradient {
  double loss = 0;  // the mean over the batch of weight * mean of squares
  Tensor gradient;  // d loss / d prediction, float32
};

// prediction and target [B,...]; one weight for each of B. The sum is formed in float64.
LossAndGradient velocity_loss(const Tensor& prediction, const Tensor& target, std::span<const float> weights);

}  // namespace raedit::train
