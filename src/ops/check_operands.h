// Checks that the ops share. A failing one is a mistake of the caller in the engine or of a public argument; the
// message names the op and both shapes.
#pragma once

#include <string>
#include <string_view>

#include "core/check.h"
#include "raedit/tensor.h"

namespace raedit::ops {

inline void check_shape(std::string_view op, std::string_view operand, const Shape& found, const Shape& expected) {
  RAEDIT_CHECK(found == expected, {.code = ErrorCode::invalid_argument,
                                   .what = std::string(operand) + " has the wrong shape",
                                   .where = std::string(op),
                                   .found = found.str(),
                                   .expected = expected.str()});
}

inline void check_rank(std::string_view op, std::string_view operand, const Tensor& tensor, int rank) {
  RAEDIT_CHECK(tensor.defined() && tensor.rank() == rank,
               {.code = ErrorCode::invalid_argument,
                .what = std::string(operand) + " has the wrong number of dimensions",
                .where = std::string(op),
                .found = tensor.defined() ? tensor.shape().str() : "nothing",
                .expected = std::to_string(rank) + " dimensions"});
}

inline void check_compute_dtype(std::string_view op, const Tensor& tensor) {
  RAEDIT_CHECK(tensor.defined() && (tensor.dtype() == DType::float32 || tensor.dtype() == DType::bfloat16),
               {.code = ErrorCode::unsupported,
                .what = "cannot compute in this type",
                .where = std::string(op),
                .found = tensor.defined() ? std::string(name_of(tensor.dtype())) : "nothing",
                .expected = "float32 or bfloat16"});
}

// Tensor::expand with a message that names the op and the operand.
inline Tensor expand_to(std::string_view op, std::string_view operand, const Tensor& tensor, const Shape& shape) {
  bool fits = tensor.defined() && tensor.rank() <= shape.rank();
  for (int i = 1; fits && i <= tensor.rank(); ++i) fits = tensor.dim(-i) == 1 || tensor.dim(-i) == shape[-i];
  RAEDIT_CHECK(fits, {.code = ErrorCode::invalid_argument,
                      .what = std::string(operand) + " does not broadcast",
                      .where = std::string(op),
                      .found = tensor.defined() ? tensor.shape().str() : "nothing",
                      .expected = "a shape that broadcasts to " + shape.str()});
  return tensor.expand(shape);
}

// For operands that are small and always float32; an undefined one is fine.
inline void check_float32(std::string_view op, std::string_view operand, const Tensor& tensor) {
  RAEDIT_CHECK(!tensor.defined() || tensor.dtype() == DType::float32,
               {.code = ErrorCode::invalid_argument,
                .what = std::string(operand) + " has the wrong type",
                .where = std::string(op),
                .found = std::string(name_of(tensor.dtype())),
                .expected = "float32"});
}

}  // namespace raedit::ops
