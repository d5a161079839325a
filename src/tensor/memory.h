// Memory in blocks: the host's, which Storage::allocate and the arena stand on, and that of other devices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "raedit/tensor.h"

namespace raedit {

// 64-byte aligned and uninitialised; from 2 MiB on, mapped on its own, aligned to 2 MiB and offered huge pages. nullptr
// when there is none. `bytes` must be a multiple of 64 and not 0.
std::byte* allocate_block(size_t bytes) noexcept;
void free_block(std::byte* data, size_t bytes) noexcept;
// Blocks of a page or more that the process took so far, for arenas, storages and tensors alike: a step that repeats
// the last one takes none.
uint64_t large_blocks_allocated() noexcept;

// The memory of a device that the processor cannot read. Work on it is in the order of one queue of the device.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  // 256-byte aligned and uninitialised; nullptr when there is none.
  virtual std::byte* allocate(size_t bytes) const noexcept = 0;
  virtual void free(std::byte* data) const noexcept = 0;
  // Waits until the device has done all that was queued before.
  virtual void to_host(void* target, const std::byte* source, size_t bytes) const = 0;
  // `source` may change as soon as this returns; the device may still be copying.
  virtual void from_host(std::byte* target, const void* source, size_t bytes) const = 0;
  virtual void zero(std::byte* target, size_t bytes) const = 0;
};

// The bytes of a tensor, where they are now and in order, in memory of its own: `memory` null for the host's. Tensors
// of read-only files come along, too. Not from an arena: for what stays.
Tensor copy_to(const Tensor& tensor, const std::shared_ptr<const DeviceMemory>& memory);

// float32 zeros, likewise, and zeros over any contiguous tensor.
Tensor zeros_on(const std::shared_ptr<const DeviceMemory>& memory, const Shape& shape);
void fill_zero(const Tensor& tensor);

}  // namespace raedit
