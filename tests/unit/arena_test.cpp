#include "tensor/arena.h"

#include <cstring>
#include <thread>
#include <vector>

#include "expect_error.h"
#include "tensor/memory.h"

namespace raedit {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

uintptr_t address(const std::shared_ptr<Storage>& storage) {
  return reinterpret_cast<uintptr_t>(storage->data());
}

TEST(Arena, AlignsAndRounds) {
  Arena arena;
  const auto small = arena.allocate(65);
  EXPECT_EQ(small->bytes(), 65u);
  EXPECT_EQ(address(small) % 64, 0u);
  EXPECT_EQ(arena.bytes_in_use(), 128u);
  const auto page = arena.allocate(4097);
  EXPECT_EQ(arena.bytes_in_use(), 128u + 8192u);
  const auto big = arena.allocate(3 * kMiB);
  EXPECT_EQ(address(big) % (2 * kMiB), 0u);
  EXPECT_EQ(arena.bytes_in_use(), 128u + 8192u + 3 * kMiB);
  std::memset(big->data(), 1, big->bytes());
  EXPECT_EQ(arena.allocate(0)->bytes(), 0u);
}

TEST(Arena, CountsUsePeakAndReserve) {
  Arena arena;
  auto a = arena.allocate(kMiB);
  auto b = arena.allocate(2 * kMiB);
  b.reset();
  EXPECT_EQ(arena.bytes_in_use(), kMiB);
  EXPECT_EQ(arena.peak_bytes(), 3 * kMiB);
  EXPECT_EQ(arena.reserved_bytes(), 3 * kMiB);
  arena.release_unused();
  EXPECT_EQ(arena.reserved_bytes(), kMiB);
  arena.reset_peak();
  EXPECT_EQ(arena.peak_bytes(), kMiB);
  a.reset();
  arena.release_unused();
  EXPECT_EQ(arena.reserved_bytes(), 0u);
  EXPECT_EQ(arena.bytes_in_use(), 0u);
}

TEST(Arena, ReusesABlockUnderAFreshId) {
  Arena arena;
  auto first = arena.allocate(1000);
  const uintptr_t at = address(first);
  const uint64_t id = first->id();
  first.reset();
  const auto second = arena.allocate(1000);
  EXPECT_EQ(address(second), at);
  EXPECT_NE(second->id(), id);
}

TEST(Arena, ReusesAtMostAQuarterMore) {
  Arena arena;
  auto block = arena.allocate(125 * 4096);
  const uintptr_t at = address(block);
  block.reset();
  auto near = arena.allocate(100 * 4096);
  EXPECT_EQ(address(near), at);
  EXPECT_EQ(near->bytes(), 100u * 4096u);
  EXPECT_EQ(arena.bytes_in_use(), 125u * 4096u);  // the whole block is taken
  near.reset();
  const auto far = arena.allocate(99 * 4096);
  EXPECT_EQ(arena.bytes_in_use(), 99u * 4096u);
  EXPECT_EQ(arena.reserved_bytes(), (125u + 99u) * 4096u);
}

// What one sampling step does: allocations and frees in no simple order.
std::vector<uintptr_t> step(Arena& arena, bool swap_frees) {
  std::vector<uintptr_t> seen;
  const auto take = [&](size_t bytes) {
    auto storage = arena.allocate(bytes);
    seen.push_back(address(storage));
    return storage;
  };
  auto a = take(70'000), b = take(70'000), c = take(3 * kMiB);
  auto d = take(70'000);
  if (swap_frees) {
    b.reset();
    a.reset();
  } else {
    a.reset();
    b.reset();
  }
  auto e = take(70'000), f = take(64);
  c.reset();
  auto g = take(3 * kMiB - 5000), h = take(2'900'000);
  e.reset();
  auto i = take(60'000);
  return seen;
}

TEST(Arena, RepeatsTheAddressesOfARepeatedStep) {
  Arena arena;
  for (int warm_up = 0; warm_up < 3; ++warm_up) step(arena, false);
  const size_t reserved = arena.reserved_bytes();
  const std::vector<uintptr_t> first = step(arena, false);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(step(arena, false), first);
  // The order in which equal blocks were freed must not matter either.
  EXPECT_EQ(step(arena, true), first);
  EXPECT_EQ(step(arena, false), first);
  EXPECT_EQ(arena.reserved_bytes(), reserved);
}

TEST(Arena, DoesNotPileUpSizesThatNobodyWants) {
  Arena arena;
  // Growing by 30% each time: no free block ever fits, so a plain cache would keep them all.
  size_t bytes = kMiB, total = 0;
  for (int i = 0; i < 16; ++i, bytes += bytes * 3 / 10) {
    arena.allocate(bytes);
    total += bytes;
    EXPECT_LE(arena.reserved_bytes(), 2 * arena.peak_bytes());
  }
  EXPECT_LT(arena.reserved_bytes(), total / 2);
}

TEST(Arena, CutsBlocksFromWhatIsReserved) {
  Arena arena;
  arena.reserve(3 * kMiB);
  EXPECT_EQ(arena.reserved_bytes(), 3 * kMiB);
  EXPECT_EQ(arena.bytes_in_use(), 0u);
  auto a = arena.allocate(kMiB), b = arena.allocate(64), c = arena.allocate(kMiB);
  EXPECT_EQ(address(b), address(a) + kMiB);
  EXPECT_EQ(address(c), address(b) + 64);
  EXPECT_EQ(arena.allocations(), 1u);
  for (const auto& block : {a, b, c}) std::memset(block->data(), 1, block->bytes());
  // What was not foreseen comes from the system, and blocks are used again as ever.
  const uintptr_t at = address(a);
  a.reset();
  const auto again = arena.allocate(kMiB - 5000), beyond = arena.allocate(kMiB);
  EXPECT_EQ(address(again), at);
  EXPECT_EQ(arena.allocations(), 2u);
  EXPECT_EQ(arena.reserved_bytes(), 4 * kMiB);
}

TEST(Arena, GivesBackWhatItReservedWhenNoneOfItIsLent) {
  Arena arena;
  arena.reserve(2 * kMiB);
  const auto other = arena.allocate(3 * kMiB);
  auto first = arena.allocate(4096), second = arena.allocate(4096);
  first.reset();
  arena.release_unused();
  arena.reserve(kMiB);  // not while it is
  EXPECT_EQ(arena.reserved_bytes(), 5 * kMiB);
  EXPECT_EQ(arena.allocations(), 2u);
  first = arena.allocate(4096);
  EXPECT_EQ(arena.allocations(), 2u);
  first.reset(), second.reset();
  arena.reserve(kMiB);
  EXPECT_EQ(arena.reserved_bytes(), 4 * kMiB);
  EXPECT_EQ(arena.allocations(), 3u);
  arena.release_unused();
  EXPECT_EQ(arena.reserved_bytes(), 3 * kMiB);
  EXPECT_EQ(other->bytes(), 3 * kMiB);
}

TEST(Arena, KeepsWhatItReservedForThoseWhoOutliveIt) {
  std::shared_ptr<Storage> block;
  {
    Arena arena;
    arena.reserve(kMiB);
    block = arena.allocate(kMiB);
  }
  std::memset(block->data(), 1, block->bytes());
  EXPECT_EQ(block->data()[kMiB - 1], std::byte{1});
}

TEST(Arena, AReserveIsNoBlockToGetRidOf) {
  Arena arena;
  arena.reserve(2 * kMiB);
  arena.allocate(2 * kMiB);
  for (size_t bytes = 3 * kMiB; bytes < 40 * kMiB; bytes += bytes * 3 / 10) {
    arena.allocate(bytes);
    EXPECT_LE(arena.reserved_bytes(), 2 * arena.peak_bytes() + 2 * kMiB);
  }
  EXPECT_GT(arena.allocations(), 5u);
}

TEST(Arena, NoReserveIsTooLargeToAskFor) {
  Arena arena;
  arena.reserve(SIZE_MAX);
  arena.reserve(size_t{1} << 60);
  arena.reserve(0);
  EXPECT_EQ(arena.reserved_bytes(), 0u);
  EXPECT_NE(arena.allocate(100), nullptr);
}

TEST(Arena, AddressesCountLikeBlocks) {
  Arena arena(Arena::AddressesOnly{}), real;
  const uint64_t blocks = large_blocks_allocated();
  {
    const auto large = arena.allocate(size_t{1} << 36);  // more than any test machine has
    EXPECT_EQ(arena.reserved_bytes(), size_t{1} << 36);
    large->data()[large->bytes() / 2] = std::byte{1};
  }
  arena.release_unused();
  EXPECT_EQ(large_blocks_allocated(), blocks);
  for (Arena* one : {&arena, &real}) {
    one->reset_peak();
    step(*one, false);
  }
  EXPECT_EQ(arena.reserved_bytes(), real.reserved_bytes());
  EXPECT_EQ(arena.peak_bytes(), real.peak_bytes());
}

TEST(Arena, TensorsOutliveIt) {
  Tensor tensor;
  {
    Arena arena;
    arena.allocate(4096);
    tensor = Tensor(arena.allocate(1024 * sizeof(float)), 0, {1024}, DType::float32);
  }
  std::fill_n(tensor.data<float>(), 1024, 2.0f);
  EXPECT_EQ(tensor.select(0, 1023).item(), 2.0);
}

TEST(Arena, RefusesTheImpossibleAndStaysUsable) {
  Arena arena;
  EXPECT_RAEDIT_ERROR(arena.allocate(SIZE_MAX), ErrorCode::out_of_memory, "EiB");
  EXPECT_RAEDIT_ERROR(arena.allocate(size_t{1} << 60), ErrorCode::out_of_memory, "1.00 EiB");
  EXPECT_EQ(arena.bytes_in_use(), 0u);
  EXPECT_NE(arena.allocate(100), nullptr);
}

TEST(Arena, ServesSeveralThreads) {
  Arena arena;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&arena, t] {
      for (int i = 0; i < 500; ++i) {
        const size_t bytes = static_cast<size_t>(64 + (i * 37 + t * 101) % 5000);
        const auto storage = arena.allocate(bytes);
        std::memset(storage->data(), t, bytes);
        for (size_t k = 0; k < bytes; ++k)  // nobody else was given the same bytes
          if (storage->data()[k] != static_cast<std::byte>(t)) return ADD_FAILURE() << "overlap";
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(arena.bytes_in_use(), 0u);
}

}  // namespace
}  // namespace raedit
