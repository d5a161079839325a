// Storage and the host memory under it. Large blocks come from mmap: they go back to the system when freed, whatever
// malloc's thresholds are, and their alignment lets the kernel back them with huge pages.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <utility>

#include "core/check.h"
#include "core/text.h"
#include "raedit/tensor.h"
#include "tensor/memory.h"

namespace raedit {

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kPage = size_t{4} << 10;
constexpr size_t kHugePage = size_t{2} << 20;

std::atomic<uint64_t> large_blocks{0};

size_t round_to_page(size_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

std::byte* map_huge(size_t bytes) noexcept {
  const size_t mapped = bytes + kHugePage;
  void* start = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return nullptr;
  auto* base = static_cast<std::byte*>(start);
  const size_t head = (kHugePage - reinterpret_cast<uintptr_t>(base) % kHugePage) % kHugePage;
  if (head != 0) ::munmap(base, head);
  if (head != kHugePage) ::munmap(base + head + bytes, kHugePage - head);
  (void)::madvise(base + head, bytes, MADV_HUGEPAGE);  // only a wish: kernels without huge pages refuse it
  return base + head;
}

}  // namespace

uint64_t large_blocks_allocated() noexcept {
  return large_blocks.load(std::memory_order_relaxed);
}

std::byte* allocate_block(size_t bytes) noexcept {
  if (bytes > SIZE_MAX / 2) return nullptr;
  if (bytes >= kPage) large_blocks.fetch_add(1, std::memory_order_relaxed);
  if (bytes >= kHugePage) return map_huge(round_to_page(bytes));
  return static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes));
}

void free_block(std::byte* data, size_t bytes) noexcept {
  if (bytes >= kHugePage)
    ::munmap(data, round_to_page(bytes));
  else
    std::free(data);
}

Storage::Storage(std::byte* data, size_t bytes, Release release, bool read_only,
                 std::shared_ptr<const DeviceMemory> memory)
    : data_(data), bytes_(bytes), release_(std::move(release)), read_only_(read_only), memory_(std::move(memory)) {
  static std::atomic<uint64_t> next_id{1};
  id_ = next_id.fetch_add(1, std::memory_order_relaxed);
}

Storage::~Storage() {
  if (release_) release_(data_, bytes_);
}

std::shared_ptr<Storage> Storage::allocate(size_t bytes) {
  const size_t rounded = bytes == 0 ? kAlignment : (bytes + kAlignment - 1) / kAlignment * kAlignment;
  std::byte* data = rounded < bytes ? nullptr : allocate_block(rounded);
  RAEDIT_CHECK(data != nullptr,
               {.code = ErrorCode::out_of_memory, .what = fmt::format("cannot allocate {}", human_bytes(bytes))});
  try {
    return std::make_shared<Storage>(data, bytes, [rounded](std::byte* block, size_t) { free_block(block, rounded); });
  } catch (...) {
    free_block(data, rounded);
    throw;
  }
}

namespace {

std::shared_ptr<Storage> allocate_on(const std::shared_ptr<const DeviceMemory>& memory, size_t bytes) {
  std::byte* data = memory->allocate(std::max<size_t>(bytes, kAlignment));
  RAEDIT_CHECK(data != nullptr, {.code = ErrorCode::out_of_memory,
                                 .what = fmt::format("cannot allocate {} on the device", human_bytes(bytes))});
  try {
    return std::make_shared<Storage>(
        data, bytes, [memory](std::byte* block, size_t) { memory->free(block); }, false, memory);
  } catch (...) {
    memory->free(data);
    throw;
  }
}

}  // namespace

Tensor copy_to(const Tensor& tensor, const std::shared_ptr<const DeviceMemory>& memory) {
  if (memory == nullptr) return tensor.on_host() ? tensor.clone() : tensor.cpu();
  const Tensor source = tensor.cpu().contiguous();
  const Tensor copy(allocate_on(memory, source.nbytes()), 0, source.shape(), source.dtype());
  if (source.nbytes() > 0) memory->from_host(copy.raw(), source.raw(), source.nbytes());
  return copy;
}

Tensor zeros_on(const std::shared_ptr<const DeviceMemory>& memory, const Shape& shape) {
  if (memory == nullptr) return Tensor::zeros(shape, DType::float32);
  const size_t bytes = static_cast<size_t>(shape.numel()) * sizeof(float);
  const Tensor tensor(allocate_on(memory, bytes), 0, shape, DType::float32);
  fill_zero(tensor);
  return tensor;
}

void fill_zero(const Tensor& tensor) {
  if (tensor.nbytes() == 0) return;
  if (tensor.on_host())
    std::fill_n(tensor.raw(), tensor.nbytes(), std::byte{0});
  else
    tensor.storage()->memory()->zero(tensor.raw(), tensor.nbytes());
}

}  // namespace raedit
