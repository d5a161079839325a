// The CUDA implementation of Kernels. Files: runtime (device, stream, errors), memory (what tensors live in), graph,
// gemm (packing, linear, matmul), attention, norm, elementwise, position (rope, lookups, times), moving (copies,
// resampling), training (loss, norms, AdamW with EMA); what goes back is in the *_backward files. numbers.cuh holds
// what kernels share, dispatch.h the way from a tensor to them.
#pragma once

#include "backend/cuda/runtime.h"
#include "backend/kernels.h"

namespace raedit::backend::cuda {

class CudaKernels final : public Kernels {
 public:
  explicit CudaKernels(int device);
  ~CudaKernels() override;

  std::shared_ptr<const DeviceMemory> memory() const override;
  void synchronize() const override;
  std::unique_ptr<Graph> capture(const std::function<void()>& work) const override;

  void start_profile() const override { rt_.start_profile(); }
  std::string profile() const override { return rt_.profile(); }
  std::string description() const override;
  double ceiling_flops(DType dtype) const override;

  std::shared_ptr<const PackedMatrix> pack(const Tensor& weight, DType compute) const override;
  void linear(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, Activation act,
              const Tensor& out) const override;
  void matmul(const Tensor& a, const Tensor& b, const Tensor& out, bool accumulate, DType compute) const override;
  void linear_rounded(const Tensor& x, const PackedMatrix& weight, const Tensor& bias,
                      const Tensor& out) const override;
  void matmul_into(const Tensor& a, const Tensor& b, const Gradient& out, DType compute) const override;
  void attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale, const Tensor& out) const override;
  void attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                          const Tensor& dq, const Tensor& dk, const Tensor& dv) const override;

  void norm(const NormArgs& args, const Tensor& out) const override;
  bool fused() const override { return true; }
  bool joins() const override { return true; }
  bool linear_swiglu(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, const Tensor& out) const override;
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

  void flow_matching(const Tensor& latents, const Tensor& noise, const Tensor& sigmas, const Tensor& noisy,
                     const Tensor& target) const override;
  void velocity_loss(const Tensor& prediction, const Tensor& target, const Tensor& weights, int64_t parts,
                     const Tensor& gradient, const Tensor& loss) const override;
  Tensor scratch(const Shape& shape) const override;
  void attention_backward_into(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                               const Gradient& dq, const Gradient& dk, const Gradient& dv) const override;
  void norm_backward_into(const Tensor& dout, const NormArgs& args, const NormGradients& grads) const override;
  void column_sums_into(const Tensor& x, const Gradient& out) const override;
  void activation_backward_into(Activation kind, const Tensor& dout, const Tensor& x,
                                const Gradient& dx) const override;
  void swiglu_backward_into(const Tensor& dout, const Tensor& x, const Gradient& dx) const override;
  void add_gated_backward_into(const Tensor& dout, const Tensor& y, const Tensor& gate, const Gradient& dy,
                               const Gradient& dgate) const override;
  void rope_backward_into(const Tensor& dout, const Tensor& cos, const Tensor& sin, const Gradient& dx) const override;
  std::shared_ptr<const TrainedSet> trained_set(std::vector<Trained> tensors) const override;
  void gradient_norm(const TrainedSet& set, const Tensor& state) const override;
  void update(const TrainedSet& set, const Tensor& state, double max_norm, const Tensor& numbers,
              float ema_decay) const override;

 private:
  std::shared_ptr<Runtime> runtime_;  // tensors that outlive this need it
  const Runtime& rt_;
  std::shared_ptr<const DeviceMemory> memory_;
};

}  // namespace raedit::backend::cuda
