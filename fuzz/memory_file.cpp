#include "memory_file.h"

#include <fmt/format.h>
#include <sanitizer/asan_interface.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

namespace {

size_t up_to_page(size_t bytes) {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

}  // namespace

// The linker puts these in place of the ones that our code calls. The kernel fills the last page of a mapped file with
// zeros; to us they are out of bounds.
extern "C" {
void* __real_mmap(void* address, size_t bytes, int protection, int flags, int fd, off_t offset);
int __real_munmap(void* address, size_t bytes);

void* __wrap_mmap(void* address, size_t bytes, int protection, int flags, int fd, off_t offset) {
  void* mapped = __real_mmap(address, bytes, protection, flags, fd, offset);
  if (mapped == MAP_FAILED) return mapped;
  ASAN_UNPOISON_MEMORY_REGION(mapped, bytes);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(mapped) + bytes, up_to_page(bytes) - bytes);
  return mapped;
}

int __wrap_munmap(void* address, size_t bytes) {
  ASAN_UNPOISON_MEMORY_REGION(address, up_to_page(bytes));
  return __real_munmap(address, bytes);
}
}

namespace raedit::fuzz {

std::string memory_file(const uint8_t* data, size_t size) {
  static const int fd = ::memfd_create("fuzz", MFD_CLOEXEC);
  if (fd < 0 || ::ftruncate(fd, 0) != 0 || ::pwrite(fd, data, size, 0) != static_cast<ssize_t>(size)) std::abort();
  return fmt::format("/proc/self/fd/{}", fd);
}

void touch(const void* data, size_t bytes) {
  const auto* begin = static_cast<const unsigned char*>(data);
  unsigned sum = 0;
  for (size_t i = 0; i < bytes; ++i) sum += begin[i];
  volatile unsigned kept = sum;
  (void)kept;
}

}  // namespace raedit::fuzz
