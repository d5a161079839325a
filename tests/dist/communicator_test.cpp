// One process alone is one rank, and what it hears is what it said.
#include "dist/communicator.h"

#include <gtest/gtest.h>

#include <vector>

namespace raedit::dist {
namespace {

TEST(SingleRank, HearsItself) {
  const auto ranks = single_rank();
  EXPECT_EQ(ranks->size(), 1);
  EXPECT_TRUE(ranks->is_first());
  std::vector<float> values{1.5f, -2.0f};
  ranks->all_reduce(std::span<float>(values));
  EXPECT_EQ(values, (std::vector<float>{1.5f, -2.0f}));
  EXPECT_TRUE(ranks->any(true));
  EXPECT_FALSE(ranks->any(false));
  EXPECT_EQ(ranks->broadcast("whole", 0), "whole");
}

}  // namespace
}  // namespace raedit::dist
