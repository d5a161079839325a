// Random numbers, bit-compatible with torch.Generator("cpu").
#pragma once

#include <cstdint>
#include <memory>

#include "raedit/export.h"
#include "raedit/tensor.h"

namespace raedit {

// How bfloat16 numbers are drawn, which torch has changed. float32 and float64 are the same in both.
enum class Bfloat16Draws {
  // In float32, rounded last: as torch 2.15. Whole blocks of 16 are the float32 numbers of the same seed, rounded, so
  // that one seed gives one picture whatever the model's dtype.
  rounded,
  // From uniform numbers of 8 bits, rounded after every operation: as torch up to 2.11. Normal numbers take few values
  // and never exceed 3.33.
  native,
};

// torch's CPU generator: mt19937 seeded as torch.Generator("cpu").manual_seed(seed) does. Integers are exact; normal
// numbers follow torch's algorithm and agree to float32 rounding of log, sin and cos (2e-6 absolute).
// Source: pytorch aten/src/ATen/core/MT19937RNGEngine.h, native/cpu/DistributionTemplates.h.
class RAEDIT_API Generator {
 public:
  explicit Generator(uint64_t seed = 0, Bfloat16Draws bfloat16_draws = Bfloat16Draws::rounded);
  Generator(const Generator& other);
  Generator& operator=(const Generator& other);
  Generator(Generator&&) noexcept;
  Generator& operator=(Generator&&) noexcept;
  ~Generator();

  void manual_seed(uint64_t seed);
  uint32_t random();    // the next 32 bits of the engine
  uint64_t random64();  // two draws, as torch joins them

  // torch.randn(shape, generator=g, dtype=dtype) for float32, float64 and bfloat16. Fewer than 16 elements take torch's
  // scalar path, 16 or more its blocked one, so the stream position afterwards is torch's too.
  Tensor randn(const Shape& shape, DType dtype = DType::float32);
  // torch.rand(shape, generator=g, dtype=dtype): uniform in [0, 1).
  Tensor rand(const Shape& shape, DType dtype = DType::float32);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace raedit
