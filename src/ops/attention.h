// Scaled dot-product attention without mask or dropout.
#pragma once

#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::ops {

// softmax(q k^T / sqrt(Dh)) v per head. q [B,N,H,Dh], k and v [B,Nk,H,Dh] -> [B,N,H,Dh].
Tensor attention(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v);

}  // namespace raedit::ops

namespace raedit::composite {
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v);
}
