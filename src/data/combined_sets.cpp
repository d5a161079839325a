#include "data/combined_sets.h"

#include <algorithm>
#include <map>

#include "core/check.h"
#include "core/text.h"
#include "io/hash.h"

namespace raedit::data {
namespace {

// Pictures of other sets, under other class ids.
class Combined final : public PictureSet {
 public:
  struct Entry {
    size_t set = 0;
    int64_t index = 0, class_id = 0;
  };

  Combined(std::vector<std::shared_ptr<const PictureSet>> sets, std::vector<std::string> classes)
      : sets_(std::move(sets)), classes_(std::move(classes)) {
    std::map<std::string, int64_t> ids;
    for (size_t id = 0; id < classes_.size(); ++id) ids[classes_[id]] = static_cast<int64_t>(id);
    for (size_t s = 0; s < sets_.size(); ++s)
      for (int64_t i = 0; i < sets_[s]->size(); ++i) {
        const auto id = ids.find(sets_[s]->classes()[static_cast<size_t>(sets_[s]->class_id(i))]);
        if (id != ids.end()) entries_.push_back({s, i, id->second});
      }
  }

  int64_t size() const override { return static_cast<int64_t>(entries_.size()); }
  const std::vector<std::string>& classes() const override { return classes_; }
  int64_t class_id(int64_t index) const override { return at(index).class_id; }
  std::string name(int64_t index) const override { return sets_[at(index).set]->name(at(index).index); }
  std::string bytes(int64_t index) const override { return sets_[at(index).set]->bytes(at(index).index); }
  std::string fingerprint() const override {
    Sha256 digest;
    for (const auto& set : sets_) digest.update(set->fingerprint());
    for (const std::string& name : classes_) digest.update(name + "\n");
    return digest.hex();
  }

 private:
  const Entry& at(int64_t index) const { return entries_.at(static_cast<size_t>(index)); }

  std::vector<std::shared_ptr<const PictureSet>> sets_;
  std::vector<std::string> classes_;
  std::vector<Entry> entries_;
};

void sort_unique(std::vector<std::string>& names) {
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
}

}  // namespace

std::shared_ptr<const PictureSet> join_sets(std::vector<std::shared_ptr<const PictureSet>> sets) {
  if (sets.size() == 1) return sets.front();
  std::vector<std::string> classes;
  for (const auto& set : sets) classes.insert(classes.end(), set->classes().begin(), set->classes().end());
  sort_unique(classes);
  return std::make_shared<Combined>(std::move(sets), std::move(classes));
}

std::shared_ptr<const PictureSet> select_classes(std::shared_ptr<const PictureSet> set,
                                                 const std::vector<std::string>& names) {
  for (const std::string& name : names)
    RAEDIT_CHECK(std::find(set->classes().begin(), set->classes().end(), name) != set->classes().end(),
                 {.code = ErrorCode::not_found,
                  .what = "the data have no such class",
                  .found = name,
                  .hint = did_you_mean(name, set->classes())});
  std::vector<std::string> classes = names;
  sort_unique(classes);
  return std::make_shared<Combined>(std::vector{std::move(set)}, std::move(classes));
}

}  // namespace raedit::data
