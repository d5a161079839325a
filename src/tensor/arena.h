// Arena: a caching allocator for the activations of one Context. Blocks go back to the arena, not to the system, and
// the same sequence of allocations and frees gets the same addresses again, step after step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "raedit/tensor.h"

namespace raedit {

// Safe to use from several threads. Blocks keep what they need of the arena alive, so tensors may outlive it.
class RAEDIT_API Arena {
 public:
  // Of the host's memory, or a device's.
  explicit Arena(std::shared_ptr<const DeviceMemory> memory = nullptr);
  // Of addresses of the host that take no memory until somebody writes there: for finding out what a run would take.
  struct AddressesOnly {};
  explicit Arena(AddressesOnly);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // 64-byte aligned, uninitialised, with a fresh id; host memory from 2 MiB on aligned to huge pages, or out of what
  // reserve() took. Throws Error(out_of_memory).
  std::shared_ptr<Storage> allocate(size_t bytes);
  // Takes so much from the system at once, in place of the free blocks, and cuts new blocks from it while it lasts:
  // small ones then have huge pages, too. Pages come when somebody writes there. Of the host only, and while no block
  // of an earlier one is lent; does nothing else.
  void reserve(size_t bytes);

  // Bytes in blocks that are lent out, the highest they have been, and bytes held from the system altogether.
  size_t bytes_in_use() const;
  size_t peak_bytes() const;
  size_t reserved_bytes() const;
  // How often memory was taken from the system.
  uint64_t allocations() const;

  void reset_peak();      // peak_bytes() counts from now on
  void release_unused();  // gives every free block back to the system
  // From now on no block goes back to the system before the arena does: a captured graph knows their addresses.
  void keep_blocks();
  // Each lends the other's blocks from now on; what is lent goes back to where it came from.
  void swap(Arena& other) noexcept { pool_.swap(other.pool_); }

 private:
  struct Pool;
  std::shared_ptr<Pool> pool_;
};

}  // namespace raedit
