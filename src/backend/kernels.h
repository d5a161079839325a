// The Kernels interface: what a device must be able to do. One implementation per device, chosen by the Context.
//
// Conventions, for every function below:
// - Tensors are on the device, already checked by ops/: shapes agree, dtypes are float32 or bfloat16 (ids int64).
//   `out` has the dtype of the first input unless said otherwise. Arithmetic is in float32.
// - The last dimension of an operand is contiguous (stride 1); outer dimensions may have any stride, 0 for broadcast.
//   Outputs are contiguous unless said otherwise.
// - An optional operand is a Tensor that is not defined().
// - Gradients (names begin with d) are float32, and the backward functions ADD to them. An undefined one is not wanted.
//   A gradient may have stride 0 where its operand was broadcast: contributions are summed there.
// - Results do not depend on the number of threads, and no row depends on how many other rows there are.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/check.h"
#include "raedit/tensor.h"
#include "tensor/memory.h"

namespace raedit::backend {

enum class Activation { none, silu, gelu, gelu_tanh };  // gelu is the exact one (erf)

enum class NormKind { layer, rms };

enum class Binary { add, sub, mul, div };

// A weight matrix [N,K] in the layout that linear() of this device reads. Made once, when a model is loaded.
class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  int64_t n = 0;  // output features
  int64_t k = 0;  // input features
  DType dtype = DType::float32;
  virtual size_t nbytes() const = 0;
};

// out = norm(x) * weight + bias, then * (1 + scale) + shift; each of the four is optional.
// layer: (x - mean) / sqrt(var + eps), mean first, population variance. rms: x / sqrt(mean(x^2) + eps).
struct NormArgs {
  NormKind kind = NormKind::layer;
  float eps = 1e-6f;
  Tensor x;       // [B,N,D]
  Tensor weight;  // [D] float32
  Tensor bias;    // [D] float32
  Tensor scale;   // [B,N,D], broadcast by stride
  Tensor shift;   // [B,N,D], broadcast by stride
};

struct NormGrads {
  Tensor x;       // [B,N,D]
  Tensor weight;  // [D]
  Tensor bias;    // [D]
  Tensor scale;   // [B,N,D], stride 0 where broadcast
  Tensor shift;   // [B,N,D], stride 0 where broadcast
};

// The numbers of one AdamW step, each rounded to float32 once: param *= decay; exp_avg += (g - exp_avg) * (1 - beta1);
// exp_avg_sq = exp_avg_sq * beta2 + g * g * (1 - beta2); param -= step_size * exp_avg / (sqrt(exp_avg_sq) / root +
// eps), where g = grad * grad_scale. Source: torch/optim/adamw.py; Loshchilov and Hutter,
// https://arxiv.org/abs/1711.05101.
struct AdamWStep {
  float grad_scale = 1;  // of clipping
  float decay = 1;       // 1 - lr * weight_decay
  float one_minus_beta1 = 0;
  float beta2 = 0;
  float one_minus_beta2 = 0;
  float step_size = 0;  // lr / (1 - beta1^t)
  float root = 1;       // sqrt(1 - beta2^t)
  float eps = 0;
};

// Where a gradient goes. `fresh`: nothing is there yet, so it is written, in float32 or bfloat16, whatever stands
// there; another is float32 and added to.
struct Gradient {
  Tensor at;
  bool fresh = false;

  bool wanted() const { return at.defined(); }
};

struct NormGradients {
  Gradient x, weight, bias, scale, shift;
};

// One trained parameter and all that a step of the optimizer reads and changes: contiguous and of one shape; float32
// but for `rounded`.
struct Trained {
  Tensor grad, param, exp_avg, exp_avg_sq;
  Tensor average;  // optional: the moving average of param
  Tensor rounded;  // optional, bfloat16: param as products read it
};

// What a device makes once of all of them, so that a step is a few launches.
class TrainedSet {
 public:
  explicit TrainedSet(std::vector<Trained> all) : tensors(std::move(all)) {}
  virtual ~TrainedSet() = default;
  std::vector<Trained> tensors;
};

// One output position of a resampled axis is a weighted sum of `count` input positions from `first` on (indices are
// clamped into the axis by whoever made the table, so weights of clamped taps are already merged).
struct ResampleAxis {
  struct Taps {
    int64_t first = 0;
    std::vector<float> weights;
  };
  std::vector<Taps> outputs;
};

