// The CPU implementation of Kernels: OpenMP loops over rows or tiles, Highway inside, one thread budget per instance.
// Files: gemm (packing and linear), attention, norm, elementwise, position (rope, lookups, times), moving (copies,
// resampling), optimizer (AdamW, EMA, norms). Each SIMD file is compiled once per instruction set by Highway's
// foreach_target and picked at run time.
#pragma once

#include "backend/kernels.h"
#include "backend/packed_store.h"
#include "tensor/arena.h"

namespace raedit::backend::cpu {

class CpuPackedMatrix;
class Int8Matrix;
struct Epilogue;

// threads >= 1.
std::unique_ptr<Kernels> make_cpu_kernels(int threads);

// The instruction set in use: "sse2", "avx2", "avx512". RAEDIT_FORCE_ISA=sse2|avx2|avx512|amx caps it (Error for
// other values); read once per process.
std::string isa_name();

class CpuKernels final : public Kernels, public PacksOnHost {
 public:
  explicit CpuKernels(int threads) : threads_(threads) { arena_.keep_blocks(); }

  std::string description() const override;
  double ceiling_flops(DType dtype) const override;
  std::string packed_layout() const override;
  void set_packed_store(std::shared_ptr<PackedStore> store) override { store_ = std::move(store); }

  std::shared_ptr<const PackedMatrix> pack(const Tensor& weight, DType compute) const override;
  std::shared_ptr<const PackedMatrix> pack_int8(const Tensor& weight, const Tensor& input_max) const override;
  std::shared_ptr<const PackedMatrix> pack_swiglu(const Tensor& weight, DType compute) const override;
  std::shared_ptr<const PackedMatrix> pack_int8_swiglu(const Tensor& weight, const Tensor& input_max) const override;
  void linear(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, Activation act,
              const Tensor& out) const override;
  bool linear_swiglu(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, const Tensor& out) const override;
  void matmul(const Tensor& a, const Tensor& b, const Tensor& out, bool accumulate, DType compute) const override;
  void matmul_into(const Tensor& a, const Tensor& b, const Gradient& out, DType compute) const override;
  void attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale, const Tensor& out) const override;
  void attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                          const Tensor& dq, const Tensor& dk, const Tensor& dv) const override;
  void attention_backward_into(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                               const Gradient& dq, const Gradient& dk, const Gradient& dv) const override;

  void norm(const NormArgs& args, const Tensor& out) const override;
  bool fused() const override { return true; }
  void norm_rope(const NormArgs& args, const Tensor& cos, const Tensor& sin, const Tensor& out) const override;
  void add_gated_norm(const Tensor& x, const Tensor& y, const Tensor& gate, const NormArgs& args,
                      const Tensor& out) const override;
  void norm_backward(const Tensor& dout, const NormArgs& args, const NormGrads& grads) const override;

  void activation(Activation kind, const Tensor& x, const Tensor& out) const override;
  void activation_backward(Activation kind, const Tensor& dout, const Tensor& x, const Tensor& dx) const override;
  void swiglu(const Tensor& x, const Tensor& out) const override;
  void swiglu_backward(const Tensor& dout, const Tensor& x, const Tensor& dx) const override;
  void add_gated(const Tensor& x, const Tensor& y, const Tensor& gate, const Tensor& out) const override;
  void add_gated_backward(const Tensor& dout, const Tensor& y, const Tensor& gate, const Tensor& dx, const Tensor& dy,
                          const Tensor& dgate) const override;
  void binary(Binary kind, const Tensor& a, const Tensor& b, const Tensor& out) const override;
  void binary_backward(Binary kind, const Tensor& dout, const Tensor& a, const Tensor& b, const Tensor& da,
                       const Tensor& db) const override;
  void add_scaled(const Tensor& a, float alpha, const Tensor& b, const Tensor& out) const override;
  void clamp(const Tensor& x, float low, float high, const Tensor& out) const override;

  void rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool inverse, const Tensor& out) const override;
  void embedding(const Tensor& table, const Tensor& ids, const Tensor& out) const override;
  void embedding_backward(const Tensor& dout, const Tensor& ids, const Tensor& dtable) const override;
  void fourier_features(const Tensor& t, const Tensor& w, const Tensor& out) const override;

  void copy(const Tensor& source, const Tensor& target) const override;
  void accumulate(const Tensor& source, const Tensor& target) const override;
  void resample(const Tensor& x, const ResampleAxis& vertical, const ResampleAxis& horizontal,
                const Tensor& out) const override;
  void resample_backward(const Tensor& dout, const ResampleAxis& vertical, const ResampleAxis& horizontal,
                         const Tensor& dx) const override;

  double sum_of_squares(const Tensor& x) const override;

  Tensor scratch(const Shape& shape) const override;
  void column_sums_into(const Tensor& x, const Gradient& out) const override;
  void norm_backward_into(const Tensor& dout, const NormArgs& args, const NormGradients& grads) const override;
  void activation_backward_into(Activation kind, const Tensor& dout, const Tensor& x,
                                const Gradient& dx) const override;
  void swiglu_backward_into(const Tensor& dout, const Tensor& x, const Gradient& dx) const override;
  void add_gated_backward_into(const Tensor& dout, const Tensor& y, const Tensor& gate, const Gradient& dy,
                               const Gradient& dgate) const override;
  void rope_backward_into(const Tensor& dout, const Tensor& cos, const Tensor& sin, const Gradient& dx) const override;

  void flow_matching(const Tensor& latents, const Tensor& noise, const Tensor& sigmas, const Tensor& noisy,
                     const Tensor& target) const override;
  void velocity_loss(const Tensor& prediction, const Tensor& target, const Tensor& weights, int64_t parts,
                     const Tensor& gradient, const Tensor& loss) const override;
  void gradient_norm(const TrainedSet& set, const Tensor& state) const override;
  void update(const TrainedSet& set, const Tensor& state, double max_norm, const Tensor& numbers,
              float ema_decay) const override;

 private:
  // Uninitialised memory that comes back with the next one; a few sizes only, so that products of all shapes share it.
  std::shared_ptr<Storage> temporary_bytes(size_t bytes) const;
  Tensor temporary(const Shape& shape, DType dtype) const;
  Tensor even_rows(const Tensor& x, DType dtype) const;
  std::shared_ptr<const PackedMatrix> pack_as(const Tensor& weight, DType compute, bool paired) const;
  std::shared_ptr<const PackedMatrix> pack_int8_as(const Tensor& weight, const Tensor& input_max, bool paired) const;
  void multiply(const Tensor& x, const PackedMatrix& weight, const Epilogue& finish) const;
  void multiply_int8(const Tensor& x, const Int8Matrix& weight, const Epilogue& finish) const;
  // out (+)= a * b of bfloat16 matrices, on the dot product.
  void multiply_halves(const Tensor& a, const Tensor& b, const Tensor& out, bool add) const;

  int threads_;
  std::shared_ptr<PackedStore> store_;  // may be null
  mutable Arena arena_;                 // of what lives for one call, and of packed weights
};

}  // namespace raedit::backend::cpu
