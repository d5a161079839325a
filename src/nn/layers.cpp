#include "nn/layers.h"

#include "ops/activation.h"
#include "ops/attention.h"

namespace raedit::nn {

Linear::Linear(int64_t in_features, int64_t out_features, bool with_bias)
    : weight(Parameter::Role::matrix, {out_features, in_features}) {
  if (with_bias) bias = Parameter(Parameter::Role::vector, {out_features});
}

Tensor Linear::forward(Context& ctx, const Tensor& x, Activation act) const {
  return ops::linear(ctx, x, weight.matrix(), bias.value, act);
}

Norm Norm::layer(int64_t width, float eps, bool affine) {
  Norm norm;
  norm.eps = eps;
  if (affine) {
    norm.weight = Parameter(Parameter::Role::vector, {width});
    norm.bias = Parameter(Parameter::Role::vector, {width});
  }
  return norm;
}

Norm Norm::rms(int64_t width, float eps) {
  Norm norm;
  norm.kind = NormKind::rms;
  norm.eps = eps;
  norm.weight = Parameter(Parameter::Role::vector, {width});
  return norm;
}

Tensor Norm::forward(Context& ctx, const Tensor& x) const {
  return kind == NormKind::rms ? ops::rms_norm(ctx, x, weight.value, eps)
                               : ops::layer_norm(ctx, x, weight.value, bias.value, eps);
}

Tensor Norm::modulated(Context& ctx, const Tensor& x, const Tensor& shift, const Tensor& scale) const {
  return ops::modulated_norm(ctx, x, kind, eps, weight.value, shift, scale);
}

Attention::Attention(int64_t width, int64_t heads, const AttentionNames& parts)
    : names(parts),
      num_heads(heads),
      to_q(width, width),
      to_k(width, width),
      to_v(width, width),
      to_out(width, width) {}

Tensor Attention::forward(Context& ctx, const Tensor& x, const Rope* rope) const {
  const Shape per_head{x.dim(0), x.dim(1), num_heads, x.dim(2) / num_heads};
  Tensor query = to_q.forward(ctx, x).reshape(per_head);
  Tensor key = to_k.forward(ctx, x).reshape(per_head);
  const Tensor value = to_v.forward(ctx, x).reshape(per_head);
  if (q_norm) query = q_norm->forward(ctx, query);
  if (k_norm) key = k_norm->forward(ctx, key);
  if (rope != nullptr) {
    query = rope->forward(ctx, query);
    key = rope->forward(ctx, key);
  }
  return to_out.forward(ctx, ops::attention(ctx, query, key, value).reshape(x.shape()));
}

FeedForward::FeedForward(int64_t width, int64_t inner, bool swiglu)
    : use_swiglu(swiglu), proj(width, swiglu ? 2 * inner : inner), out(inner, width) {}

Tensor FeedForward::forward(Context& ctx, const Tensor& x) const {
  const Tensor hidden =
      use_swiglu ? ops::swiglu(ctx, proj.forward(ctx, x)) : proj.forward(ctx, x, Activation::gelu_tanh);
  return out.forward(ctx, hidden);
}

}  // namespace raedit::nn