// Work that was captured once and runs again as often as wanted, on the same memory.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void launch() const = 0;
};

class Kernels {
 public:
  virtual ~Kernels() = default;

  // Where the tensors of this device live; null for host memory.
  virtual std::shared_ptr<const DeviceMemory> memory() const { return nullptr; }
  // Waits until everything that was asked for is done. Nothing to do where calls return when they are done.
  virtual void synchronize() const {}
  // Runs `work` without its effects and keeps what it asked of the device, as long as the tensors that it used live;
  // null where a device has no such thing. Everything that `work` allocates must come from an arena that did the same
  // before.
  virtual std::unique_ptr<Graph> capture(const std::function<void()>& work) const {
    (void)work;
    return nullptr;
  }

  // From start_profile() on, every kernel is timed; profile() ends that and says which took how long, for people.
  // Nothing where a device cannot.
  virtual void start_profile() const {}
  virtual std::string profile() const { return ""; }

  // What runs here and why, for people: "cpu, 2 threads, avx512".
  virtual std::string description() const = 0;
  // Multiply-adds count as two operations a second: how fast the inner product runs on random numbers that already lie
  // in the first-level cache; on a GPU, a large matrix product. The bound that a whole model is compared with; measured
  // anew at each call (about 0.3 s).
  virtual double ceiling_flops(DType dtype) const = 0;

