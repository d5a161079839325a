#include "raedit/shape.h"

#include <vector>

#include "expect_error.h"

namespace raedit {
namespace {

TEST(Shape, ScalarHasOneElement) {
  const Shape scalar;
  EXPECT_EQ(scalar.rank(), 0);
  EXPECT_EQ(scalar.numel(), 1);
  EXPECT_EQ(scalar.str(), "[]");
}

TEST(Shape, IndexesFromBothEnds) {
  Shape shape{2, 768, 16, 17};
  EXPECT_EQ(shape[0], 2);
  EXPECT_EQ(shape[-1], 17);
  EXPECT_EQ(shape[-4], 2);
  shape.set(-2, 5);
  EXPECT_EQ(shape.str(), "[2, 768, 5, 17]");
  EXPECT_EQ(shape.numel(), 2 * 768 * 5 * 17);
  EXPECT_RAEDIT_ERROR(shape[4], ErrorCode::internal, "no dimension 4", "[2, 768, 5, 17]");
  EXPECT_RAEDIT_ERROR(shape[-5], ErrorCode::internal, "-5");
  EXPECT_RAEDIT_ERROR(shape.set(4, 1), ErrorCode::internal, "4");
  EXPECT_RAEDIT_ERROR(shape.set(0, -2), ErrorCode::invalid_argument, "-2");
}

TEST(Shape, ComparesRankAndDims) {
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_NE((Shape{2, 3}), (Shape{3, 2}));
  EXPECT_NE((Shape{2}), (Shape{2, 1}));
  EXPECT_NE((Shape{0}), (Shape{}));
}

TEST(Shape, RefusesWhatItCannotHold) {
  EXPECT_EQ((Shape{1, 2, 3, 4, 5, 6, 7, 8}).rank(), 8);
  const std::vector<int64_t> nine(9, 1);
  EXPECT_RAEDIT_ERROR(Shape(std::span<const int64_t>(nine)), ErrorCode::unsupported, "9", "8");
  EXPECT_RAEDIT_ERROR((Shape{3, -2}), ErrorCode::invalid_argument, "[3, -2]");
}

TEST(Shape, CountsWithoutOverflow) {
  const int64_t big = int64_t{1} << 40;
  EXPECT_RAEDIT_ERROR((Shape{big, big}).numel(), ErrorCode::invalid_argument, "64 bits");
  EXPECT_EQ((Shape{big, big, 0}).numel(), 0);
  EXPECT_RAEDIT_ERROR((Shape{2, -1}).numel(), ErrorCode::invalid_argument, "-1");
}

}  // namespace
}  // namespace raedit
