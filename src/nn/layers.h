// Layers: parameters, and calls to ops. All of them are const while they run; names are the checkpoint's.
#pragma once

#include <string>
#include <utility>

#include "nn/parameter.h"
#include "nn/rope.h"
#include "ops/gated.h"
#include "ops/norm.h"

namespace raedit::nn {

using ops::Activation;
using ops::NormKind;

// x W^T + b
struct Linear {
  Parameter weight, bias;

  Linear() = default;
  Linear(int64_t in_features, int64_t out_features, bool with_bias = true);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("weight", self.weight);
    if (self.bias.shape.rank() > 0) visit("bias", self.bias);
  }

  // [...,in] -> [...,out]
  Tensor forward(Context& ctx, const Tensor& x, Activation act = Activation::none) const;
};

// LayerNorm or RMSNorm over the last dimension, with or without weight and bias.
struct Norm {
  NormKind kind = NormKind::layer;
  float eps = 1e-6f;
  Parameter weight, bias;

  Norm() = default;
  static Norm layer(int64_t width, float eps, bool affine);
  static Norm rms(int64_t width, float eps);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    if (self.weight.shape.rank() > 0) visit("weight", self.weight);
    if (self.bias.shape.rank() > 0) visit("bias", self.bias);
  }

  Tensor forward(Context& ctx, const Tensor& x) const;
  // norm(x) * (1 + scale) + shift, for products to read; shift may be undefined. Only for norms without bias.
  Tensor modulated(Context& ctx, const Tensor& x, const Tensor& shift, const Tensor& scale) const;
  // sum = x + gate * y and its modulated norm: what follows a branch of a DiT block.
  ops::GatedNorm after_branch(Context& ctx, const Tensor& x, const Tensor& y, const Tensor& gate, const Tensor& shift,
                              const Tensor& scale) const;
};

// Names of the five parts of an attention: they differ between model families.
struct AttentionNames {
  const char* query;
  const char* key;
  const char* value;
  const char* out;
};
inline constexpr AttentionNames kDiffusersAttention{"to_q", "to_k", "to_v", "to_out.0"};
inline constexpr AttentionNames kTransformersAttention{"attention.query", "attention.key", "attention.value",
                                                       "output.dense"};

// Multi-head self-attention with optional norms on queries and keys and optional rotary positions.
struct Attention {
  AttentionNames names = kDiffusersAttention;
  int64_t num_heads = 1;
  Linear to_q, to_k, to_v, to_out;
  std::optional<Norm> q_norm, k_norm;  // over the head width
  // The three products as one, where the device joins matrices.
  std::shared_ptr<const backend::PackedMatrix> qkv;  // [3D,D]
  Tensor qkv_bias;                                   // [3D]

  Attention() = default;
  Attention(int64_t width, int64_t heads, const AttentionNames& parts = kDiffusersAttention);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit(self.names.query, self.to_q);
    visit(self.names.key, self.to_k);
    visit(self.names.value, self.to_v);
    visit(self.names.out, self.to_out);
    visit("q_norm", self.q_norm);
    visit("k_norm", self.k_norm);
  }

  void prepare(const backend::Kernels& kernels);
  // The same for training: the three weights and biases become views of one tensor each. After make_trainable().
  void join_trainable(const backend::Kernels& kernels);
  // x [B,N,D] -> [B,N,D]; rope may be null.
  Tensor forward(Context& ctx, const Tensor& x, const Rope* rope = nullptr) const;

 private:
  Tensor forward_joined(Context& ctx, const Tensor& x, const ops::Matrix& weight, const Tensor& bias,
                        const Rope* rope) const;

  Tensor trained_weight_, trained_bias_;  // of join_trainable()
};

// diffusers' FeedForward: SwiGLU (net.0.proj holds [value; gate]) or tanh GELU.
struct FeedForward {
  bool use_swiglu = true;
  Linear proj, out;

  FeedForward() = default;
  FeedForward(int64_t width, int64_t inner, bool swiglu);

  template <class Self, class Visit>
  static void each_param(Self& self, Visit&& visit) {
    visit("net.0.proj", self.proj);
    visit("net.2", self.out);
  }

  Tensor forward(Context& ctx, const Tensor& x) const;
};

}  // namespace raedit::nn