  // ---- linear algebra
  // weight: [N,K], any floating dtype, any strides. compute: float32 or bfloat16, the dtype linear() will see in x.
  virtual std::shared_ptr<const PackedMatrix> pack(const Tensor& weight, DType compute) const = 0;
  // The same in 8-bit integers, one scale a row; its dtype is int8, and linear() rounds the rows of x, which is float32
  // or bfloat16, to 8 bits as they come. input_max, optional: float32 [K], the largest magnitudes of the columns of x,
  // which weight and x then share between them (SmoothQuant, Xiao et al., 2211.10438): x is divided by
  // s = sqrt(input_max / max|weight|), weight multiplied. Throws Error(unsupported) where a device has no such product.
  virtual std::shared_ptr<const PackedMatrix> pack_int8(const Tensor& weight, const Tensor& input_max) const;
  // For linear_swiglu(), and read by linear() as well: rows [0,N/2) are the values, the others the gates.
  virtual std::shared_ptr<const PackedMatrix> pack_swiglu(const Tensor& weight, DType compute) const {
    return pack(weight, compute);
  }
  virtual std::shared_ptr<const PackedMatrix> pack_int8_swiglu(const Tensor& weight, const Tensor& input_max) const {
    return pack_int8(weight, input_max);
  }
  // out[M,N] = act(x[M,K] * weight^T + bias[N] float32). x of weight.dtype; out float32 or bfloat16.
  virtual void linear(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, Activation act,
                      const Tensor& out) const = 0;
  // out[M,N] float32 (+)= a[M,K] * b[K,N]; a and b of any strides and either dtype. For gradients. compute: bfloat16
  // allows a device to round float32 operands to bfloat16 first; float32 does not.
  virtual void matmul(const Tensor& a, const Tensor& b, const Tensor& out, bool accumulate, DType compute) const = 0;
  // softmax(q k^T * scale) v per head. q [B,N,H,Dh], k and v [B,Nk,H,Dh], out [B,N,H,Dh].
  virtual void attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale, const Tensor& out) const = 0;
  virtual void attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                                  const Tensor& dq, const Tensor& dk, const Tensor& dv) const = 0;

  // ---- norms
  virtual void norm(const NormArgs& args, const Tensor& out) const = 0;
  // Forms that a device may have for inference, several ops in one pass; ops/ composes them where fused() is false.
  virtual bool fused() const { return false; }
  // Whether matrices that read the same input are worth packing as one.
  virtual bool joins() const { return false; }
  // swiglu(linear(x)) of a pack_swiglu() matrix, out [M,N/2]; false where there is no such product for these operands:
  // nothing was done then.
  virtual bool linear_swiglu(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, const Tensor& out) const {
    (void)x, (void)weight, (void)bias, (void)out;
    return false;
  }
  // rope(norm(x)): args.x and out [B,N,H,Dh] (x of any outer strides), the norm over Dh without scale and shift; cos
  // and sin [N,Dh], undefined for the norm alone.
  virtual void norm_rope(const NormArgs& args, const Tensor& cos, const Tensor& sin, const Tensor& out) const;
  // sum = x + gate * y and out = norm(sum): args.x is `sum`. Both [B,N,D].
  virtual void add_gated_norm(const Tensor& x, const Tensor& y, const Tensor& gate, const NormArgs& args,
                              const Tensor& out) const;

  virtual void norm_backward(const Tensor& dout, const NormArgs& args, const NormGrads& grads) const = 0;

  // ---- element by element
  virtual void activation(Activation kind, const Tensor& x, const Tensor& out) const = 0;
  virtual void activation_backward(Activation kind, const Tensor& dout, const Tensor& x, const Tensor& dx) const = 0;
  // x [..., 2D] holds [value; gate]: out [..., D] = value * silu(gate).
  virtual void swiglu(const Tensor& x, const Tensor& out) const = 0;
  virtual void swiglu_backward(const Tensor& dout, const Tensor& x, const Tensor& dx) const = 0;
  // out = x + gate * y; gate has x's shape, broadcast by stride.
  virtual void add_gated(const Tensor& x, const Tensor& y, const Tensor& gate, const Tensor& out) const = 0;
  virtual void add_gated_backward(const Tensor& dout, const Tensor& y, const Tensor& gate, const Tensor& dx,
                                  const Tensor& dy, const Tensor& dgate) const = 0;
  // out = a op b; both have out's shape, broadcast by stride (the last dimension too).
  virtual void binary(Binary kind, const Tensor& a, const Tensor& b, const Tensor& out) const = 0;
  virtual void binary_backward(Binary kind, const Tensor& dout, const Tensor& a, const Tensor& b, const Tensor& da,
                               const Tensor& db) const = 0;
  // out = a + alpha * b, float32 arithmetic with the product rounded first (no fused multiply-add).
  virtual void add_scaled(const Tensor& a, float alpha, const Tensor& b, const Tensor& out) const = 0;
  // out = min(max(x, low), high)
  virtual void clamp(const Tensor& x, float low, float high, const Tensor& out) const = 0;

  // ---- position and lookup
  // Rotates the pairs (2k, 2k+1) of x [B,N,H,Dh] by cos/sin [N,Dh] float32; inverse rotates back (the gradient).
  virtual void rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool inverse, const Tensor& out) const = 0;
  // out[i,:] = table[ids[i],:]; table [V,D] of any floating dtype.
  virtual void embedding(const Tensor& table, const Tensor& ids, const Tensor& out) const = 0;
  virtual void embedding_backward(const Tensor& dout, const Tensor& ids, const Tensor& dtable) const = 0;
  // out [B,2F] = [sin(u), cos(u)], u = ((t * w) * 2) * pi in float32; t [B] and w [F] float32.
  virtual void fourier_features(const Tensor& t, const Tensor& w, const Tensor& out) const = 0;

  // ---- moving
  // Strided copy with conversion between any floating dtypes; same shape, any strides on both sides.
  virtual void copy(const Tensor& source, const Tensor& target) const = 0;
  // target += source, both float32, any strides on both sides (a gradient that arrives through a copy).
  virtual void accumulate(const Tensor& source, const Tensor& target) const = 0;
  // x [B,C,H,W] -> out [B,C,Ho,Wo], separable, rows (W) first.
  virtual void resample(const Tensor& x, const ResampleAxis& vertical, const ResampleAxis& horizontal,
                        const Tensor& out) const = 0;
  virtual void resample_backward(const Tensor& dout, const ResampleAxis& vertical, const ResampleAxis& horizontal,
                                 const Tensor& dx) const = 0;

  // Of a contiguous float32 tensor, in float64, summed in one fixed order.
  virtual double sum_of_squares(const Tensor& x) const = 0;

  // ---- training: a step that the host has no part in
  // noisy = sigma * noise + (1 - sigma) * latents, both products rounded, and target = noise - latents. All contiguous
  // float32 [B,...], sigmas [B].
  virtual void flow_matching(const Tensor& latents, const Tensor& noise, const Tensor& sigmas, const Tensor& noisy,
                             const Tensor& target) const = 0;
  // loss[0] (float64) += mean of weight * (prediction - target)^2 over all elements, divided by `parts`; summed in
  // float64 in one fixed order. gradient (float32): its derivative. All contiguous [B,...], weights [B] float32.
  virtual void velocity_loss(const Tensor& prediction, const Tensor& target, const Tensor& weights, int64_t parts,
                             const Tensor& gradient, const Tensor& loss) const = 0;

  virtual std::shared_ptr<const TrainedSet> trained_set(std::vector<Trained> tensors) const {
    return std::make_shared<TrainedSet>(std::move(tensors));
  }
  // state is float64 [3]: a loss; the norm of all gradients, which is set; 1 if both are finite or else 0, set too.
  virtual void gradient_norm(const TrainedSet& set, const Tensor& state) const = 0;
  // Nothing where the state says that something is not finite. Else AdamW with gradients scaled by min(1, max_norm /
  // (norm + 1e-6)), unscaled for max_norm <= 0; then average = ema_decay * average + (1 - ema_decay) * param, and
  // rounded copies. numbers, float32 [8]:
  // the members of AdamWStep, of which grad_scale is not read.
  virtual void update(const TrainedSet& set, const Tensor& state, double max_norm, const Tensor& numbers,
                      float ema_decay) const = 0;

  // ---- gradients that are written, not added to; in bfloat16, too (dout as well). These forms stand on the ones
  // above, and a device may do without what that costs in passes.
  // float32 zeros for the kernels of one call.
  virtual Tensor scratch(const Shape& shape) const { return zeros_on(memory(), shape); }
  // source, in either dtype
  virtual void copy_into(const Tensor& source, const Gradient& target) const;
  // linear() without an activation, the bias bfloat16: what a bfloat16 copy of a trained one is.
  virtual void linear_rounded(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, const Tensor& out) const;
  // a[M,K] * b[K,N]
  virtual void matmul_into(const Tensor& a, const Tensor& b, const Gradient& out, DType compute) const;
  // The sums over the rows of x [M,N]; out [N] float32.
  virtual void column_sums_into(const Tensor& x, const Gradient& out) const;
  virtual void attention_backward_into(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                       float scale, const Gradient& dq, const Gradient& dk, const Gradient& dv) const;
  virtual void norm_backward_into(const Tensor& dout, const NormArgs& args, const NormGradients& grads) const;
  virtual void activation_backward_into(Activation kind, const Tensor& dout, const Tensor& x, const Gradient& dx) const;
  virtual void swiglu_backward_into(const Tensor& dout, const Tensor& x, const Gradient& dx) const;
  // Of add_gated's y and gate; the gradient of x is dout.
  virtual void add_gated_backward_into(const Tensor& dout, const Tensor& y, const Tensor& gate, const Gradient& dy,
                                       const Gradient& dgate) const;
  virtual void rope_backward_into(const Tensor& dout, const Tensor& cos, const Tensor& sin, const Gradient& dx) const;
};

