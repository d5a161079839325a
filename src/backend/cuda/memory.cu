#include "backend/cuda/memory.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>

#include "core/check.h"

namespace raedit::backend::cuda {
namespace {

constexpr size_t kPiece = size_t{8} << 20;  // of pinned memory; two of them keep the processor and the bus busy

struct InlineBytes {
  unsigned char at[kInlineBytes];
};

__global__ void store_bytes(const __grid_constant__ InlineBytes bytes, unsigned char* target, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) target[i] = bytes.at[i];
}

class CudaMemory final : public DeviceMemory {
 public:
  explicit CudaMemory(std::shared_ptr<const Runtime> runtime) : runtime_(std::move(runtime)) {}

  ~CudaMemory() override {
    (void)cudaStreamSynchronize(runtime_->stream());
    for (Piece& piece : pieces_) {
      if (piece.free != nullptr) (void)cudaEventDestroy(piece.free);
      (void)cudaFreeHost(piece.bytes);
    }
  }

  std::byte* allocate(size_t bytes) const noexcept override {
    void* data = nullptr;
    if (cudaMalloc(&data, bytes) == cudaSuccess) return static_cast<std::byte*>(data);
    (void)cudaGetLastError();
    return nullptr;
  }

  void free(std::byte* data) const noexcept override { (void)cudaFree(data); }

  void to_host(void* target, const std::byte* source, size_t bytes) const override {
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, runtime_->stream()), "copy to the host");
    runtime_->synchronize();
  }

  void from_host(std::byte* target, const void* source, size_t bytes) const override {
    if (bytes <= kInlineBytes) return store(target, source, bytes);
    RAEDIT_CHECK(!capturing(), {.code = ErrorCode::internal,
                                .what = "a host operand cannot be part of a captured step",
                                .found = std::to_string(bytes) + " bytes",
                                .expected = "at most " + std::to_string(kInlineBytes)});
    const std::lock_guard lock(mutex_);
    for (size_t begin = 0; begin < bytes; begin += kPiece) {
      const size_t count = std::min(kPiece, bytes - begin);
      Piece& piece = next_piece();
      std::memcpy(piece.bytes, static_cast<const std::byte*>(source) + begin, count);
      check(cudaMemcpyAsync(target + begin, piece.bytes, count, cudaMemcpyHostToDevice, runtime_->stream()),
            "copy to the device");
      check(cudaEventRecord(piece.free, runtime_->stream()), "cudaEventRecord");
    }
  }

  void zero(std::byte* target, size_t bytes) const override {
    if (bytes > 0) check(cudaMemsetAsync(target, 0, bytes, runtime_->stream()), "cudaMemsetAsync");
  }

 private:
  struct Piece {
    void* bytes = nullptr;
    cudaEvent_t free = nullptr;
  };

  bool capturing() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(runtime_->stream(), &status), "cudaStreamIsCapturing");
    return status != cudaStreamCaptureStatusNone;
  }

  void store(std::byte* target, const void* source, size_t bytes) const {
    if (bytes == 0) return;
    InlineBytes values;
    std::memcpy(values.at, source, bytes);
    launch(*runtime_, "store_bytes", store_bytes, dim3(1), dim3(256), 0, values,
           reinterpret_cast<unsigned char*>(target), static_cast<int>(bytes));
  }

  // The one that was used longest ago, after the device is done with it.
  Piece& next_piece() const {
    Piece& piece = pieces_[turn_++ % pieces_.size()];
    if (piece.bytes == nullptr) {
      check(cudaMallocHost(&piece.bytes, kPiece), "cudaMallocHost");
      check(cudaEventCreateWithFlags(&piece.free, cudaEventDisableTiming), "cudaEventCreate");
    } else {
      check(cudaEventSynchronize(piece.free), "cudaEventSynchronize");
    }
    return piece;
  }

  std::shared_ptr<const Runtime> runtime_;
  mutable std::mutex mutex_;
  mutable std::array<Piece, 2> pieces_;
  mutable size_t turn_ = 0;
};

}  // namespace

std::shared_ptr<const DeviceMemory> make_memory(std::shared_ptr<const Runtime> runtime) {
  return std::make_shared<CudaMemory>(std::move(runtime));
}

}  // namespace raedit::backend::cuda
