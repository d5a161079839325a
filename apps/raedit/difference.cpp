#include "difference.h"

#include <algorithm>
#include <cmath>

namespace raedit::cli {
namespace {

constexpr int64_t kChunk = 1 << 16;

class Accumulator {
 public:
  explicit Accumulator(const Tolerance& tolerance) : tolerance_(tolerance) {}

  // long double holds every 64-bit integer; for floating point it is read from doubles.
  template <class Real>
  void add(Real a, Real b) {
    ++result_.count;
    if (std::isfinite(b)) result_.largest = std::max(result_.largest, static_cast<double>(std::abs(b)));
    if (!std::isfinite(a) || !std::isfinite(b)) return add_special(static_cast<double>(a), static_cast<double>(b));
    const auto distance = static_cast<double>(std::abs(a - b));
    const auto size = static_cast<double>(std::abs(b));
    ++finite_;
    sum_abs_ += distance;
    result_.max_abs = std::max(result_.max_abs, distance);
    if (size > 0) {
      ++with_size_;
      sum_rel_ += distance / size;
      result_.max_rel = std::max(result_.max_rel, distance / size);
    }
    if (distance > tolerance_.atol + tolerance_.rtol * size) ++result_.beyond;
  }

  Difference result() const {
    Difference result = result_;
    if (finite_ > 0) result.mean_abs = sum_abs_ / static_cast<double>(finite_);
    if (with_size_ > 0) result.mean_rel = sum_rel_ / static_cast<double>(with_size_);
    return result;
  }

 private:
  void add_special(double a, double b) {
    if (std::isnan(a) && std::isnan(b)) {
      ++result_.both_nan;
    } else if (a != b) {
      ++result_.unequal_special;
      ++result_.beyond;
    }
  }

  Tolerance tolerance_;
  Difference result_;
  double sum_abs_ = 0, sum_rel_ = 0;
  int64_t finite_ = 0, with_size_ = 0;
};

bool is_integer(DType dtype) {
  return !is_floating(dtype);
}

long double as_integer(const Tensor& t, int64_t i) {
  return t.dtype() == DType::uint64 ? static_cast<long double>(t.data<uint64_t>()[i])
                                    : static_cast<long double>(t.data<int64_t>()[i]);
}

DType wide(const Tensor& t) {
  if (!is_integer(t.dtype())) return DType::float64;
  return t.dtype() == DType::uint64 ? DType::uint64 : DType::int64;
}

void add_chunk(Accumulator& sum, const Tensor& a, const Tensor& b, bool integers) {
  const Tensor x = a.to(integers ? wide(a) : DType::float64);
  const Tensor y = b.to(integers ? wide(b) : DType::float64);
  for (int64_t i = 0; i < x.numel(); ++i) {
    if (integers)
      sum.add(as_integer(x, i), as_integer(y, i));
    else
      sum.add(x.data<double>()[i], y.data<double>()[i]);
  }
}

}  // namespace

Difference compare_tensors(const Tensor& a, const Tensor& b, const Tolerance& tolerance) {
  Accumulator sum(tolerance);
  const int64_t count = a.numel();
  if (count == 0) return sum.result();
  const bool integers = is_integer(a.dtype()) && is_integer(b.dtype());
  const Tensor x = a.contiguous().reshape({count}), y = b.contiguous().reshape({count});
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t end = std::min(count, begin + kChunk);
    add_chunk(sum, x.slice(0, begin, end), y.slice(0, begin, end), integers);
  }
  return sum.result();
}

}  // namespace raedit::cli
