// From dtypes at run time to element types at compile time, for the two types that kernels compute in.
#pragma once

#include <cuda_bf16.h>

#include "core/check.h"
#include "raedit/tensor.h"

namespace raedit::backend::cuda {

// with_type(t.dtype(), [&](auto tag) { using T = typename decltype(tag)::type; ... });
template <class T>
struct Type {
  using type = T;
};
template <class F>
void with_type(DType dtype, const F& f) {
  if (dtype == DType::bfloat16)
    f(Type<__nv_bfloat16>{});
  else if (dtype == DType::float32)
    f(Type<float>{});
  else
    raise({.code = ErrorCode::unsupported,
           .what = "the CUDA device cannot compute in this type",
           .found = std::string(name_of(dtype)),
           .expected = "float32 or bfloat16"});
}

// The first element, as the device's type. Null for an undefined tensor.
template <class T>
T* pointer(const Tensor& tensor) {
  return tensor.defined() ? reinterpret_cast<T*>(tensor.raw()) : nullptr;
}

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Whether rows begin on 16-byte addresses: the address, and every stride but the last one's.
inline bool rows_aligned(const Tensor& tensor) {
  if (!tensor.defined()) return true;
  const auto size = static_cast<int64_t>(size_of(tensor.dtype()));
  if (reinterpret_cast<uintptr_t>(tensor.raw()) % 16 != 0) return false;
  for (int i = 0; i + 1 < tensor.rank(); ++i)
    if (tensor.dim(i) > 1 && tensor.stride(i) * size % 16 != 0) return false;
  return true;
}

}  // namespace raedit::backend::cuda
