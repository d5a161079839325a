// The CRC-32 of zip files, as fast as the machine can.
#pragma once

#include <cstddef>
#include <cstdint>

namespace raedit {

// Of `bytes` more bytes after those that gave `crc`; 0 for the first ones.
uint32_t crc32(uint32_t crc, const void* data, size_t bytes);

}  // namespace raedit
