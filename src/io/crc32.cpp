#include "io/crc32.h"

#include <libdeflate.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>

namespace raedit {

uint32_t crc32(uint32_t crc, const void* data, size_t bytes) {
  return libdeflate_crc32(crc, data, bytes);
}

std::vector<uint32_t> crc32_of_pieces(const MappedFile& file, size_t offset, size_t bytes, size_t piece, int threads) {
  constexpr size_t kAhead = size_t{32} << 20;
  std::vector<uint32_t> sums((bytes + piece - 1) / piece);
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < sums.size(); i = next++) {
      const size_t begin = i * piece;
      if (begin + kAhead < bytes) file.prefetch(offset + begin + kAhead, piece);
      sums[i] = crc32(0, file.data() + offset + begin, std::min(piece, bytes - begin));
    }
  };
  file.prefetch(offset, std::min(bytes, kAhead));
  std::vector<std::jthread> others;
  try {
    while (static_cast<int>(others.size()) + 1 < std::min(threads, static_cast<int>(sums.size())))
      others.emplace_back(work);
  } catch (const std::system_error&) {
    // Fewer threads than wished for: the others do it all.
  }
  work();
  others.clear();
  return sums;
}

}  // namespace raedit
