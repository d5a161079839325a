// Kernels that start while the one before them still ends (programmatic dependent launch, Hopper and newer): the time
// between two kernels of a captured step is a good part of a picture at batch 1. A kernel launched so must call
// wait_for_inputs() before it touches any memory that another kernel writes or reads.
#pragma once

#include <cstdlib>
#include <cstring>

#include "backend/cuda/runtime.h"

namespace raedit::backend::cuda {

// After this, everything that came before in the stream is done; and the next kernel may be brought onto the device.
__device__ inline void wait_for_inputs() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// RAEDIT_CUDA_OVERLAP=0: one kernel after the other.
inline bool overlaps(const Runtime& rt) {
  static const bool wanted = [] {
    const char* text = std::getenv("RAEDIT_CUDA_OVERLAP");
    return text == nullptr || std::strcmp(text, "0") != 0;
  }();
  return wanted && rt.compute_capability() >= 90;
}

template <class... Parameters, class... Arguments>
void launch_overlapping(const Runtime& rt, const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                        size_t shared, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = rt.stream();
  config.attrs = &attribute;
  config.numAttrs = overlaps(rt) ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...), name);
  rt.launched(name);
}

}  // namespace raedit::backend::cuda
