// A device that computes nothing: a model runs on it in milliseconds, whatever its size, and afterwards one knows what
// it would have needed.
#pragma once

#include <cstddef>
#include <map>
#include <memory>

#include "backend/kernels.h"
#include "tensor/arena.h"

namespace raedit::backend {

// Addresses without memory behind them: whoever reads or writes there ends at once. For one thread.
class CountingMemory final : public DeviceMemory {
 public:
  CountingMemory() = default;
  ~CountingMemory() override;
  CountingMemory(const CountingMemory&) = delete;
  CountingMemory& operator=(const CountingMemory&) = delete;

  std::byte* allocate(size_t bytes) const noexcept override;
  void free(std::byte* data) const noexcept override;
  // Numbers are forgotten on the way in, and what comes out is whatever was there.
  void to_host(void*, const std::byte*, size_t) const override {}
  void from_host(std::byte*, const void*, size_t) const override {}
  void zero(std::byte*, size_t) const override {}

 private:
  mutable std::map<std::byte*, size_t> blocks_;  // and their sizes
};

// Tensors live in `memory`. What a kernel needs while it runs, and packed weights, come from `work` in the sizes that
// the processor's kernels take; those that round operands on the way take less. joins: see Kernels.
std::unique_ptr<Kernels> make_counting_kernels(std::shared_ptr<const CountingMemory> memory,
                                               std::shared_ptr<Arena> work, bool joins);

// In the place of `real`, which are the host's and live longer, on models that were loaded for them: ops ask the arena
// for what they would ask it for there. What `real` would take for itself while it runs is not counted.
std::unique_ptr<Kernels> make_counting_kernels(const Kernels& real);

}  // namespace raedit::backend
