// FakeDeviceMemory: a GPU's memory for machines that have none. Blocks lie in host memory that is mapped twice: the
// addresses that tensors hold cannot be read or written at all, so code that forgets where a tensor lives ends at once;
// copies, and a stand-in for kernels, go through the other mapping. What was never written is NaN, what lies between
// blocks must not change, and everything is counted.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "core/check.h"
#include "tensor/memory.h"

namespace raedit::test {

class FakeDeviceMemory final : public DeviceMemory {
 public:
  // `capacity`: what allocate() may hand out at a time.
  explicit FakeDeviceMemory(size_t capacity = size_t{4} << 30) : capacity_(capacity) {
    const int file = ::memfd_create("fake device memory", MFD_CLOEXEC);
    const bool sized = file >= 0 && ::ftruncate(file, kSpace) == 0;
    device_ = sized ? map(file, PROT_NONE) : nullptr;
    host_ = sized ? map(file, PROT_READ | PROT_WRITE) : nullptr;
    if (file >= 0) ::close(file);
    RAEDIT_CHECK(device_ != nullptr && host_ != nullptr, {.code = ErrorCode::internal, .what = "no memory to map"});
  }

  ~FakeDeviceMemory() override {
    ::munmap(device_, kSpace);
    ::munmap(host_, kSpace);
  }

  std::byte* allocate(size_t bytes) const noexcept override {
    const std::lock_guard lock(mutex_);
    const size_t room = (bytes + kAlignment - 1) / kAlignment * kAlignment + kAlignment;  // and what lies between
    if (in_use_ + bytes > capacity_) return nullptr;
    std::vector<size_t>& same = free_[room];
    size_t at = end_;
    if (!same.empty()) {
      at = same.back();
      same.pop_back();
    } else {
      if (end_ + room > kSpace) return nullptr;
      end_ += room;
    }
    std::memset(host_ + at, kPoison, room);
    blocks_[at] = bytes;
    in_use_ += bytes;
    ++allocations_;
    return device_ + at;
  }

  void free(std::byte* data) const noexcept override {
    const std::lock_guard lock(mutex_);
    const auto block = blocks_.find(static_cast<size_t>(data - device_));
    if (block == blocks_.end()) {
      ++mistakes_;
      return;
    }
    const auto [at, bytes] = *block;
    const size_t room = (bytes + kAlignment - 1) / kAlignment * kAlignment + kAlignment;
    const auto* between = reinterpret_cast<const unsigned char*>(host_ + at);
    if (std::any_of(between + bytes, between + room, [](unsigned char c) { return c != kPoison; })) ++mistakes_;
    std::memset(host_ + at, kPoison, room);
    free_[room].push_back(at);
    in_use_ -= bytes;
    blocks_.erase(block);
  }

  void to_host(void* target, const std::byte* source, size_t bytes) const override {
    std::memcpy(target, reach(source, bytes), bytes);
    ++to_host_;
  }
  void from_host(std::byte* target, const void* source, size_t bytes) const override {
    std::memcpy(reach(target, bytes), source, bytes);
    ++from_host_;
  }
  void zero(std::byte* target, size_t bytes) const override { std::memset(reach(target, bytes), 0, bytes); }

  // Where the processor finds `bytes` of a block from `data` on. Throws Error(internal) where they are not in one.
  std::byte* reach(const std::byte* data, size_t bytes) const {
    const std::lock_guard lock(mutex_);
    const auto at = static_cast<size_t>(data - device_);
    auto block = blocks_.upper_bound(at);
    const bool inside = data >= device_ && block != blocks_.begin() && at + bytes <= (--block)->first + block->second;
    RAEDIT_CHECK(inside, {.code = ErrorCode::internal, .what = "not in a block of the fake device"});
    return host_ + at;
  }

  size_t blocks() const { return blocks_.size(); }
  size_t in_use() const { return in_use_; }
  int allocations() const { return allocations_; }
  int copies_to_host() const { return to_host_; }
  int copies_from_host() const { return from_host_; }
  // Blocks that were freed twice or written beyond their end.
  int mistakes() const { return mistakes_; }

 private:
  static constexpr size_t kSpace = size_t{8} << 30;  // of addresses; only what is touched is memory
  static constexpr size_t kAlignment = 256;
  static constexpr unsigned char kPoison = 0xff;  // NaN in every floating type but float8

  static std::byte* map(int file, int protection) {
    void* at = ::mmap(nullptr, kSpace, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
    return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
  }

  size_t capacity_;
  std::byte* device_ = nullptr;
  std::byte* host_ = nullptr;
  mutable std::mutex mutex_;
  mutable std::map<size_t, size_t> blocks_;             // place -> bytes
  mutable std::map<size_t, std::vector<size_t>> free_;  // room -> places
  mutable size_t end_ = 0, in_use_ = 0;
  mutable int allocations_ = 0, to_host_ = 0, from_host_ = 0, mistakes_ = 0;
};

}  // namespace raedit::test