inline std::shared_ptr<const PackedMatrix> Kernels::pack_int8(const Tensor&, const Tensor&) const {
  raise({.code = ErrorCode::unsupported,
         .what = "this device has no products of 8-bit integers",
         .where = description(),
         .expected = "the processor",
         .hint = "quantize on the cpu, or use bfloat16 here"});
}

inline void Kernels::norm_rope(const NormArgs&, const Tensor&, const Tensor&, const Tensor&) const {
  raise({.code = ErrorCode::internal, .what = "not a kernel of this device", .where = "norm_rope"});
}
inline void Kernels::add_gated_norm(const Tensor&, const Tensor&, const Tensor&, const NormArgs&, const Tensor&) const {
  raise({.code = ErrorCode::internal, .what = "not a kernel of this device", .where = "add_gated_norm"});
}

// A float32 tensor to add to in the place of a Gradient, which gets what was added to zeros.
class AddedTo {
 public:
  AddedTo(const Kernels& kernels, const Gradient& gradient) : kernels_(kernels), gradient_(gradient) {
    if (!gradient.wanted() || !gradient.fresh)
      plain_ = gradient.at;
    else if (gradient.at.dtype() == DType::float32 && gradient.at.is_contiguous())
      fill_zero(plain_ = gradient.at);
    else
      plain_ = kernels.scratch(gradient.at.shape());
  }
  const Tensor& tensor() const { return plain_; }
  void finish() const {
    if (gradient_.wanted() && plain_.storage() != gradient_.at.storage()) kernels_.copy(plain_, gradient_.at);
  }

