#include "io/tensor_source.h"

#include <fmt/format.h>

#include "core/check.h"
#include "io/safetensors_format.h"

namespace raedit {

TensorSource TensorSource::of(std::string name, const Tensor& tensor) {
  return {std::move(name), tensor.dtype(), tensor.shape(), [tensor] { return tensor; }};
}

void stream(const TensorSource& source, const std::string& path, const ByteSink& sink) {
  const auto require = [&](bool as_announced, const std::string& found) {
    RAEDIT_CHECK(as_announced,
                 {.code = ErrorCode::internal,
                  .what = "tensor " + safetensors_format::in_quotes(source.name) + " is not what was announced",
                  .where = path,
                  .found = found,
                  .expected = fmt::format("{} {}", name_of(source.dtype), source.shape.str())});
  };
  int64_t rows = 0;
  const auto stream_piece = [&](const std::function<Tensor()>& produce) {
    const Tensor piece = produce();
    require(piece.defined(), "nothing");
    Shape shape = piece.shape();
    if (!source.below.empty() && shape.rank() > 0 && source.shape.rank() > 0) {
      rows += shape[0];
      shape.set(0, source.shape[0]);
    }
    require(piece.dtype() == source.dtype && shape == source.shape,
            fmt::format("{} {}", name_of(piece.dtype()), piece.shape().str()));
    for_each_chunk(piece, sink);
  };
  stream_piece(source.produce);
  for (const auto& produce : source.below) stream_piece(produce);
  require(source.below.empty() || rows == source.shape[0], fmt::format("{} rows", rows));
}

}  // namespace raedit
