#include "convert/translated_weights.h"

#include <fmt/format.h>

#include "core/check.h"
#include "io/safetensors_format.h"

namespace raedit::convert {

using safetensors_format::in_quotes;

namespace {

int64_t rows_of(const TensorInfo& info, const Piece& piece, const WeightSet& source) {
  const int64_t rows = info.shape.rank() > 0 ? info.shape[0] : 0;
  RAEDIT_CHECK(piece.parts == 1 || (info.shape.rank() > 0 && rows % piece.parts == 0),
               {.code = ErrorCode::format,
                .what = "tensor " + in_quotes(piece.source) + " cannot be split",
                .where = source.file_of(piece.source),
                .found = info.shape.str(),
                .expected = fmt::format("a number of rows that {} divides", piece.parts)});
  return rows / piece.parts;
}

Tensor rows(const Tensor& tensor, const Piece& piece) {
  if (piece.parts == 1) return tensor;
  const int64_t count = tensor.dim(0) / piece.parts;
  return tensor.slice(0, piece.part * count, (piece.part + 1) * count);
}

}  // namespace

TranslatedWeights::TranslatedWeights(std::shared_ptr<const WeightSet> source, std::vector<Recipe> recipes)
    : source_(std::move(source)) {
  for (Recipe& recipe : recipes) {
    const TensorInfo info = info_of(recipe);
    names_.push_back(recipe.name);
    RAEDIT_CHECK(entries_.emplace(recipe.name, Entry{recipe, info}).second,
                 {.code = ErrorCode::format,
                  .what = fmt::format("two tensors of the checkpoint become {}", in_quotes(recipe.name)),
                  .where = source_->path(),
                  .found = in_quotes(recipe.pieces.front().source) + " is the second one"});
  }
}

TensorInfo TranslatedWeights::info_of(const Recipe& recipe) const {
  const TensorInfo& first = source_->info(recipe.pieces.front().source);
  TensorInfo info{first.dtype, first.shape, 0, 0};
  int64_t count = 0;
  for (const Piece& piece : recipe.pieces) {
    const TensorInfo& part = source_->info(piece.source);
    count += rows_of(part, piece, *source_);
    Shape shape = part.shape;
    if (shape.rank() > 0) shape.set(0, first.shape[0]);
    RAEDIT_CHECK(part.dtype == first.dtype && shape == first.shape,
                 {.code = ErrorCode::format,
                  .what = fmt::format("tensors that make up {} do not fit together", in_quotes(recipe.name)),
                  .where = source_->file_of(piece.source),
                  .found = fmt::format("{} {} {}", in_quotes(piece.source), name_of(part.dtype), part.shape.str()),
                  .expected = fmt::format("{} with rows like {}", name_of(first.dtype), first.shape.str())});
  }
  if (info.shape.rank() > 0) info.shape.set(0, count);
  info.nbytes = static_cast<size_t>(info.shape.numel()) * size_of(info.dtype);
  return info;
}

const TranslatedWeights::Entry& TranslatedWeights::entry(std::string_view name) const {
  const auto it = entries_.find(name);
  if (it == entries_.end()) raise_no_tensor(name, *this);
  return it->second;
}

Tensor TranslatedWeights::tensor(std::string_view name) const {
  const Entry& e = entry(name);
  const std::vector<Piece>& pieces = e.recipe.pieces;
  if (pieces.size() == 1) return rows(source_->tensor(pieces[0].source), pieces[0]);
  Tensor joined = Tensor::empty(e.info.shape, e.info.dtype);
  int64_t begin = 0;
  for (const Piece& piece : pieces) {
    const Tensor part = rows(source_->tensor(piece.source), piece);
    joined.slice(0, begin, begin + part.dim(0)).copy_from(part);
    begin += part.dim(0);
  }
  return joined;
}

Tensor TranslatedWeights::piece(std::string_view name, int i) const {
  const Piece& piece = entry(name).recipe.pieces[static_cast<size_t>(i)];
  return rows(source_->tensor(piece.source), piece);
}

const std::string& TranslatedWeights::file_of(std::string_view name) const {
  return source_->file_of(entry(name).recipe.pieces.front().source);
}

void TranslatedWeights::drop_pages(std::string_view name) const {
  for (const Piece& piece : entry(name).recipe.pieces) source_->drop_pages(piece.source);
}

void TranslatedWeights::prefetch(std::string_view name) const {
  for (const Piece& piece : entry(name).recipe.pieces) source_->prefetch(piece.source);
}

}  // namespace raedit::convert
