// add_gated: the residual step of a DiT block and of LayerScale.
#pragma once

#include "ops/norm.h"
#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::ops {

// x + gate * y. y has x's shape; gate anything that broadcasts to it: [B,1,D], [B,N,D] or [D] float32.
Tensor add_gated(Context& ctx, const Tensor& x, const Tensor& y, const Tensor& gate);

// sum = x + gate * y, as above, and normed = modulated_norm(sum), for a product or not: one pass over both where the
// device has it.
struct GatedNorm {
  Tensor sum, normed;
};
GatedNorm add_gated_norm(Context& ctx, const Tensor& x, const Tensor& y, const Tensor& gate, NormKind kind, float eps,
                         const Tensor& weight, const Tensor& shift, const Tensor& scale, bool for_product = false);

}  // namespace raedit::ops

namespace raedit::composite {
Tensor add_gated(const Tensor& x, const Tensor& y, const Tensor& gate);
}
