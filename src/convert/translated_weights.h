// A checkpoint under other names: every tensor of the result is put together from rows of tensors of the source, when
// it is asked for. Nothing is copied but what is joined.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/weight_set.h"

namespace raedit::convert {

// Part `part` of `parts` equal parts of the source's rows (its first dimension); all of them by default.
struct Piece {
  std::string source;
  int part = 0;
  int parts = 1;
};

// The pieces, one below the other.
struct Recipe {
  std::string name;
  std::vector<Piece> pieces;
};

class TranslatedWeights final : public WeightSet {
 public:
  // Throws Error(format) for a name that two recipes make, for rows that do not divide into the parts, and for pieces
  // that do not fit together; Error(not_found) for a source that is not there.
  TranslatedWeights(std::shared_ptr<const WeightSet> source, std::vector<Recipe> recipes);

  const std::string& path() const override { return source_->path(); }
  const std::vector<std::string>& names() const override { return names_; }
  bool contains(std::string_view name) const override { return entries_.find(name) != entries_.end(); }
  const TensorInfo& info(std::string_view name) const override { return entry(name).info; }
  Tensor tensor(std::string_view name) const override;
  int num_pieces(std::string_view name) const override { return static_cast<int>(entry(name).recipe.pieces.size()); }
  Tensor piece(std::string_view name, int i) const override;
  const std::string& file_of(std::string_view name) const override;
  void drop_pages(std::string_view name) const override;
  void prefetch(std::string_view name) const override;
  std::vector<std::shared_ptr<const MappedFile>> files() const override { return source_->files(); }

 private:
  struct Entry {
    Recipe recipe;
    TensorInfo info;
  };
  const Entry& entry(std::string_view name) const;
  TensorInfo info_of(const Recipe& recipe) const;

  std::shared_ptr<const WeightSet> source_;
  std::vector<std::string> names_;
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace raedit::convert