 private:
  const Kernels& kernels_;
  const Gradient& gradient_;
  Tensor plain_;
};

inline Tensor in_float32(const Kernels& kernels, const Tensor& tensor) {
  if (tensor.dtype() == DType::float32) return tensor;
  const Tensor wide = kernels.scratch(tensor.shape());
  kernels.copy(tensor, wide);
  return wide;
}

inline void Kernels::copy_into(const Tensor& source, const Gradient& target) const {
  if (!target.wanted()) return;
  if (target.fresh) return copy(source, target.at);
  accumulate(in_float32(*this, source), target.at);
}
inline void Kernels::linear_rounded(const Tensor& x, const PackedMatrix& weight, const Tensor& bias,
                                    const Tensor& out) const {
  linear(x, weight, in_float32(*this, bias), Activation::none, out);
}
inline void Kernels::matmul_into(const Tensor& a, const Tensor& b, const Gradient& out, DType compute) const {
  if (!out.wanted()) return;
  if (out.at.dtype() == DType::float32) return matmul(a, b, out.at, !out.fresh, compute);
  const Tensor product = scratch(out.at.shape());
  matmul(a, b, product, false, compute);
  copy(product, out.at);
}
inline void Kernels::column_sums_into(const Tensor& x, const Gradient& out) const {
  if (!out.wanted()) return;
  const AddedTo sums(*this, out);
  accumulate(in_float32(*this, x), sums.tensor().expand(x.shape()));
  sums.finish();
}
inline void Kernels::attention_backward_into(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                             float scale, const Gradient& dq, const Gradient& dk,
                                             const Gradient& dv) const {
  const AddedTo to_q(*this, dq), to_k(*this, dk), to_v(*this, dv);
  attention_backward(in_float32(*this, dout), q, k, v, scale, to_q.tensor(), to_k.tensor(), to_v.tensor());
  for (const AddedTo* to : {&to_q, &to_k, &to_v}) to->finish();
}
inline void Kernels::norm_backward_into(const Tensor& dout, const NormArgs& args, const NormGradients& grads) const {
  const AddedTo x(*this, grads.x), weight(*this, grads.weight), bias(*this, grads.bias), scale(*this, grads.scale),
      shift(*this, grads.shift);
  norm_backward(in_float32(*this, dout), args,
                {x.tensor(), weight.tensor(), bias.tensor(), scale.tensor(), shift.tensor()});
  for (const AddedTo* to : {&x, &weight, &bias, &scale, &shift}) to->finish();
}
inline void Kernels::activation_backward_into(Activation kind, const Tensor& dout, const Tensor& x,
                                              const Gradient& dx) const {
  const AddedTo to(*this, dx);
  activation_backward(kind, in_float32(*this, dout), x, to.tensor());
  to.finish();
}
inline void Kernels::swiglu_backward_into(const Tensor& dout, const Tensor& x, const Gradient& dx) const {
  const AddedTo to(*this, dx);
  swiglu_backward(in_float32(*this, dout), x, to.tensor());
  to.finish();
}
inline void Kernels::add_gated_backward_into(const Tensor& dout, const Tensor& y, const Tensor& gate,
                                             const Gradient& dy, const Gradient& dgate) const {
  const AddedTo to_y(*this, dy), to_gate(*this, dgate);
  add_gated_backward(in_float32(*this, dout), y, gate, Tensor(), to_y.tensor(), to_gate.tensor());
  to_y.finish();
  to_gate.finish();
}
inline void Kernels::rope_backward_into(const Tensor& dout, const Tensor& cos, const Tensor& sin,
                                        const Gradient& dx) const {
  const Tensor wide = in_float32(*this, dout);
  const Tensor back = scratch(dout.shape());
  rope(wide, cos, sin, true, back);
  copy_into(back, dx);
}

}  // namespace raedit::backend
