#include "backend/cuda/plugin.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include "backend/cuda/cuda_kernels.h"
#include "raedit/export.h"

namespace raedit::backend::cuda {
namespace {

constexpr int kOldestGpu = 8;  // Ampere: bfloat16 matrix instructions, asynchronous copies

Kernels* make_kernels(int index) {
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess)
    refuse(cudaGetErrorString(status), "nvidia-smi says whether the driver sees a GPU");
  if (index >= count)
    refuse(fmt::format("there is no GPU {}", index), fmt::format("GPUs found: {}, numbered from 0", count));
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  if (properties.major < kOldestGpu)
    refuse(fmt::format("{} is of compute capability {}.{}", properties.name, properties.major, properties.minor),
           "8.0 (Ampere) or newer is needed");
  return new CudaKernels(index);
}

constexpr Plugin kPlugin{kBuild, make_kernels};

}  // namespace
}  // namespace raedit::backend::cuda

extern "C" RAEDIT_API const raedit::backend::cuda::Plugin* raedit_cuda_plugin() {
  return &raedit::backend::cuda::kPlugin;
}
