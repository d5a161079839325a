// Random numbers, bit-compatible with torch.Generator("cpu"), or those of torch.Generator("cuda") on a named GPU.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

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

// A GPU, as far as torch's numbers depend on it: from more than `multiprocessors` * `threads` elements on (`threads`
// rounded down to 256s), a tensor has other values on another GPU. multi_processor_count and
// max_threads_per_multi_processor of torch.cuda.get_device_properties().
struct CudaGeometry {
  int64_t multiprocessors = 0;
  int64_t threads = 0;  // resident on one multiprocessor
};

// Which of torch's generators a seed is given to.
struct RandomStream {
  std::optional<CudaGeometry> gpu = {};  // torch.Generator("cuda") on this GPU; nothing: torch.Generator("cpu")

  // "torch-cpu", or "torch-cuda:sm=132,threads=2048". Throws Error(invalid_argument) for anything else.
  RAEDIT_API static RandomStream from_name(std::string_view name);
  RAEDIT_API std::string name() const;
};

// torch's CPU generator: mt19937 seeded as torch.Generator("cpu").manual_seed(seed) does. Integers are exact; normal
// numbers follow torch's algorithm and agree to float32 rounding of log, sin and cos (2e-6 absolute).
// Source: pytorch aten/src/ATen/core/MT19937RNGEngine.h, native/cpu/DistributionTemplates.h.
//
// Or torch's CUDA generator, computed on the processor: Philox4x32-10, of which every call takes as much as torch
// takes. Uniform numbers are exact; normal ones agree to 1e-5, since a GPU's log, sin and cos round otherwise. float32,
// and bfloat16 rounded from it as torch does; no float64, no integers, and no tensor beyond 2^31 bytes, which torch
// draws in parts: Error(unsupported). docs/parity.md says what it was compared with.
class RAEDIT_API Generator {
 public:
  explicit Generator(uint64_t seed = 0, Bfloat16Draws bfloat16_draws = Bfloat16Draws::rounded);
  // Throws Error(invalid_argument) for a geometry that no GPU has.
  Generator(uint64_t seed, const RandomStream& stream);
  Generator(const Generator& other);
  Generator& operator=(const Generator& other);
  // What was moved from can be copied, assigned to and destroyed, no more.
  Generator(Generator&&) noexcept;
  Generator& operator=(Generator&&) noexcept;
  ~Generator();

  void manual_seed(uint64_t seed);
  uint32_t random();    // the next 32 bits of the engine; of the CPU generator alone
  uint64_t random64();  // two draws, as torch joins them

  // torch.randn(shape, generator=g, dtype=dtype) for float32, float64 and bfloat16. Fewer than 16 elements take torch's
  // scalar path, 16 or more its blocked one, so the stream position afterwards is torch's too.
  Tensor randn(const Shape& shape, DType dtype = DType::float32);
  // torch.rand(shape, generator=g, dtype=dtype): uniform in [0, 1).
  Tensor rand(const Shape& shape, DType dtype = DType::float32);

 private:
  struct State;
  Tensor cuda_numbers(const Shape& shape, DType dtype, bool normal);
  std::unique_ptr<State> state_;
};

}  // namespace raedit
