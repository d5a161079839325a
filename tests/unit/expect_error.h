// EXPECT_RAEDIT_ERROR(statement, code, "part of the message", ...): it throws raedit::Error with that code, and what()
// holds every part.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "raedit/error.h"

namespace raedit::testing {

template <class F>
void expect_error(F&& f, ErrorCode code, std::initializer_list<std::string> parts) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_STREQ(to_string(error.code()), to_string(code)) << error.what();
    for (const std::string& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << "no '" << part << "' in: " << error.what();
    return;
  }
  ADD_FAILURE() << "no Error, expected " << to_string(code);
}

}  // namespace raedit::testing

#define EXPECT_RAEDIT_ERROR(statement, code, ...) \
  ::raedit::testing::expect_error([&] { (void)(statement); }, code, {__VA_ARGS__})
