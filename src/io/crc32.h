// The CRC-32 of zip files, as fast as the machine can: of a piece, of all pieces of a mapped file, of a tensor's
// numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "io/files.h"
#include "raedit/tensor.h"

namespace raedit {

// Of `bytes` more bytes after those that gave `crc`; 0 for the first ones.
uint32_t crc32(uint32_t crc, const void* data, size_t bytes);

// Of each `piece` bytes of [offset, offset + bytes) and of the rest, on up to `threads` threads. The disk brings what
// comes next meanwhile.
std::vector<uint32_t> crc32_of_pieces(const MappedFile& file, size_t offset, size_t bytes, size_t piece, int threads);

// Of each 2^18 numbers of a host tensor in row-major order, as `dtype`. The same for a copy in that type.
std::vector<uint32_t> crc32_of_numbers(const Tensor& tensor, DType dtype, int threads);

}  // namespace raedit
