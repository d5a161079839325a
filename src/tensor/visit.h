// From a DType at run time to a C++ type at compile time.
#pragma once

#include <utility>

#include "core/check.h"
#include "core/float8.h"
#include "raedit/dtype.h"

namespace raedit {

template <class T>
struct TypeTag {
  using type = T;
};

// visit_dtype(tensor.dtype(), [&](auto tag) { using T = typename decltype(tag)::type; ... });
template <class F>
decltype(auto) visit_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float64: return f(TypeTag<double>{});
    case DType::float32: return f(TypeTag<float>{});
    case DType::float16: return f(TypeTag<float16>{});
    case DType::bfloat16: return f(TypeTag<bfloat16>{});
    case DType::float8_e4m3fn: return f(TypeTag<float8_e4m3fn>{});
    case DType::float8_e5m2: return f(TypeTag<float8_e5m2>{});
    case DType::int64: return f(TypeTag<int64_t>{});
    case DType::int32: return f(TypeTag<int32_t>{});
    case DType::int16: return f(TypeTag<int16_t>{});
    case DType::int8: return f(TypeTag<int8_t>{});
    case DType::uint64: return f(TypeTag<uint64_t>{});
    case DType::uint32: return f(TypeTag<uint32_t>{});
    case DType::uint16: return f(TypeTag<uint16_t>{});
    case DType::uint8: return f(TypeTag<uint8_t>{});
    case DType::bool8: return f(TypeTag<bool>{});
  }
  raise({.code = ErrorCode::internal, .what = "not an element type"});
}

}  // namespace raedit
