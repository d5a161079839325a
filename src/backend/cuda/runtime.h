// What every kernel of the CUDA device stands on: the device, one stream, scratch memory, and errors that name the
// kernel. One Runtime per CudaKernels; all of its work is in the order of its one stream.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/kernels.h"

namespace raedit::backend::cuda {

// Throws Error(out_of_memory, internal or unsupported) naming `what` (a kernel or a call) and CUDA's own words.
void check(cudaError_t status, const char* what);
void check(cublasStatus_t status, const char* what);

class Runtime {
 public:
  explicit Runtime(int device);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  int device() const { return device_; }
  const cudaDeviceProp& properties() const { return properties_; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  // 80, 90, 100
  int compute_capability() const { return properties_.major * 10 + properties_.minor; }
  cudaStream_t stream() const { return stream_; }
  cublasLtHandle_t cublas() const { return cublas_; }
  // What gemm_cache.cpp keeps from call to call.
  std::shared_ptr<void>& gemm_state() const { return gemm_state_; }

  // Scratch memory for the kernels of one call, 256-byte aligned and uninitialised. The next call of workspace() hands
  // out the same bytes: ask once per entry point, for everything it needs, and cut it up. Safe because all users are in
  // the order of the stream. It grows outside of captures only: run a step once before it is captured.
  std::byte* workspace(size_t bytes) const;

  void release_workspace();

  void synchronize() const;
  // RAEDIT_CUDA_SYNC=1: every launch waits for its kernel, so that an error names the kernel that made it.
  bool synchronous() const { return synchronous_; }
  // What follows every launch. `kernel` lives on.
  void launched(const char* kernel) const;
  void start_profile() const;
  std::string profile() const;

 private:
  struct Profile;

  int device_;
  cudaDeviceProp properties_{};
  cudaStream_t stream_ = nullptr;
  cublasLtHandle_t cublas_ = nullptr;
  bool synchronous_ = false;
  mutable std::byte* workspace_ = nullptr;
  mutable size_t workspace_bytes_ = 0;
  mutable std::vector<std::byte*> outgrown_;  // graphs that were captured before it grew write there
  mutable std::shared_ptr<void> gemm_state_;
  mutable std::unique_ptr<Profile> profile_;
};

// launch(rt, "swiglu", swiglu_kernel<float>, blocks, threads, shared_bytes, arguments...)
template <class... Parameters, class... Arguments>
void launch(const Runtime& rt, const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
            Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = rt.stream();
  check(cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...), name);
  rt.launched(name);
}

// More than 48 KiB of dynamic shared memory has to be asked for, once per kernel.
template <class Kernel>
void allow_shared_memory(Kernel* kernel, size_t bytes, const char* name) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), name);
}

}  // namespace raedit::backend::cuda
