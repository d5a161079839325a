// The memory that tensors of the CUDA device live in.
#pragma once

#include <memory>

#include "backend/cuda/runtime.h"
#include "tensor/memory.h"

namespace raedit::backend::cuda {

// Blocks of cudaMalloc; copies in the order of the runtime's stream. Up to kInlineBytes travel inside a kernel's
// arguments, which a graph captures with their values; more than that goes through pinned memory in pieces and cannot
// be captured.
inline constexpr size_t kInlineBytes = 2048;
std::shared_ptr<const DeviceMemory> make_memory(std::shared_ptr<const Runtime> runtime);

}  // namespace raedit::backend::cuda
