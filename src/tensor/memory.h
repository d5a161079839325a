// Host memory in blocks: what Storage::allocate and the arena stand on.
#pragma once

#include <cstddef>

namespace raedit {

// 64-byte aligned and uninitialised; from 2 MiB on, mapped on its own, aligned to 2 MiB and offered huge pages. nullptr
// when there is none. `bytes` must be a multiple of 64 and not 0.
std::byte* allocate_block(size_t bytes) noexcept;
void free_block(std::byte* data, size_t bytes) noexcept;

}  // namespace raedit
