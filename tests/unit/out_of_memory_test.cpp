// What happens where the heap has nothing left for the few bytes of bookkeeping: nothing is lost, nothing terminates.
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <new>

#include "expect_error.h"
#include "tensor/arena.h"

namespace {

thread_local int allocations_left = -1;  // -1: no limit

void* allocate_or_fail(std::size_t bytes) {
  if (allocations_left == 0) throw std::bad_alloc();
  if (allocations_left > 0) --allocations_left;
  if (void* data = std::malloc(bytes == 0 ? 1 : bytes)) return data;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) {
  return allocate_or_fail(bytes);
}
void* operator new[](std::size_t bytes) {
  return allocate_or_fail(bytes);
}
void operator delete(void* data) noexcept {
  std::free(data);
}
void operator delete[](void* data) noexcept {
  std::free(data);
}
void operator delete(void* data, std::size_t) noexcept {
  std::free(data);
}
void operator delete[](void* data, std::size_t) noexcept {
  std::free(data);
}

namespace raedit {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

class Limit {
 public:
  explicit Limit(int allocations) { allocations_left = allocations; }
  ~Limit() { allocations_left = -1; }
};

TEST(OutOfMemory, AnArenaGivesTheSystemWhatItCannotRemember) {
  for (int left = 0; left < 2; ++left) {  // of the two nodes of its maps
    Arena arena;
    auto kept = arena.allocate(kMiB), lost = arena.allocate(kMiB);
    {
      const Limit limit(left);
      lost.reset();
    }
    EXPECT_EQ(arena.bytes_in_use(), kMiB);
    EXPECT_EQ(arena.reserved_bytes(), kMiB);
    kept.reset();
    EXPECT_EQ(arena.reserved_bytes(), kMiB);
    EXPECT_EQ(arena.allocate(kMiB)->bytes(), kMiB);
    EXPECT_EQ(arena.reserved_bytes(), kMiB);
  }
}

TEST(OutOfMemory, AnArenaTakesALoanBackWhenNobodyGotIt) {
  Arena arena;
  int failures = 0;
  for (int left = 0; left < 4; ++left) {
    try {
      const Limit limit(left);
      (void)arena.allocate(kMiB);
    } catch (const std::bad_alloc&) {
      ++failures;
    }
    EXPECT_EQ(arena.bytes_in_use(), 0u) << left;
  }
  EXPECT_GE(failures, 2);
}

size_t address_space_bytes() {
  size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

TEST(OutOfMemory, StorageFreesItsBlockWhenNobodyGotIt) {
  const size_t before = address_space_bytes();
  for (int i = 0; i < 100; ++i) {
    const Limit limit(0);
    EXPECT_THROW((void)Storage::allocate(64 * kMiB), std::bad_alloc);
  }
  EXPECT_LT(address_space_bytes(), before + 1000 * kMiB);
}

}  // namespace
}  // namespace raedit
