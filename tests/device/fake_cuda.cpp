// A stand-in for libraedit_cuda.so: the CPU's kernels behind a device whose memory the processor cannot read
// (fake_device_memory.h). RAEDIT_CUDA_LIBRARY names it, and then everything that the house does for a device with its
// own memory, fused kernels and graphs runs on machines without one. A host tensor that reaches a kernel, an output
// that nobody wrote and a captured step that looks at its results fail here as they would on a GPU.
#include <cstdlib>
#include <functional>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cuda/plugin.h"
#include "core/check.h"
#include "fake_device_memory.h"
#include "raedit/export.h"

namespace raedit::test {
namespace {

using backend::Activation;
using backend::AdamWStep;
using backend::Binary;
using backend::NormArgs;
using backend::NormGrads;
using backend::PackedMatrix;
using backend::ResampleAxis;
using backend::Trained;
using backend::TrainedSet;
using Steps = std::vector<std::function<void()>>;

// What a captured step consists of, while it is captured.
thread_local Steps* captured = nullptr;

void enqueue(std::function<void()> step) {
  if (captured != nullptr)
    captured->push_back(std::move(step));
  else
    step();
}

// The queue of the device: what is asked of the memory is captured, too.
class Memory final : public DeviceMemory {
 public:
  std::byte* allocate(size_t bytes) const noexcept override { return memory_->allocate(bytes); }
  void free(std::byte* data) const noexcept override {
    memory_->free(data);
    if (memory_->mistakes() > 0) std::abort();  // something was written behind the end of a block
  }
  void to_host(void* target, const std::byte* source, size_t bytes) const override {
    RAEDIT_CHECK(captured == nullptr, {.code = ErrorCode::internal, .what = "a captured step waits for its results"});
    memory_->to_host(target, source, bytes);
  }
  void from_host(std::byte* target, const void* source, size_t bytes) const override {
    constexpr size_t kInline = 2048;  // as on the GPU: more cannot be captured
    RAEDIT_CHECK(captured == nullptr || bytes <= kInline,
                 {.code = ErrorCode::internal, .what = "a host operand cannot be part of a captured step"});
    const auto* first = static_cast<const std::byte*>(source);
    const std::vector<std::byte> values(first, first + bytes);
    enqueue([memory = memory_, target, values] { memory->from_host(target, values.data(), values.size()); });
  }
  void zero(std::byte* target, size_t bytes) const override {
    enqueue([memory = memory_, target, bytes] { memory->zero(target, bytes); });
  }

  // The tensor as the processor reads it. Its address alone is remembered, as a graph does: whoever frees what a
  // captured step reads finds NaN.
  Tensor reach(const Tensor& tensor) const {
    if (!tensor.defined()) return tensor;
    RAEDIT_CHECK(!tensor.on_host(), {.code = ErrorCode::internal, .what = "a host tensor has reached a kernel"});
    if (tensor.numel() == 0) return Tensor::empty(tensor.shape(), tensor.dtype());
    const Storage& storage = *tensor.storage();
    std::byte* at = memory_->reach(storage.data(), storage.bytes());
    return tensor.same_view_of(std::make_shared<Storage>(at, storage.bytes(), nullptr), tensor.dtype());
  }

 private:
  // Of the process: models are loaded by one instance and run by others.
  static const std::shared_ptr<FakeDeviceMemory>& all() {
    static const auto memory = std::make_shared<FakeDeviceMemory>();
    return memory;
  }
  std::shared_ptr<FakeDeviceMemory> memory_ = all();
};

class FakeGraph final : public backend::Graph {
 public:
  explicit FakeGraph(Steps steps) : steps_(std::move(steps)) {}
  void launch() const override {
    for (const auto& step : steps_) step();
  }

 private:
  Steps steps_;
};

class FakeCuda final : public backend::Kernels {
 public:
  std::shared_ptr<const DeviceMemory> memory() const override { return memory_; }
  std::unique_ptr<backend::Graph> capture(const std::function<void()>& work) const override {
    Steps steps;
    struct Scope {
      explicit Scope(Steps* to) { captured = to; }
      ~Scope() { captured = nullptr; }
    } const scope(&steps);
    work();
    return std::make_unique<FakeGraph>(std::move(steps));
  }
  std::string description() const override { return "cuda:0, a fake"; }
  double ceiling_flops(DType dtype) const override { return cpu_.ceiling_flops(dtype); }

