#include <cstring>

#include "expect_error.h"
#include "raedit/tensor.h"
#include "tensor/memory.h"

namespace raedit {
namespace {

uintptr_t address(const Storage& storage) {
  return reinterpret_cast<uintptr_t>(storage.data());
}

TEST(Storage, IsAlignedAndWritable) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{63}, size_t{4097}, (size_t{2} << 20) - 1, size_t{5} << 20}) {
    const auto storage = Storage::allocate(bytes);
    EXPECT_EQ(storage->bytes(), bytes);
    EXPECT_EQ(address(*storage) % 64, 0u) << bytes;
    std::memset(storage->data(), 0x5a, bytes);
    EXPECT_FALSE(storage->read_only());
  }
  EXPECT_EQ(address(*Storage::allocate((size_t{2} << 20) + 1)) % (size_t{2} << 20), 0u);
}

TEST(Storage, NeverRepeatsAnId) {
  uint64_t last = Storage::allocate(8)->id();
  for (int i = 0; i < 10; ++i) {
    const uint64_t id = Storage::allocate(8)->id();
    EXPECT_GT(id, last);
    last = id;
  }
}

TEST(Storage, ReleasesOnceWhenTheLastOwnerIsGone) {
  int released = 0;
  alignas(64) static std::byte bytes[64];
  {
    auto storage = std::make_shared<Storage>(
        bytes, sizeof(bytes),
        [&](std::byte* data, size_t size) {
          EXPECT_EQ(data, bytes);
          EXPECT_EQ(size, sizeof(bytes));
          ++released;
        },
        true);
    const Tensor tensor(std::move(storage), 8, {4}, DType::float32);
    const Tensor view = tensor.slice(0, 1, 2);
    EXPECT_TRUE(view.storage()->read_only());
    EXPECT_EQ(released, 0);
  }
  EXPECT_EQ(released, 1);
}

TEST(Storage, RefusesWhatNoMachineHas) {
  EXPECT_RAEDIT_ERROR(Storage::allocate(SIZE_MAX), ErrorCode::out_of_memory, "16.00 EiB");
  EXPECT_RAEDIT_ERROR(Storage::allocate(size_t{1} << 60), ErrorCode::out_of_memory, "1.00 EiB");
}

}  // namespace
}  // namespace raedit
