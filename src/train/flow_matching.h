// The flow-matching objective: the model is shown sigma * noise + (1 - sigma) * latents at time sigma and is to say
// noise - latents. Source: diffusers' examples of pull request 13231 (train_rae_dit.py); Lipman et al.,
// https://arxiv.org/abs/2210.02747.
#pragma once

#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::train {

struct FlowMatchingPair {
  Tensor noisy;   // sigma * noise + (1 - sigma) * latents
  Tensor target;  // noise - latents
};

// latents and noise [B,...] and sigmas [B], wherever they are; the results are float32, on the device. Throws
// Error(invalid_argument) for operands that do not fit together.
FlowMatchingPair flow_matching(Context& ctx, const Tensor& latents, const Tensor& noise, const Tensor& sigmas);

// Adds to loss[0], float64 and on the device: the mean over the batch of weight * mean of squares, as the share of one
// of `parts` micro-batches. Returns its derivative by prediction, float32. prediction and target [B,...], weights [B].
Tensor velocity_loss(Context& ctx, const Tensor& prediction, const Tensor& target, const Tensor& weights, int64_t parts,
                     const Tensor& loss);

}  // namespace raedit::train
