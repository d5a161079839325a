// Resizing feature maps and pictures as torch.nn.functional.interpolate does, with half-pixel centres
// (align_corners=False).
#pragma once

#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::ops {

enum class Filter {
  bilinear,           // 2 taps
  bicubic,            // 4 taps, a = -0.75, no antialias
  bicubic_antialias,  // a = -0.5, support widened when shrinking, weights normalised (also when enlarging)
};

// x [B,C,H,W] -> [B,C,height,width]. Source: pytorch aten/src/ATen/native/cpu/UpSampleKernel.cpp (formulas).
Tensor resample(Context& ctx, const Tensor& x, int64_t height, int64_t width, Filter filter);

}  // namespace raedit::ops

namespace raedit::composite {
Tensor resample(const Tensor& x, int64_t height, int64_t width, ops::Filter filter);
}
