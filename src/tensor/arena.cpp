// Free blocks are kept by size and, within a size, in the order of their creation: the oldest is taken first. What is
// handed out then depends only on which blocks are free, never on the order in which they were freed, so a step that
// begins like the last one gets the last one's addresses. A last-in-first-out list would swap them every time.
#include "tensor/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "core/check.h"
#include "core/text.h"
#include "tensor/memory.h"

namespace raedit {

namespace {

// 64-byte steps for small blocks, pages for large ones: the waste stays below 2% where it matters.
size_t block_size(size_t bytes) {
  constexpr size_t kFine = 64, kPage = 4096;
  const size_t step = bytes <= kPage ? kFine : kPage;
  return std::max(kFine, (bytes + step - 1) / step * step);
}

std::byte* map_addresses(size_t size) noexcept {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

}  // namespace

struct Arena::Pool {
  struct Block {
    std::byte* data;
    uint64_t last_use;
  };
  using Blocks = std::map<uint64_t, Block>;  // by number of creation

  // What a lent block has to remember to come home.
  struct Loan {
    std::byte* data;
    size_t size;
    uint64_t number;
  };

  // What reserve() took. Blocks are cut from its front, and it goes back when none of them is lent.
  struct Slab {
    std::byte* data = nullptr;
    size_t size = 0, used = 0;
    bool has(const std::byte* block) const { return data != nullptr && block >= data && block < data + size; }
  };

  std::shared_ptr<const DeviceMemory> memory;  // null: the host's
  bool addresses_only = false;
  bool keep = false;
  Slab slab;
  std::mutex mutex;
  std::map<size_t, Blocks> free;
  size_t in_use = 0, peak = 0, reserved = 0;
  uint64_t blocks_made = 0, allocations = 0, clock = 0;

  ~Pool() {
    keep = false;
    release_all();
    if (slab.data != nullptr) free_block(slab.data, slab.size);
  }

  std::byte* get_block(size_t size) noexcept {
    ++allocations;
    if (addresses_only) return map_addresses(size);
    return memory ? memory->allocate(size) : allocate_block(size);
  }
  // Not of one that was cut from the slab.
  void drop_block(std::byte* data, size_t size) noexcept {
    reserved -= size;
    if (addresses_only) return void(::munmap(data, size));
    memory ? memory->free(data) : free_block(data, size);
  }

  Loan take(size_t size) {
    const std::lock_guard lock(mutex);
    auto found = free.lower_bound(size);
    const bool fits = found != free.end() && found->first <= size + size / 4;
    const Loan loan = fits ? reuse(found) : make(size);
    in_use += loan.size;
    peak = std::max(peak, in_use);
    return loan;
  }

  // Called from ~Storage: without memory to remember the block by, the system gets it.
  void give_back(const Loan& loan) noexcept {
    const std::lock_guard lock(mutex);
    in_use -= loan.size;
    try {
      free[loan.size].emplace(loan.number, Block{loan.data, ++clock});
    } catch (const std::bad_alloc&) {
      const auto sized = free.find(loan.size);
      if (sized != free.end() && sized->second.empty()) free.erase(sized);
      if (!slab.has(loan.data)) drop_block(loan.data, loan.size);
    }
  }

  Loan reuse(std::map<size_t, Blocks>::iterator sized) {
    const auto oldest = sized->second.begin();
    const Loan loan{oldest->second.data, sized->first, oldest->first};
    sized->second.erase(oldest);
    if (sized->second.empty()) free.erase(sized);
    return loan;
  }

  // Only a miss can grow the pool, so only here must it be kept from piling up blocks of sizes that nobody wants any
  // more. A step that fits what is there never comes by.
  Loan make(size_t size) {
    if (size <= slab.size - slab.used) {
      std::byte* const cut = slab.data + slab.used;
      slab.used += size;
      return {cut, size, blocks_made++};
    }
    const size_t limit = 2 * std::max(peak, in_use + size);
    while (!keep && reserved + size > limit && release_least_recent()) continue;
    std::byte* data = get_block(size);
    if (data == nullptr) {
      release_all();
      data = get_block(size);
    }
    RAEDIT_CHECK(data != nullptr, {.code = ErrorCode::out_of_memory,
                                   .what = fmt::format("cannot allocate {}", human_bytes(size)),
                                   .found = fmt::format("{} in use already", human_bytes(in_use))});
    reserved += size;
    return {data, size, blocks_made++};
  }

