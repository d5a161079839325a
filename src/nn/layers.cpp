#include "nn/layers.h"

#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/position.h"
#include "tensor/memory.h"

namespace raedit::nn {

Linear::Linear(int64_t in_features, int64_t out_features, bool with_bias)
    : weight(Parameter::Role::matrix, {out_features, in_features}) {
  if (with_bias) bias = Parameter(Parameter::Role::vector, {out_features});
}

Tensor Linear::forward(Context& ctx, const Tensor& x, Activation act) const {
  weight.see(ctx, x);
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
  return ops::modulated_norm(ctx, x, kind, eps, weight.value, shift, scale, true);
}

ops::GatedNorm Norm::after_branch(Context& ctx, const Tensor& x, const Tensor& y, const Tensor& gate,
                                  const Tensor& shift, const Tensor& scale) const {
  return ops::add_gated_norm(ctx, x, y, gate, kind, eps, weight.value, shift, scale, true);
}

Attention::Attention(int64_t width, int64_t heads, const AttentionNames& parts)
    : names(parts), num_heads(heads), to_q(width, width), to_k(width, width), to_v(width, width), to_out(width, width) {
  for (Linear* part : {&to_q, &to_k, &to_v}) part->weight.joined = true;
}

void Attention::prepare(const backend::Kernels& kernels) {
  if (!kernels.joins() || !to_q.weight.value.defined()) return;
  const DType dtype = to_out.weight.packed->dtype;
  const int64_t width = to_q.weight.shape[0];
  const Tensor weight = Tensor::empty({3 * width, to_q.weight.shape[1]}, to_q.weight.value.dtype());
  const Tensor bias = Tensor::empty({3 * width}, DType::float32);
  int64_t row = 0;
  for (const Linear* part : {&to_q, &to_k, &to_v}) {
    weight.slice(0, row, row + width).copy_from(part->weight.value);
    bias.slice(0, row, row + width).copy_from(part->bias.value);
    row += width;
  }
  qkv = nn::pack_like(to_q.weight, weight, dtype, kernels);
  qkv_bias = copy_to(bias, kernels.memory());
}

void Attention::join_trainable(const backend::Kernels& kernels) {
  const int64_t width = to_q.weight.shape[0];
  trained_weight_ = zeros_on(kernels.memory(), {3 * width, to_q.weight.shape[1]});
  trained_bias_ = zeros_on(kernels.memory(), {3 * width});
  int64_t row = 0;
  for (Linear* part : {&to_q, &to_k, &to_v}) {
    for (const auto& [parameter, all] : {std::pair{&part->weight, trained_weight_}, {&part->bias, trained_bias_}}) {
      const Tensor slice = all.slice(0, row, row + width);
      kernels.copy(parameter->value, slice);
      parameter->value = slice;
      parameter->source = slice.reshape(parameter->shape);
    }
    row += width;
  }
}

namespace {

// Heads [B,N,H,Dh], normed and turned.
Tensor placed(Context& ctx, const Tensor& x, const std::optional<Norm>& norm, const Rope* rope) {
  if (!norm) return rope != nullptr ? rope->forward(ctx, x) : x;
  const Tensor cos = rope != nullptr ? rope->freqs_cos.value : Tensor();
  const Tensor sin = rope != nullptr ? rope->freqs_sin.value : Tensor();
  return ops::norm_rope(ctx, x, norm->kind, norm->eps, norm->weight.value, norm->bias.value, cos, sin);
}

}  // namespace

Tensor Attention::forward_joined(Context& ctx, const Tensor& x, const ops::Matrix& weight, const Tensor& bias,
                                 const Rope* rope) const {
  for (const Linear* part : {&to_q, &to_k, &to_v}) part->weight.see(ctx, x);
  // [B,N,3H,Dh]: the heads of the queries, then those of the keys, then those of the values.
  const Tensor all =
      ops::linear(ctx, x, weight, bias).reshape({x.dim(0), x.dim(1), 3 * num_heads, x.dim(2) / num_heads});
  const auto heads = [this](const Tensor& t, int64_t part) {
    return t.slice(2, part * num_heads, (part + 1) * num_heads);
  };
  Tensor query, key;
  // With a tape one by one: gradients that are slices of one shape can be written without summing them in float32.
  if (q_norm || k_norm || ctx.tape() != nullptr) {
    query = placed(ctx, heads(all, 0), q_norm, rope);
    key = placed(ctx, heads(all, 1), k_norm, rope);
  } else {  // both at once
    const Tensor both = all.slice(2, 0, 2 * num_heads);
    const Tensor done = rope != nullptr ? rope->forward(ctx, both) : both;
    query = heads(done, 0);
    key = heads(done, 1);
  }
  return to_out.forward(ctx, ops::attention(ctx, query, key, heads(all, 2)).reshape(x.shape()));
}

Tensor Attention::forward(Context& ctx, const Tensor& x, const Rope* rope) const {
  if (qkv != nullptr && !to_q.weight.trainable) return forward_joined(ctx, x, {Tensor(), qkv}, qkv_bias, rope);
  if (trained_weight_.defined()) return forward_joined(ctx, x, {trained_weight_, nullptr}, trained_bias_, rope);
  const Shape per_head{x.dim(0), x.dim(1), num_heads, x.dim(2) / num_heads};
  const Tensor query = placed(ctx, to_q.forward(ctx, x).reshape(per_head), q_norm, rope);
  const Tensor key = placed(ctx, to_k.forward(ctx, x).reshape(per_head), k_norm, rope);
  const Tensor value = to_v.forward(ctx, x).reshape(per_head);
  return to_out.forward(ctx, ops::attention(ctx, query, key, value).reshape(x.shape()));
}

FeedForward::FeedForward(int64_t width, int64_t inner, bool swiglu)
    : use_swiglu(swiglu), proj(width, swiglu ? 2 * inner : inner), out(inner, width) {
  proj.weight.swiglu = swiglu;
}

Tensor FeedForward::forward(Context& ctx, const Tensor& x) const {
  if (use_swiglu) proj.weight.see(ctx, x);
  const Tensor hidden = use_swiglu ? ops::linear_swiglu(ctx, x, proj.weight.matrix(), proj.bias.value)
                                   : proj.forward(ctx, x, Activation::gelu_tanh);
  return out.forward(ctx, hidden);
}

}  // namespace raedit::nn
