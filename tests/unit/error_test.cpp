#include "core/check.h"
#include "expect_error.h"

namespace raedit {
namespace {

TEST(Error, ComposesTheMessageFromItsParts) {
  const Error whole({.code = ErrorCode::format,
                     .what = "wrong shape",
                     .where = "model.safetensors",
                     .found = "[4, 192]",
                     .expected = "[4, 256]",
                     .hint = "is it the right checkpoint?"});
  EXPECT_STREQ(whole.what(),
               "model.safetensors: wrong shape (found [4, 192], expected [4, 256]); is it the right checkpoint?");
  EXPECT_EQ(whole.code(), ErrorCode::format);
  EXPECT_EQ(whole.info().found, "[4, 192]");

  EXPECT_STREQ(Error({.what = "a", .found = "b"}).what(), "a (found b)");
  EXPECT_STREQ(Error({.what = "a", .expected = "c"}).what(), "a (expected c)");
  EXPECT_STREQ(Error({.what = "a"}).what(), "a");
  EXPECT_EQ(Error({.what = "a"}).code(), ErrorCode::internal);
}

TEST(Check, EvaluatesItsPartsOnlyWhenItFails) {
  int evaluated = 0;
  const auto text = [&] {
    ++evaluated;
    return std::string("text");
  };
  RAEDIT_CHECK(1 + 1 == 2, {.code = ErrorCode::io, .what = text()});
  EXPECT_EQ(evaluated, 0);
  const auto fail = [&] { RAEDIT_CHECK(1 + 1 == 3, {.code = ErrorCode::io, .what = text()}); };
  EXPECT_RAEDIT_ERROR(fail(), ErrorCode::io, "text");
  EXPECT_EQ(evaluated, 1);
}

}  // namespace
}  // namespace raedit