  std::shared_ptr<const PackedMatrix> pack(const Tensor& weight, DType compute) const override {
    return cpu_.pack(weight.on_host() ? weight : at(weight), compute);
  }
  void linear(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, Activation act,
              const Tensor& out) const override {
    enqueue([=, this, &weight, x = at(x), bias = at(bias), out = at(out)] { cpu_.linear(x, weight, bias, act, out); });
  }
  void matmul(const Tensor& a, const Tensor& b, const Tensor& out, bool accumulate, DType compute) const override {
    enqueue([=, this, a = at(a), b = at(b), out = at(out)] { cpu_.matmul(a, b, out, accumulate, compute); });
  }
  void attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale, const Tensor& out) const override {
    enqueue([=, this, q = at(q), k = at(k), v = at(v), out = at(out)] { cpu_.attention(q, k, v, scale, out); });
  }
  void attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                          const Tensor& dq, const Tensor& dk, const Tensor& dv) const override {
    enqueue([=, this, dout = at(dout), q = at(q), k = at(k), v = at(v), dq = at(dq), dk = at(dk), dv = at(dv)] {
      cpu_.attention_backward(dout, q, k, v, scale, dq, dk, dv);
    });
  }

  void norm(const NormArgs& args, const Tensor& out) const override {
    enqueue([this, args = at(args), out = at(out)] { cpu_.norm(args, out); });
  }
  bool fused() const override { return true; }
  bool joins() const override { return true; }
  bool linear_swiglu(const Tensor& x, const PackedMatrix& weight, const Tensor& bias,
                     const Tensor& out) const override {
    enqueue([this, &weight, x = at(x), bias = at(bias), out = at(out)] {
      const Tensor both = Tensor::empty({x.dim(0), weight.n}, x.dtype());
      cpu_.linear(x, weight, bias, Activation::none, both);
      cpu_.swiglu(both, out);
    });
    return true;
  }
  void norm_rope(const NormArgs& args, const Tensor& cos, const Tensor& sin, const Tensor& out) const override {
    enqueue([this, args = at(args), cos = at(cos), sin = at(sin), out = at(out)] {
      const Tensor normed = cos.defined() ? Tensor::empty(out.shape(), out.dtype()) : out;
      cpu_.norm(args, normed);
      if (cos.defined()) cpu_.rope(normed, cos, sin, false, out);
    });
  }
  void add_gated_norm(const Tensor& x, const Tensor& y, const Tensor& gate, const NormArgs& args,
                      const Tensor& out) const override {
    enqueue([this, x = at(x), y = at(y), gate = at(gate), args = at(args), out = at(out)] {
      cpu_.add_gated(x, y, gate, args.x);
      cpu_.norm(args, out);
    });
  }
  void norm_backward(const Tensor& dout, const NormArgs& args, const NormGrads& grads) const override {
    enqueue([this, dout = at(dout), args = at(args),
             grads = NormGrads{at(grads.x), at(grads.weight), at(grads.bias), at(grads.scale), at(grads.shift)}] {
      cpu_.norm_backward(dout, args, grads);
    });
  }

  void activation(Activation kind, const Tensor& x, const Tensor& out) const override {
    enqueue([this, kind, x = at(x), out = at(out)] { cpu_.activation(kind, x, out); });
  }
  void activation_backward(Activation kind, const Tensor& dout, const Tensor& x, const Tensor& dx) const override {
    enqueue([this, kind, dout = at(dout), x = at(x), dx = at(dx)] { cpu_.activation_backward(kind, dout, x, dx); });
  }
  void swiglu(const Tensor& x, const Tensor& out) const override {
    enqueue([this, x = at(x), out = at(out)] { cpu_.swiglu(x, out); });
  }
  void swiglu_backward(const Tensor& dout, const Tensor& x, const Tensor& dx) const override {
    enqueue([this, dout = at(dout), x = at(x), dx = at(dx)] { cpu_.swiglu_backward(dout, x, dx); });
  }
  void add_gated(const Tensor& x, const Tensor& y, const Tensor& gate, const Tensor& out) const override {
    enqueue([this, x = at(x), y = at(y), gate = at(gate), out = at(out)] { cpu_.add_gated(x, y, gate, out); });
  }
  void add_gated_backward(const Tensor& dout, const Tensor& y, const Tensor& gate, const Tensor& dx, const Tensor& dy,
                          const Tensor& dgate) const override {
    enqueue([this, dout = at(dout), y = at(y), gate = at(gate), dx = at(dx), dy = at(dy), dgate = at(dgate)] {
      cpu_.add_gated_backward(dout, y, gate, dx, dy, dgate);
    });
  }
  void binary(Binary kind, const Tensor& a, const Tensor& b, const Tensor& out) const override {
    enqueue([this, kind, a = at(a), b = at(b), out = at(out)] { cpu_.binary(kind, a, b, out); });
  }
  void binary_backward(Binary kind, const Tensor& dout, const Tensor& a, const Tensor& b, const Tensor& da,
                       const Tensor& db) const override {
    enqueue([this, kind, dout = at(dout), a = at(a), b = at(b), da = at(da), db = at(db)] {
      cpu_.binary_backward(kind, dout, a, b, da, db);
    });
  }
  void add_scaled(const Tensor& a, float alpha, const Tensor& b, const Tensor& out) const override {
    enqueue([this, alpha, a = at(a), b = at(b), out = at(out)] { cpu_.add_scaled(a, alpha, b, out); });
  }
  void clamp(const Tensor& x, float low, float high, const Tensor& out) const override {
    enqueue([this, low, high, x = at(x), out = at(out)] { cpu_.clamp(x, low, high, out); });
  }

