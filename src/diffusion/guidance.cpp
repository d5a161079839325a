#include "diffusion/guidance.h"

#include "ops/elementwise.h"

namespace raedit {

Tensor classifier_free_guidance(Context& ctx, const Tensor& cond, const Tensor& uncond, double scale) {
  // Not add_scaled: in bfloat16 the reference rounds the product as well.
  return ops::add(ctx, uncond, ops::scale(ctx, ops::sub(ctx, cond, uncond), static_cast<float>(scale)));
}

bool guidance_active(float t, double start, double end) {
  return t >= static_cast<float>(start) && t <= static_cast<float>(end);
}

}  // namespace raedit
