// The values of torch.randn(device="cuda") and torch.rand(device="cuda"), computed on the processor. Which element gets
// which number follows from how torch launches its kernel (aten/src/ATen/native/cuda/DistributionTemplates.h, as of
// torch 2.15): 256 threads a block, as many blocks as the tensor needs but no more than the GPU holds at once. A thread
// numbered t draws from cuRAND's Philox subsequence t, four numbers a turn, one wave of threads apart.
#pragma once

#include <cstdint>
#include <span>

#include "raedit/generator.h"

namespace raedit {

// Throws Error(invalid_argument) for a geometry that no GPU has.
void check_geometry(const CudaGeometry& geometry);

class CudaRandom {
 public:
  CudaRandom(uint64_t seed, const CudaGeometry& geometry);
  void manual_seed(uint64_t seed);

  // One call of torch's each, for as many elements as there are.
  void fill_normal(std::span<float> values);
  void fill_uniform(std::span<float> values);  // in [0, 1)

 private:
  template <class Block>
  void fill(std::span<float> values, const Block& numbers_of);

  CudaGeometry geometry_;
  uint64_t seed_ = 0;
  uint64_t turns_ = 0;  // that earlier calls took of every subsequence: torch's philox offset over 4
};

}  // namespace raedit
