// For tests that mpirun starts as several processes: the ranks, opened once, and ended when all tests are done.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "dist/communicator.h"

namespace raedit::test {

class StartedRanks : public ::testing::Environment {
 public:
  void SetUp() override { ranks() = dist::open_communicator(); }
  // Every rank fails where one did, after all have come here.
  void TearDown() override {
    const bool failed = ::testing::UnitTest::GetInstance()->Failed();
    EXPECT_EQ(ranks()->any(failed), failed) << "a test failed on another rank";
    ranks() = nullptr;
  }
  static std::unique_ptr<dist::Communicator>& ranks() {
    static std::unique_ptr<dist::Communicator> ranks;
    return ranks;
  }
};

// What mpirun was told, and not what MPI says of it.
inline int expected_ranks() {
  const char* ranks = std::getenv("RAEDIT_TEST_RANKS");
  return ranks != nullptr ? std::atoi(ranks) : 0;
}

inline dist::Communicator& ranks() {
  return *StartedRanks::ranks();
}

}  // namespace raedit::test
