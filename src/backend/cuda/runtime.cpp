#include "backend/cuda/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/check.h"
#include "core/text.h"

namespace raedit::backend::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) [[likely]]
    return;
  (void)cudaGetLastError();  // the error is told once
  const bool memory = status == cudaErrorMemoryAllocation;
  raise(
      {.code = memory ? ErrorCode::out_of_memory : ErrorCode::internal,
       .what = fmt::format("CUDA: {}", cudaGetErrorString(status)),
       .where = what,
       .found = cudaGetErrorName(status),
       .hint = memory ? "a smaller batch or bfloat16 needs less" : "RAEDIT_CUDA_SYNC=1 names the kernel that failed"});
}

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  raise({.code = status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorCode::out_of_memory : ErrorCode::internal,
         .what = "cuBLASLt failed",
         .where = what,
         .found = cublasLtGetStatusName(status)});
}

Runtime::Runtime(int device) : device_(device) {
  check(cudaSetDevice(device), "cudaSetDevice");
  check(cudaGetDeviceProperties(&properties_, device), "cudaGetDeviceProperties");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  check(cublasLtCreate(&cublas_), "cublasLtCreate");
  const char* synchronous = std::getenv("RAEDIT_CUDA_SYNC");
  synchronous_ = synchronous != nullptr && std::strcmp(synchronous, "0") != 0;
}

Runtime::~Runtime() {
  release_workspace();  // errors have nowhere to go here
  if (cublas_ != nullptr) (void)cublasLtDestroy(cublas_);
  (void)cudaStreamDestroy(stream_);
}

std::byte* Runtime::workspace(size_t bytes) const {
  constexpr size_t kLeast = size_t{64} << 20;
  if (bytes <= workspace_bytes_) return workspace_;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream_, &capture), "cudaStreamIsCapturing");
  RAEDIT_CHECK(capture == cudaStreamCaptureStatusNone, {.code = ErrorCode::internal,
                                                        .what = "scratch memory cannot grow while a graph is captured",
                                                        .found = human_bytes(bytes),
                                                        .expected = "at most " + human_bytes(workspace_bytes_)});
  const size_t wanted = std::max(bytes + bytes / 4, kLeast);
  synchronize();
  check(cudaFree(workspace_), "cudaFree of the workspace");
  workspace_ = nullptr;
  workspace_bytes_ = 0;
  void* memory = nullptr;
  check(cudaMalloc(&memory, wanted), "cudaMalloc of the workspace");
  workspace_ = static_cast<std::byte*>(memory);
  workspace_bytes_ = wanted;
  return workspace_;
}

void Runtime::release_workspace() {
  (void)cudaStreamSynchronize(stream_);
  (void)cudaFree(workspace_);
  workspace_ = nullptr;
  workspace_bytes_ = 0;
}

void Runtime::synchronize() const {
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

void Runtime::launched(const char* kernel) const {
  check(cudaGetLastError(), kernel);
  if (!synchronous_) return;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream_, &capture), "cudaStreamIsCapturing");
  if (capture == cudaStreamCaptureStatusNone) check(cudaStreamSynchronize(stream_), kernel);
}

}  // namespace raedit::backend::cuda
