// Products through cuBLASLt: one call for row-major operands, and the choice of the algorithm for it. Choices are made
// once for each shape, by timing where that is worth it, and kept in the process and on disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "backend/cuda/gemm_sm90a.h"
#include "backend/cuda/runtime.h"
#include "raedit/dtype.h"

namespace raedit::backend::cuda {

// One operand, [rows,columns] as the product sees it: element (i,j) at data[i * ld + j], or at data[j * ld + i] when
// transposed. float32, bfloat16, or float8 e4m3 with scales: of the rows of a, of the columns of b, which must be
// transposed.
struct GemmOperand {
  const void* data = nullptr;
  DType dtype = DType::float32;
  int64_t ld = 0;
  bool transposed = false;
  const float* scales = nullptr;
};

// out[m,n] (+)= a[m,k] * b[k,n] + bias[n]; element (i,j) of `out` at out[i * ldo + j]. Both operands of one dtype, no
// dimension 0. The bias has the dtype of `out` (float8: bfloat16); accumulating excludes it.
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

// RAEDIT_GEMM_OWN=1: products by our own kernels, too, where they are faster than the library's.
bool own_products();

// Runs the problem by our own kernel and returns true if that is faster than `library`, which does the same; else, or
// where that is not known and cannot be found out now, runs `library`.
bool run_faster(const Runtime& rt, const sm90a::Problem& problem, const std::function<void()>& library);

// Reads `bytes`, a multiple of 16, of the device's memory, so that its caches hold nothing else: gemm.cu.
void read_all(const Runtime& rt, const void* memory, size_t bytes);

// Whether a graph is being captured: no timing, no allocation, no waiting then.
bool capturing(const Runtime& rt);

}  // namespace raedit::backend::cuda
