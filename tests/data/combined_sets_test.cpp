// Several sets as one, and some classes of one: every picture under the id of its class's name.
#include "data/combined_sets.h"

#include <gtest/gtest.h>

#include "io/hash.h"
#include "io/io_test_util.h"

namespace raedit::data {
namespace {

// Two pictures of each class, which are only names.
class Named final : public PictureSet {
 public:
  Named(std::string root, std::vector<std::string> classes) : root_(std::move(root)), classes_(std::move(classes)) {}
  int64_t size() const override { return 2 * static_cast<int64_t>(classes_.size()); }
  const std::vector<std::string>& classes() const override { return classes_; }
  int64_t class_id(int64_t index) const override { return index / 2; }
  std::string name(int64_t index) const override {
    return root_ + "/" + classes_[static_cast<size_t>(index / 2)] + "/" + std::to_string(index % 2);
  }
  std::string bytes(int64_t index) const override { return "bytes of " + name(index); }
  std::string fingerprint() const override {
    Sha256 digest;
    digest.update(root_);
    return digest.hex();
  }

 private:
  std::string root_;
  std::vector<std::string> classes_;
};

std::shared_ptr<const PictureSet> named(const std::string& root, const std::vector<std::string>& classes) {
  return std::make_shared<Named>(root, classes);
}

void expect_ids_are_of_the_names(const PictureSet& set) {
  for (int64_t i = 0; i < set.size(); ++i) {
    const std::string name = set.name(i), folder = name.substr(name.find('/') + 1);
    EXPECT_EQ(set.classes()[static_cast<size_t>(set.class_id(i))], folder.substr(0, folder.find('/'))) << name;
    EXPECT_EQ(set.bytes(i), "bytes of " + name);
  }
}

TEST(JoinedSets, ClassesOfOneNameAreOne) {
  const auto joined = join_sets({named("a", {"cat", "dog"}), named("b", {"bird", "dog"}), named("b", {"bird", "dog"})});
  EXPECT_EQ(joined->classes(), (std::vector<std::string>{"bird", "cat", "dog"}));
  EXPECT_EQ(joined->size(), 12);
  EXPECT_EQ(joined->name(4), "b/bird/0");
  EXPECT_EQ(joined->name(8), "b/bird/0");
  expect_ids_are_of_the_names(*joined);
  EXPECT_NE(joined->fingerprint(), join_sets({named("a", {"cat", "dog"}), named("b", {"bird", "dog"})})->fingerprint());
  const auto alone = named("a", {"cat"});
  EXPECT_EQ(join_sets({alone}), alone);
}

TEST(SelectedClasses, AreNumberedAnew) {
  const auto set = named("a", {"ant", "bee", "cat", "dog"});
  const auto some = select_classes(set, {"dog", "bee", "dog"});
  EXPECT_EQ(some->classes(), (std::vector<std::string>{"bee", "dog"}));
  EXPECT_EQ(some->size(), 4);
  EXPECT_EQ(some->name(3), "a/dog/1");
  expect_ids_are_of_the_names(*some);
  EXPECT_NE(some->fingerprint(), select_classes(set, {"bee"})->fingerprint());
  test::expect_error(ErrorCode::not_found, {"no such class", "dgo", "did you mean 'dog'"}, [&] {
    select_classes(set, {"bee", "dgo"});
  });
}

}  // namespace
}  // namespace raedit::data