  void rope(const Tensor& x, const Tensor& cos, const Tensor& sin, bool inverse, const Tensor& out) const override {
    enqueue([this, inverse, x = at(x), cos = at(cos), sin = at(sin), out = at(out)] {
      cpu_.rope(x, cos, sin, inverse, out);
    });
  }
  void embedding(const Tensor& table, const Tensor& ids, const Tensor& out) const override {
    enqueue([this, table = at(table), ids = at(ids), out = at(out)] { cpu_.embedding(table, ids, out); });
  }
  void embedding_backward(const Tensor& dout, const Tensor& ids, const Tensor& dtable) const override {
    enqueue(
        [this, dout = at(dout), ids = at(ids), dtable = at(dtable)] { cpu_.embedding_backward(dout, ids, dtable); });
  }
  void fourier_features(const Tensor& t, const Tensor& w, const Tensor& out) const override {
    enqueue([this, t = at(t), w = at(w), out = at(out)] { cpu_.fourier_features(t, w, out); });
  }

  void copy(const Tensor& source, const Tensor& target) const override {
    enqueue([this, source = at(source), target = at(target)] { cpu_.copy(source, target); });
  }
  void accumulate(const Tensor& source, const Tensor& target) const override {
    enqueue([this, source = at(source), target = at(target)] { cpu_.accumulate(source, target); });
  }
  void resample(const Tensor& x, const ResampleAxis& vertical, const ResampleAxis& horizontal,
                const Tensor& out) const override {
    enqueue([=, this, x = at(x), out = at(out)] { cpu_.resample(x, vertical, horizontal, out); });
  }
  void resample_backward(const Tensor& dout, const ResampleAxis& vertical, const ResampleAxis& horizontal,
                         const Tensor& dx) const override {
    enqueue([=, this, dout = at(dout), dx = at(dx)] { cpu_.resample_backward(dout, vertical, horizontal, dx); });
  }

  double sum_of_squares(const Tensor& x) const override {
    RAEDIT_CHECK(captured == nullptr, {.code = ErrorCode::internal, .what = "a captured step waits for its results"});
    return cpu_.sum_of_squares(at(x));
  }

  void flow_matching(const Tensor& latents, const Tensor& noise, const Tensor& sigmas, const Tensor& noisy,
                     const Tensor& target) const override {
    enqueue([this, x = at(latents), noise = at(noise), sigmas = at(sigmas), noisy = at(noisy), target = at(target)] {
      cpu_.flow_matching(x, noise, sigmas, noisy, target);
    });
  }
  void velocity_loss(const Tensor& prediction, const Tensor& target, const Tensor& weights, int64_t parts,
                     const Tensor& gradient, const Tensor& loss) const override {
    enqueue([this, parts, prediction = at(prediction), target = at(target), weights = at(weights),
             gradient = at(gradient),
             loss = at(loss)] { cpu_.velocity_loss(prediction, target, weights, parts, gradient, loss); });
  }
  std::shared_ptr<const TrainedSet> trained_set(std::vector<Trained> tensors) const override {
    for (Trained& t : tensors)
      t = {at(t.grad), at(t.param), at(t.exp_avg), at(t.exp_avg_sq), at(t.average), at(t.rounded)};
    return cpu_.trained_set(std::move(tensors));
  }
  void gradient_norm(const TrainedSet& set, const Tensor& state) const override {
    enqueue([this, &set, state = at(state)] { cpu_.gradient_norm(set, state); });
  }
  void update(const TrainedSet& set, const Tensor& state, double max_norm, const Tensor& numbers,
              float ema_decay) const override {
    enqueue([this, &set, max_norm, ema_decay, state = at(state), numbers = at(numbers)] {
      cpu_.update(set, state, max_norm, numbers, ema_decay);
    });
  }

 private:
  Tensor at(const Tensor& tensor) const { return memory_->reach(tensor); }
  NormArgs at(const NormArgs& a) const {
    return {a.kind, a.eps, at(a.x), at(a.weight), at(a.bias), at(a.scale), at(a.shift)};
  }

  std::shared_ptr<const Memory> memory_ = std::make_shared<Memory>();
  backend::cpu::CpuKernels cpu_{2};
};

backend::Kernels* make_kernels(int index) {
  RAEDIT_CHECK(index == 0, {.code = ErrorCode::unsupported, .what = "CUDA cannot be used: there is only one fake"});
  return new FakeCuda;
}

constexpr backend::cuda::Plugin kPlugin{backend::cuda::kBuild, make_kernels};

}  // namespace
}  // namespace raedit::test

extern "C" RAEDIT_API const raedit::backend::cuda::Plugin* raedit_cuda_plugin() {
  return &raedit::test::kPlugin;
}
