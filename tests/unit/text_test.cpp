#include "core/text.h"

#include <gtest/gtest.h>

namespace raedit {
namespace {

using Names = std::vector<std::string>;

TEST(EditDistance, CountsEditsAndSwaps) {
  EXPECT_EQ(edit_distance("", "", 5), 0u);
  EXPECT_EQ(edit_distance("", "abc", 5), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting", 5), 3u);
  EXPECT_EQ(edit_distance("hieght", "height", 5), 1u);  // one swap, not two replacements
  EXPECT_EQ(edit_distance("ab", "ba", 5), 1u);
  EXPECT_EQ(edit_distance("abcd", "badc", 5), 2u);
}

TEST(EditDistance, StopsAtTheLimit) {
  EXPECT_EQ(edit_distance("kitten", "sitting", 3), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting", 2), 3u);
  EXPECT_EQ(edit_distance("aaaaaaaaaa", "bbbbbbbbbb", 4), 5u);
  EXPECT_EQ(edit_distance("a", "aaaaaaaaaa", 4), 5u);
  // After "xa" / "ax" every path costs 1 or more; the swap must still be found with limit 1.
  EXPECT_EQ(edit_distance("xabc", "axbc", 1), 1u);
}

TEST(Nearest, SortsByDistanceAndKeepsTheOrderOfTies) {
  const Names names{"num_heads", "hidden_size", "hidden_sizes", "num_layers", "hiddensize"};
  EXPECT_EQ(nearest("hidden_size", names), (Names{"hidden_size", "hidden_sizes", "hiddensize"}));
  EXPECT_EQ(nearest("hidden_size", names, 1), (Names{"hidden_size"}));
  EXPECT_EQ(nearest("completely_different", names), Names{});
  EXPECT_EQ(nearest("x", Names{"y"}), Names{"y"});
  EXPECT_EQ(nearest("x", Names{}), Names{});
}

TEST(DidYouMean, IsAHintOrNothing) {
  EXPECT_EQ(did_you_mean("hiden_size", Names{"hidden_size", "depth"}), "did you mean 'hidden_size'?");
  EXPECT_EQ(did_you_mean("block.1.w", Names{"block.0.w", "block.2.w", "block.3.w"}),
            "did you mean 'block.0.w' or 'block.2.w'?");
  EXPECT_EQ(did_you_mean("depth", Names{"hidden_size"}), "");
}

TEST(Join, PutsTheSeparatorBetween) {
  EXPECT_EQ(join(Names{}), "");
  EXPECT_EQ(join(Names{"a"}), "a");
  EXPECT_EQ(join(Names{"a", "b", "c"}, "/"), "a/b/c");
}

TEST(HumanBytes, PicksAUnit) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1.00 KiB");
  EXPECT_EQ(human_bytes(1024 * 1024 - 1), "1.00 MiB");  // not "1024.00 KiB"
  EXPECT_EQ(human_bytes(uint64_t{3} << 29), "1.50 GiB");
  EXPECT_EQ(human_bytes(UINT64_MAX), "16.00 EiB");
}

TEST(EditDistance, LongNamesAreNotMeasured) {
  const std::string name(300, 'a');
  EXPECT_EQ(edit_distance(name, name, 5), 0u);
  EXPECT_EQ(edit_distance(name, name + "b", 5), 6u);
}

}  // namespace
}  // namespace raedit
