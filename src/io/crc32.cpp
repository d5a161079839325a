#include "io/crc32.h"

#include <libdeflate.h>

namespace raedit {

uint32_t crc32(uint32_t crc, const void* data, size_t bytes) {
  return libdeflate_crc32(crc, data, bytes);
}

}  // namespace raedit