  // False where there is none.
  bool release_least_recent() {
    auto sized = free.end();
    Blocks::iterator victim;
    for (auto s = free.begin(); s != free.end(); ++s)
      for (auto b = s->second.begin(); b != s->second.end(); ++b)
        if (!slab.has(b->second.data) && (sized == free.end() || b->second.last_use < victim->second.last_use)) {
          sized = s;
          victim = b;
        }
    if (sized == free.end()) return false;
    drop_block(victim->second.data, sized->first);
    sized->second.erase(victim);
    if (sized->second.empty()) free.erase(sized);
    return true;
  }

  void release_all() noexcept {
    if (keep) return;
    size_t idle = 0;
    for (const auto& [size, blocks] : free)
      for (const auto& [number, block] : blocks) idle += slab.has(block.data) ? size : 0;
    const bool slab_goes = slab.data != nullptr && idle == slab.used;
    for (auto sized = free.begin(); sized != free.end();) {
      for (auto block = sized->second.begin(); block != sized->second.end();) {
        const bool cut = slab.has(block->second.data);
        if (!cut) drop_block(block->second.data, sized->first);
        block = !cut || slab_goes ? sized->second.erase(block) : std::next(block);
      }
      sized = sized->second.empty() ? free.erase(sized) : std::next(sized);
    }
    if (!slab_goes) return;
    drop_block(slab.data, slab.size);
    slab = {};
  }

  void reserve(size_t bytes) {
    if (memory != nullptr || addresses_only || keep || bytes == 0) return;
    release_all();
    if (slab.data != nullptr) return;
    slab = {get_block(bytes), bytes, 0};
    if (slab.data == nullptr)
      slab = {};  // smaller blocks may yet be had
    else
      reserved += bytes;
  }
};

Arena::Arena(std::shared_ptr<const DeviceMemory> memory) : pool_(std::make_shared<Pool>()) {
  pool_->memory = std::move(memory);
}
Arena::Arena(AddressesOnly) : Arena() {
  pool_->addresses_only = true;
}
Arena::~Arena() = default;

std::shared_ptr<Storage> Arena::allocate(size_t bytes) {
  RAEDIT_CHECK(bytes < SIZE_MAX / 4,
               {.code = ErrorCode::out_of_memory, .what = fmt::format("cannot allocate {}", human_bytes(bytes))});
  const Pool::Loan loan = pool_->take(block_size(bytes));
  try {
    return std::make_shared<Storage>(
        loan.data, bytes, [pool = pool_, loan](std::byte*, size_t) { pool->give_back(loan); }, false, pool_->memory);
  } catch (...) {
    pool_->give_back(loan);
    throw;
  }
}

void Arena::reserve(size_t bytes) {
  constexpr size_t kPage = 4096;
  const std::lock_guard lock(pool_->mutex);
  if (bytes < SIZE_MAX / 4) pool_->reserve((bytes + kPage - 1) / kPage * kPage);
}

size_t Arena::bytes_in_use() const {
  const std::lock_guard lock(pool_->mutex);
  return pool_->in_use;
}

size_t Arena::peak_bytes() const {
  const std::lock_guard lock(pool_->mutex);
  return pool_->peak;
}

size_t Arena::reserved_bytes() const {
  const std::lock_guard lock(pool_->mutex);
  return pool_->reserved;
}

uint64_t Arena::allocations() const {
  const std::lock_guard lock(pool_->mutex);
  return pool_->allocations;
}

void Arena::reset_peak() {
  const std::lock_guard lock(pool_->mutex);
  pool_->peak = pool_->in_use;
}

void Arena::keep_blocks() {
  const std::lock_guard lock(pool_->mutex);
  pool_->keep = true;
}

void Arena::release_unused() {
  const std::lock_guard lock(pool_->mutex);
  pool_->release_all();
}

}  // namespace raedit
