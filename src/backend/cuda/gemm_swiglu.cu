// A product and its SwiGLU in one kernel: a block multiplies the rows of the value half and those of the gate half, and
// the wide intermediate, twice the width of the result, never reaches memory.
#include <vector>

#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/dispatch.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/gemm_cache.h"
#include "backend/cuda/gemm_sm90a.h"
#include "backend/cuda/overlap.cuh"

namespace raedit::backend::cuda {

bool CudaKernels::linear_swiglu(const Tensor& x, const PackedMatrix& weight, const Tensor& bias,
                                const Tensor& out) const {
  const auto& w = static_cast<const CudaPackedMatrix&>(weight);
  const Matrix rows(x), target(out);
  if (w.dtype != DType::bfloat16 || w.n % 2 != 0 || w.padded_k != w.k || out.dtype() != DType::bfloat16 ||
      !rows.row_major() || !rows.aligned())
    return false;
  const int64_t half = w.n / 2;
  const auto half_bytes = static_cast<size_t>(half * w.ld) * size_of(DType::bfloat16);
  if (w.rows - half < (half + 31) / 32 * 32) return false;  // of what is read behind the gate half
  sm90a::Problem problem;
  problem.epilogue = sm90a::Epilogue::swiglu;
  problem.m = rows.rows;
  problem.n = half;
  problem.k = w.k;
  problem.x = rows.data;
  problem.ldx = rows.row_stride;
  problem.w = w.data;
  problem.w_gate = w.data + half_bytes;
  problem.ldw = w.ld;
  problem.w_rows = w.rows - half;
  problem.bias = pointer<const float>(bias);
  problem.bias_gate = bias.defined() ? problem.bias + half : nullptr;
  problem.out = out.raw();
  problem.ldo = target.row_stride;
  problem.overlap = w.constant && overlaps(rt_);
  if (!sm90a::supported(problem)) return false;
  std::vector<Way> ways;
  add_own_ways(rt_, problem, ways);
  if (ways.empty()) return false;
  constexpr int64_t kSwiglu = 100;  // keys of linear() have a dtype in this place
  run_fastest(rt_, {problem.m, half, w.k, problem.ldx, w.ld, problem.ldo, kSwiglu, bias.defined() ? 1 : 0},
              worth_timing(problem.m, w.n, w.k), ways);
  return true;
}

}  // namespace raedit::backend::cuda
