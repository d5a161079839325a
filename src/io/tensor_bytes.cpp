#include "io/tensor_bytes.h"

#include <algorithm>

namespace raedit {

void for_each_chunk(const Tensor& tensor, const ByteSink& sink) {
  constexpr size_t kChunkBytes = size_t{4} << 20;
  const size_t bytes = tensor.nbytes();
  if (bytes == 0) return;
  if (tensor.is_contiguous()) return sink(tensor.raw(), bytes);
  if (bytes <= kChunkBytes) return sink(tensor.contiguous().raw(), bytes);
  const int64_t rows = tensor.dim(0);
  const size_t row_bytes = bytes / static_cast<size_t>(rows);
  const int64_t step = std::max<int64_t>(1, static_cast<int64_t>(kChunkBytes / row_bytes));
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t end = std::min(rows, row + step);
    for_each_chunk(end - row == 1 ? tensor.select(0, row) : tensor.slice(0, row, end), sink);
  }
}

}  // namespace raedit
