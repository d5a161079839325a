// What norms and what is fused with them walk along. Private to the CPU device.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "backend/cpu/rows.h"

namespace raedit::backend::cpu {

struct Moments {
  float mean = 0;
  float rstd = 0;  // 1 / sqrt(variance or mean square + eps)
};

// The rows of a set of tensors of one shape, some of them optional, as the members of an R.
template <class R>
class RowsOf {
 public:
  // Each member of R and the tensor it is a row of.
  struct Operand {
    Row R::*member;
    Tensor tensor;
  };

  explicit RowsOf(std::vector<Operand> operands) : operands_(present(std::move(operands))), loop_(loop()) {}

  int64_t rows() const { return loop_.rows; }
  int64_t size() const { return loop_.inner.size; }

  R row(int64_t index) const {
    const RowLoop::Offsets offsets = loop_.offsets(index);
    R result;
    for (size_t k = 0; k < operands_.size(); ++k)
      result.*operands_[k].member = row_of(operands_[k].tensor, offsets[k], loop_.inner.strides[k]);
    return result;
  }

 private:
  static std::vector<Operand> present(std::vector<Operand> operands) {
    std::erase_if(operands, [](const Operand& operand) { return !operand.tensor.defined(); });
    return operands;
  }

  RowLoop loop() const {
    std::array<const Tensor*, RowLoop::kMaxOperands> tensors{};
    for (size_t k = 0; k < operands_.size(); ++k) tensors[k] = &operands_[k].tensor;
    return RowLoop(std::span(tensors.data(), operands_.size()), true);
  }

  std::vector<Operand> operands_;
  RowLoop loop_;
};

inline Tensor expanded(const Tensor& vector, const Shape& shape) {
  return vector.defined() ? vector.expand(shape) : vector;
}

}  // namespace raedit::backend::cpu
