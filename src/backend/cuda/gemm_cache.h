// Products through cuBLASLt: one call for row-major operands, and the choice of the algorithm for it. Choices are made
// once for each shape, by timing where that is worth it, and kept in the process and on disk.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backend/cuda/gemm_sm90a.h"
#include "backend/cuda/runtime.h"
#include "raedit/dtype.h"

namespace raedit::backend::cuda {

// One operand, [rows,columns] as the product sees it: element (i,j) at data[i * ld + j], or at data[j * ld + i] when
// transposed. float32 or bfloat16.
struct GemmOperand {
  const void* data = nullptr;
  DType dtype = DType::float32;
  int64_t ld = 0;
  bool transposed = false;
};

// out[m,n] (+)= a[m,k] * b[k,n] + bias[n]; element (i,j) of `out` at out[i * ldo + j]. Both operands of one dtype, no
// dimension 0. The bias has the dtype of `out`; accumulating excludes it.
struct GemmCall {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  GemmOperand a;
  GemmOperand b;
  void* out = nullptr;
  DType out_dtype = DType::float32;
  int64_t ldo = 0;
  bool accumulate = false;
  const void* bias = nullptr;
};

// False when cuBLASLt has no algorithm for this call; nothing has happened then.
bool cublas_gemm(const Runtime& rt, const GemmCall& call);

// One of several ways to the same result. The number names it in the file of choices; run() returns false if it
// refuses, and nothing has happened then.
struct Way {
  uint64_t number = 0;
  std::function<bool()> run;
};
inline constexpr uint64_t kLibraryWay = 1;
inline constexpr uint64_t kSkinnyWay = 2;

// Runs the fastest, which is measured once for each key where that is `worth` it; the first where it is not known and
// cannot be found out now. The first must not refuse.
using WayKey = std::array<int64_t, 8>;
void run_fastest(const Runtime& rt, const WayKey& key, bool worth, std::span<const Way> ways);

// Whether to measure: what takes next to no time is not worth it.
bool worth_timing(int64_t m, int64_t n, int64_t k);

// Appends the ways of our own kernels; `problem` must live until they ran. RAEDIT_GEMM_OWN=1: for products that
// cuBLASLt has, too; 0: for none.
void add_own_ways(const Runtime& rt, const sm90a::Problem& problem, std::vector<Way>& ways);

// Reads `bytes`, a multiple of 16, of the device's memory, so that its caches hold nothing else: gemm.cu.
void read_all(const Runtime& rt, const void* memory, size_t bytes);

// Whether a graph is being captured: no timing, no allocation, no waiting then.
bool capturing(const Runtime& rt);

}  // namespace raedit::backend::cuda
