// Moving numbers without computing: copies, casts, concatenation, patches. All of it is on the tape.
#pragma once

#include <vector>

#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::ops {

// x itself when it is contiguous, else a contiguous copy.
Tensor contiguous(Context& ctx, const Tensor& x);
// x itself when it has this dtype, else a converted, contiguous copy.
Tensor cast(Context& ctx, const Tensor& x, DType dtype);
Tensor concat(Context& ctx, const std::vector<Tensor>& parts, int dim);

// [B,C,h*p,w*p] -> [B,h*w,C*p*p], channels slowest in a patch: the order of a patch embedding's convolution weight.
// Pixels beyond the last whole patch are dropped, as a strided convolution does.
Tensor patchify(Context& ctx, const Tensor& x, int64_t patch_size);
// [B,h*w,p*p*C] -> [B,C,h*p,w*p], channels fastest in a token: the order of the output layers of DiT and decoder.
Tensor unpatchify(Context& ctx, const Tensor& tokens, int64_t height, int64_t width, int64_t patch_size);

}  // namespace raedit::ops
