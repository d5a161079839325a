#include "backend/counting/counting_kernels.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <utility>

namespace raedit::backend {
namespace {

class CountedMatrix final : public PackedMatrix {
 public:
  Tensor numbers;
  size_t nbytes() const override { return numbers.nbytes(); }
};

// The gradients that are written stand on the forms below (backend/kernels.h), and so their passes are counted, too.
class CountingKernels : public Kernels {
 public:
  CountingKernels(std::shared_ptr<const CountingMemory> memory, std::shared_ptr<Arena> work, bool joins)
      : memory_(std::move(memory)), work_(std::move(work)), joins_(joins) {}

  std::shared_ptr<const DeviceMemory> memory() const override { return memory_; }
  std::string description() const override { return "counting"; }
  double ceiling_flops(DType) const override { return 0; }
  bool fused() const override { return true; }
  bool joins() const override { return joins_; }
  Tensor scratch(const Shape& shape) const override {
    return Tensor(work_->allocate(static_cast<size_t>(shape.numel()) * sizeof(float)), 0, shape, DType::float32);
  }

  std::shared_ptr<const PackedMatrix> pack(const Tensor& weight, DType compute) const override {
    constexpr int64_t kColumns = 64;  // the processor packs whole tiles
    auto packed = std::make_shared<CountedMatrix>();
    packed->n = weight.dim(0);
    packed->k = weight.dim(1);
    packed->dtype = compute;
    const int64_t columns = (packed->n + kColumns - 1) / kColumns * kColumns;
    packed->numbers = scratch({compute == DType::bfloat16 ? columns / 2 : columns, packed->k});
    return packed;
  }
  void matmul(const Tensor& a, const Tensor& b, const Tensor& out, bool accumulate, DType) const override {
    const bool ready = a.dtype() == DType::float32 && a.is_contiguous();
    const Tensor rows = ready ? Tensor() : scratch(a.shape());
    const auto columns = pack(b.transpose(0, 1), DType::float32);
    if (accumulate) scratch(out.shape());
  }

  void linear(const Tensor&, const PackedMatrix&, const Tensor&, Activation, const Tensor&) const override {}
  void attention(const Tensor&, const Tensor&, const Tensor&, float, const Tensor&) const override {}
  void attention_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, float, const Tensor&,
                          const Tensor&, const Tensor&) const override {}
  void norm(const NormArgs&, const Tensor&) const override {}
  void norm_rope(const NormArgs&, const Tensor&, const Tensor&, const Tensor&) const override {}
  void add_gated_norm(const Tensor&, const Tensor&, const Tensor&, const NormArgs&, const Tensor&) const override {}
  void norm_backward(const Tensor&, const NormArgs&, const NormGrads&) const override {}
  void activation(Activation, const Tensor&, const Tensor&) const override {}
  void activation_backward(Activation, const Tensor&, const Tensor&, const Tensor&) const override {}
  void swiglu(const Tensor&, const Tensor&) const override {}
  void swiglu_backward(const Tensor&, const Tensor&, const Tensor&) const override {}
  void add_gated(const Tensor&, const Tensor&, const Tensor&, const Tensor&) const override {}
  void add_gated_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                          const Tensor&) const override {}
  void binary(Binary, const Tensor&, const Tensor&, const Tensor&) const override {}
  void binary_backward(Binary, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                       const Tensor&) const override {}
  void add_scaled(const Tensor&, float, const Tensor&, const Tensor&) const override {}
  void clamp(const Tensor&, float, float, const Tensor&) const override {}
  void rope(const Tensor&, const Tensor&, const Tensor&, bool, const Tensor&) const override {}
  void embedding(const Tensor&, const Tensor&, const Tensor&) const override {}
  void embedding_backward(const Tensor&, const Tensor&, const Tensor&) const override {}
  void fourier_features(const Tensor&, const Tensor&, const Tensor&) const override {}
  void copy(const Tensor&, const Tensor&) const override {}
  void accumulate(const Tensor&, const Tensor&) const override {}
  void resample(const Tensor&, const ResampleAxis&, const ResampleAxis&, const Tensor&) const override {}
  void resample_backward(const Tensor&, const ResampleAxis&, const ResampleAxis&, const Tensor&) const override {}
  double sum_of_squares(const Tensor&) const override { return 0; }
  void flow_matching(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) const override {}
  void velocity_loss(const Tensor&, const Tensor&, const Tensor&, int64_t, const Tensor&,
                     const Tensor&) const override {}
  void gradient_norm(const TrainedSet&, const Tensor&) const override {}
  void update(const TrainedSet&, const Tensor&, double, const Tensor&, float) const override {}

 private:
  std::shared_ptr<const CountingMemory> memory_;
  std::shared_ptr<Arena> work_;
  bool joins_;
};

class CountingForward final : public CountingKernels {
 public:
  explicit CountingForward(const Kernels& real)
      : CountingKernels(nullptr, std::make_shared<Arena>(Arena::AddressesOnly{}), real.joins()), real_(real) {}

  bool fused() const override { return real_.fused(); }
  // Whether there is such a product it says where there are no rows, too.
  bool linear_swiglu(const Tensor& x, const PackedMatrix& weight, const Tensor& bias,
                     const Tensor& out) const override {
    return real_.linear_swiglu(x.slice(0, 0, 0), weight, bias, out.slice(0, 0, 0));
  }

 private:
  const Kernels& real_;
};

}  // namespace

CountingMemory::~CountingMemory() {
  for (const auto& [data, bytes] : blocks_) ::munmap(data, bytes);
}

std::byte* CountingMemory::allocate(size_t bytes) const noexcept {
  const size_t size = std::max<size_t>(bytes, 1);
  void* data = ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  try {
    blocks_.emplace(static_cast<std::byte*>(data), size);
  } catch (const std::bad_alloc&) {
    ::munmap(data, size);
    return nullptr;
  }
  return static_cast<std::byte*>(data);
}

void CountingMemory::free(std::byte* data) const noexcept {
  const auto block = blocks_.find(data);
  if (block == blocks_.end()) return;
  ::munmap(data, block->second);
  blocks_.erase(block);
}

std::unique_ptr<Kernels> make_counting_kernels(std::shared_ptr<const CountingMemory> memory,
                                               std::shared_ptr<Arena> work, bool joins) {
  return std::make_unique<CountingKernels>(std::move(memory), std::move(work), joins);
}

std::unique_ptr<Kernels> make_counting_kernels(const Kernels& real) {
  return std::make_unique<CountingForward>(real);
}

}  // namespace raedit::backend
