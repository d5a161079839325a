#include "io/crc32.h"

#include <libdeflate.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>

#include "tensor/convert.h"

namespace raedit {

uint32_t crc32(uint32_t crc, const void* data, size_t bytes) {
  return libdeflate_crc32(crc, data, bytes);
}

namespace {

// fn(i) for every i below `count`, which does not throw, on up to `threads` threads.
template <class Fn>
void on_threads(size_t count, int threads, const Fn& fn) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < count; i = next++) fn(i);
  };
  std::vector<std::jthread> others;
  try {
    while (others.size() + 1 < std::min(static_cast<size_t>(std::max(threads, 1)), count)) others.emplace_back(work);
  } catch (const std::system_error&) {
    // Fewer threads than wished for: the others do it all.
  }
  work();
}

}  // namespace

std::vector<uint32_t> crc32_of_pieces(const MappedFile& file, size_t offset, size_t bytes, size_t piece, int threads) {
  constexpr size_t kAhead = size_t{32} << 20;
  std::vector<uint32_t> sums((bytes + piece - 1) / piece);
  file.prefetch(offset, std::min(bytes, kAhead));
  on_threads(sums.size(), threads, [&](size_t i) {
    const size_t begin = i * piece;
    if (begin + kAhead < bytes) file.prefetch(offset + begin + kAhead, piece);
    sums[i] = crc32(0, file.data() + offset + begin, std::min(piece, bytes - begin));
  });
  return sums;
}

std::vector<uint32_t> crc32_of_numbers(const Tensor& tensor, DType dtype, int threads) {
  constexpr size_t kPiece = size_t{1} << 18;  // numbers
  constexpr size_t kConverted = size_t{1} << 15, kMostBytes = 8;
  const Tensor numbers = tensor.contiguous();
  const auto count = static_cast<size_t>(numbers.numel()), from = size_of(numbers.dtype()), to = size_of(dtype);
  const std::byte* const data = static_cast<const std::byte*>(numbers.raw());
  std::vector<uint32_t> sums((count + kPiece - 1) / kPiece);
  on_threads(sums.size(), threads, [&](size_t i) {
    const size_t begin = i * kPiece, end = std::min(begin + kPiece, count);
    if (numbers.dtype() == dtype) {
      sums[i] = crc32(0, data + begin * from, (end - begin) * from);
      return;
    }
    alignas(64) std::byte converted[kConverted];  // stays in the first-level cache
    for (size_t at = begin; at < end; at += kConverted / kMostBytes) {
      const size_t some = std::min(kConverted / kMostBytes, end - at);
      convert_row(numbers.dtype(), data + at * from, 1, dtype, converted, 1, static_cast<int64_t>(some));
      sums[i] = crc32(sums[i], converted, some * to);
    }
  });
  return sums;
}

}  // namespace raedit
