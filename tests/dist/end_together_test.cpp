// A program of its own: it has passed when all ranks were ended with the status of one (CMakeLists.txt).
#include <gtest/gtest.h>

#include "dist/started_ranks.h"

namespace raedit::dist {
namespace {

using test::ranks;
const auto* const kStarted = ::testing::AddGlobalTestEnvironment(new test::StartedRanks);

// All ranks end with what the last one says, where one is left waiting.
TEST(Ranks, EndTogether) {
  if (ranks().rank() == ranks().size() - 1) ranks().end_all(3);
  ranks().barrier();
  ADD_FAILURE() << "came back";
}

}  // namespace
}  // namespace raedit::dist
