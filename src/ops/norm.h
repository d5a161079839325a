// Norms over the last dimension, alone or with the modulation of a DiT block (adaLN) in the same pass.
#pragma once

#include "backend/kernels.h"
#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::ops {

using backend::NormKind;

// (x - mean) / sqrt(var + eps) * weight + bias; weight and bias [D] float32, optional. Two passes: mean first.
Tensor layer_norm(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps);

// x / sqrt(mean(x^2) + eps) * weight; weight [D] float32, optional.
Tensor rms_norm(Context& ctx, const Tensor& x, const Tensor& weight, float eps);

// norm(x) * (1 + scale) + shift (Peebles and Xie, "Scalable Diffusion Models with Transformers", 2212.09748).
// x [B,N,D]; scale and shift [B,N,D], [B,1,D] or views of them; shift is optional (wo_shift). for_product: products
// alone will read the result, whose rows need not touch then (operand.h).
Tensor modulated_norm(Context& ctx, const Tensor& x, NormKind kind, float eps, const Tensor& weight,
                      const Tensor& shift, const Tensor& scale, bool for_product = false);

// For ops that norm in the same pass as something else: `out` is norm(args), of which `in` is what is on the device.
void record_norm(Context& ctx, const backend::NormArgs& args, const backend::NormArgs& in, const Tensor& out);

}  // namespace raedit::ops

namespace raedit::composite {
// All of the above: optional operands may be undefined; scale and shift [B,N,D] or broadcast to it.
Tensor norm(backend::NormKind kind, double eps, const Tensor& x, const Tensor& weight, const Tensor& bias,
            const Tensor& shift, const Tensor& scale);
}  // namespace raedit::composite
