// How far a tensor is from the reference's: the largest difference relative to the largest value, which is how the
// project states agreement in float32.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "raedit/tensor.h"
#include "test_device.h"

namespace raedit::testing {

struct Agreement {
  double max_absolute = 0;
  double mean_absolute = 0;
  double largest_value = 0;  // of the reference
  double relative() const { return largest_value > 0 ? max_absolute / largest_value : max_absolute; }
};

inline Agreement agreement(const Tensor& found, const Tensor& expected) {
  Agreement result;
  const std::vector<double> a = found.to_vector<double>();
  const std::vector<double> b = expected.to_vector<double>();
  for (size_t i = 0; i < b.size(); ++i) {
    // A NaN must not pass: it compares false with everything.
    const double difference = std::isfinite(a[i]) ? std::abs(a[i] - b[i]) : HUGE_VAL;
    result.max_absolute = std::max(result.max_absolute, difference);
    result.mean_absolute += difference / static_cast<double>(b.size());
    result.largest_value = std::max(result.largest_value, std::abs(b[i]));
  }
  return result;
}

inline void expect_agrees(const std::string& name, const Tensor& found, const Tensor& expected, double relative) {
  ASSERT_TRUE(found.defined()) << name;
  ASSERT_EQ(found.shape(), expected.shape()) << name;
  EXPECT_LE(agreement(found, expected).relative(), relative) << name;
}

// What the same rows gave in another batch: the same bits on a CPU. On a GPU the library's matrix product may choose
// another algorithm for another number of rows.
inline void expect_same_rows(const std::string& name, const Tensor& found, const Tensor& expected) {
  constexpr double kAnotherOrder = 2e-5;
  if (!test::on_cpu()) return expect_agrees(name, found, expected, kAnotherOrder);
  EXPECT_EQ(found.to_vector<float>(), expected.to_vector<float>()) << name;
}

}  // namespace raedit::testing
