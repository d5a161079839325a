// Rows that a product will read, and how they lie in memory.
#pragma once

#include <array>

#include "backend/kernels.h"
#include "ops/moving.h"
#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::ops {

// Uninitialised [..., D]. for_product: rows of bfloat16 that are a multiple of a page apart would meet in one set of a
// first-level cache, where a product reads 16 of them at a time: they get a line between them. A prototype of the
// product on AMX ran 7% faster for it at D 2048; here it has not been timed. On the host without a tape; elsewhere
// contiguous.
inline Tensor empty_operand(Context& ctx, const Shape& shape, DType dtype, bool for_product) {
  constexpr int64_t kPage = 4096, kLine = 64;
  const auto size = static_cast<int64_t>(size_of(dtype));
  const bool meets = for_product && dtype == DType::bfloat16 && shape[-1] > 0 && shape[-1] * size % kPage == 0;
  if (!meets || ctx.tape() != nullptr || ctx.kernels().memory() != nullptr) return ctx.empty(shape, dtype);
  Shape wide = shape;
  wide.set(-1, shape[-1] + kLine / size);
  return ctx.empty(wide, dtype).slice(-1, 0, shape[-1]);
}

// x [..., K] as [rows, K]: itself where its rows lie evenly, else a copy.
inline Tensor operand_rows(Context& ctx, const Tensor& x) {
  const int64_t k = x.dim(-1);
  bool even = x.rank() > 1 && x.numel() > 0 && x.stride(-1) == 1 && !x.is_contiguous() && ctx.tape() == nullptr &&
              ctx.kernels().memory() == nullptr;
  for (int i = 0; even && i + 2 < x.rank(); ++i) even = x.stride(i) == x.dim(i + 1) * x.stride(i + 1);
  if (!even) return contiguous(ctx, x).reshape({-1, k});
  return Tensor::strided(x.storage(), x.offset_bytes(), {x.numel() / k, k}, std::array{x.stride(-2), int64_t{1}},
                         x.dtype());
}

}  // namespace raedit::ops
