// Tensors and arenas in the memory of a device, which the processor cannot read: proven without a device.
#include <cmath>
#include <numeric>

#include "expect_error.h"
#include "fake_device_memory.h"
#include "raedit/generator.h"
#include "tensor/arena.h"
#include "tensor/memory.h"

namespace raedit {
namespace {

using Values = std::vector<float>;

class DeviceMemoryTest : public ::testing::Test {
 protected:
  void TearDown() override {
    EXPECT_EQ(memory_->mistakes(), 0);
    EXPECT_EQ(memory_->blocks(), 0u) << "not given back";
  }

  Tensor random(const Shape& shape) { return generator_.randn(shape); }
  Tensor on_device(const Tensor& tensor) const { return copy_to(tensor, memory_); }

  std::shared_ptr<test::FakeDeviceMemory> memory_ = std::make_shared<test::FakeDeviceMemory>();
  Generator generator_{7};
};

Values values_of(const Tensor& tensor) {
  return tensor.to_vector<float>();
}

TEST_F(DeviceMemoryTest, TheProcessorCannotReadIt) {
  const Tensor there = on_device(random({4}));
  EXPECT_FALSE(there.on_host());
  EXPECT_DEATH((void)*static_cast<volatile float*>(there.data<float>()), "");
}

TEST_F(DeviceMemoryTest, EveryViewComesToTheHostAsItIs) {
  const Tensor here = random({3, 4, 5});
  const Tensor there = on_device(here);
  EXPECT_EQ(there.dtype(), DType::float32);
  EXPECT_EQ(there.shape(), here.shape());
  const auto expect_same = [](const Tensor& device, const Tensor& host) {
    EXPECT_FALSE(device.on_host());
    const Tensor back = device.cpu();
    EXPECT_TRUE(back.on_host());
    EXPECT_EQ(back.shape(), host.shape());
    EXPECT_EQ(values_of(back), values_of(host));
    EXPECT_EQ(values_of(device), values_of(host));
    EXPECT_TRUE(device.clone().on_host());
    EXPECT_EQ(values_of(device.clone()), values_of(host));
    EXPECT_EQ(device.to(DType::bfloat16).to_vector<float>(), host.to(DType::bfloat16).to_vector<float>());
  };
  expect_same(there, here);
  expect_same(there.slice(1, 1, 3), here.slice(1, 1, 3));
  expect_same(there.select(0, 2), here.select(0, 2));
  expect_same(there.transpose(0, 2), here.transpose(0, 2));
  expect_same(there.transpose(0, 2).slice(0, 1, 4).slice(2, 1, 2), here.transpose(0, 2).slice(0, 1, 4).slice(2, 1, 2));
  expect_same(there.select(1, 3).expand({2, 3, 5}), here.select(1, 3).expand({2, 3, 5}));
  expect_same(there.reshape({12, 5}), here.reshape({12, 5}));
  EXPECT_EQ(there.select(0, 1).select(0, 1).select(0, 1).item(), here.select(0, 1).select(0, 1).select(0, 1).item());
  EXPECT_EQ(here.cpu().storage(), here.storage()) << "a host tensor stays where it is";
}

TEST_F(DeviceMemoryTest, OnlyTheBytesOfAViewTravel) {
  const Tensor there = on_device(random({1000, 8}));
  const int before = memory_->copies_to_host();
  EXPECT_EQ(there.slice(0, 10, 12).cpu().storage()->bytes(), 2u * 8 * sizeof(float));
  EXPECT_EQ(memory_->copies_to_host(), before + 1);
}

TEST_F(DeviceMemoryTest, CopiesBetweenMemoriesDtypesAndStrides) {
  for (const bool from_device : {false, true}) {
    for (const bool to_device : {false, true}) {
      for (const DType dtype : {DType::float32, DType::bfloat16}) {
        SCOPED_TRACE(::testing::Message() << from_device << to_device << name_of(dtype));
        const Tensor values = random({3, 6});
        const Tensor before = random({4, 9}).to(dtype);
        const Tensor source = (from_device ? on_device(values) : values).transpose(0, 1);
        const Tensor whole = to_device ? on_device(before) : before.clone();
        const Tensor expected = before.clone();
        expected.slice(0, 1, 4).slice(1, 2, 8).transpose(0, 1).copy_from(values.transpose(0, 1));
        whole.slice(0, 1, 4).slice(1, 2, 8).transpose(0, 1).copy_from(source);
        EXPECT_EQ(whole.on_host(), !to_device);
        EXPECT_EQ(values_of(whole), values_of(expected)) << "the neighbours, too";
        const Tensor plain = to_device ? on_device(Tensor::zeros({6, 3}, dtype)) : Tensor::zeros({6, 3}, dtype);
        plain.copy_from(source);
        EXPECT_EQ(values_of(plain), values_of(values.transpose(0, 1).to(dtype)));
      }
    }
  }
}

TEST_F(DeviceMemoryTest, CopiesRefuseWhatTheyRefuseOnTheHost) {
  const Tensor there = on_device(random({2, 3}));
  EXPECT_RAEDIT_ERROR(there.copy_from(random({3, 2})), ErrorCode::invalid_argument, "[3, 2]", "[2, 3]");
  EXPECT_RAEDIT_ERROR(there.data<int64_t>(), ErrorCode::internal, "float32", "int64");
  EXPECT_RAEDIT_ERROR(there.reshape({7}), ErrorCode::invalid_argument, "[7]");
}

TEST_F(DeviceMemoryTest, CopyToTakesTensorsToAnyMemory) {
  std::vector<float> file = values_of(random({12}));
  const auto mapped =
      std::make_shared<Storage>(reinterpret_cast<std::byte*>(file.data()), file.size() * sizeof(float), nullptr, true);
  const Tensor read_only(mapped, 0, {3, 4}, DType::float32);
  const Tensor there = on_device(read_only.transpose(0, 1));
  EXPECT_TRUE(there.is_contiguous());
  EXPECT_FALSE(there.storage()->read_only());
  EXPECT_EQ(there.storage()->bytes(), there.nbytes());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(there.raw()) % 256, 0u);
  const Tensor back = copy_to(there, nullptr);
  EXPECT_TRUE(back.on_host());
  EXPECT_EQ(values_of(back), values_of(read_only.transpose(0, 1)));

  const Tensor moved = on_device(there.slice(0, 1, 3));  // from the device to the device
  EXPECT_NE(moved.storage(), there.storage());
  EXPECT_EQ(values_of(moved), values_of(read_only.transpose(0, 1).slice(0, 1, 3)));
  const Tensor copy = copy_to(read_only, nullptr);
  EXPECT_NE(copy.storage(), read_only.storage());
  EXPECT_EQ(values_of(copy), file);
}

TEST_F(DeviceMemoryTest, ATensorOfNothingMovesNothing) {
  const Tensor there = on_device(Tensor::empty({0, 3}, DType::float32));
  EXPECT_FALSE(there.on_host());
  EXPECT_EQ(there.cpu().shape(), Shape({0, 3}));
  EXPECT_TRUE(there.cpu().on_host());
  there.copy_from(Tensor::empty({0, 3}, DType::bfloat16));
  fill_zero(there);
  EXPECT_TRUE(values_of(there).empty());
  EXPECT_EQ(memory_->copies_to_host() + memory_->copies_from_host(), 0);
}

TEST_F(DeviceMemoryTest, ZerosAreZeros) {
  const Tensor there = zeros_on(memory_, {3, 5});
  EXPECT_FALSE(there.on_host());
  EXPECT_EQ(values_of(there), Values(15, 0.0f));
  there.copy_from(random({3, 5}));
  EXPECT_NE(values_of(there), Values(15, 0.0f));
  fill_zero(there.slice(0, 1, 2));
  EXPECT_EQ(values_of(there.select(0, 1)), Values(5, 0.0f));
  EXPECT_NE(values_of(there.select(0, 0)), Values(5, 0.0f));
  EXPECT_NE(values_of(there.select(0, 2)), Values(5, 0.0f));
  const Tensor here = zeros_on(nullptr, {2});
  EXPECT_TRUE(here.on_host());
  EXPECT_EQ(values_of(here), Values(2, 0.0f));
}

TEST_F(DeviceMemoryTest, AnArenaLendsBlocksOfTheDeviceAgain) {
  Arena arena(memory_);
  Tensor first(arena.allocate(1000 * sizeof(float)), 0, {1000}, DType::float32);
  EXPECT_FALSE(first.on_host());
  EXPECT_TRUE(std::isnan(values_of(first)[999])) << "nothing was written there";
  const std::byte* at = first.raw();
  const uint64_t id = first.storage()->id();
  first.copy_from(random({1000}));
  first = Tensor();
  EXPECT_EQ(memory_->blocks(), 1u) << "the arena keeps it";
  const auto second = arena.allocate(1000 * sizeof(float));
  EXPECT_EQ(second->data(), at);
  EXPECT_NE(second->id(), id);
  EXPECT_EQ(second->memory(), memory_);
  EXPECT_EQ(memory_->allocations(), 1);
  EXPECT_EQ(arena.bytes_in_use(), memory_->in_use());
}

TEST_F(DeviceMemoryTest, TensorsOutliveTheArenaAndTheHandleOfTheMemory) {
  auto memory = std::make_shared<test::FakeDeviceMemory>();
  auto arena = std::make_unique<Arena>(memory);
  const Tensor there(arena->allocate(8), 0, {2}, DType::float32);
  const std::weak_ptr<test::FakeDeviceMemory> watched = memory;
  arena.reset();
  memory.reset();
  ASSERT_FALSE(watched.expired());
  there.copy_from(Tensor::from(Values{1, 2}, {2}));
  EXPECT_EQ(values_of(there), (Values{1, 2}));
}

TEST_F(DeviceMemoryTest, AFullDeviceGetsItsFreeBlocksBackBeforeItIsFull) {
  constexpr size_t kMiB = size_t{1} << 20;
  const auto small = std::make_shared<test::FakeDeviceMemory>(4 * kMiB);
  Arena arena(small);
  { const auto unused = arena.allocate(3 * kMiB); }
  EXPECT_EQ(small->blocks(), 1u);
  const auto kept = arena.allocate(2 * kMiB);  // fits only without the other
  EXPECT_EQ(small->blocks(), 1u);
  EXPECT_RAEDIT_ERROR(arena.allocate(3 * kMiB), ErrorCode::out_of_memory, "3.00 MiB", "2.00 MiB in use already");
  EXPECT_EQ(arena.bytes_in_use(), 2 * kMiB);
  EXPECT_RAEDIT_ERROR(copy_to(Tensor::zeros({1 << 20}, DType::float32), small), ErrorCode::out_of_memory, "4.00 MiB",
                      "on the device");
  EXPECT_RAEDIT_ERROR(zeros_on(small, {1 << 20}), ErrorCode::out_of_memory, "4.00 MiB");
  EXPECT_EQ(small->blocks(), 1u);
}

TEST_F(DeviceMemoryTest, KeptBlocksStayUntilTheArenaGoes) {
  constexpr size_t kMiB = size_t{1} << 20;
  {
    Arena arena(memory_);
    const auto address_of_one = [&](size_t bytes) { return arena.allocate(bytes)->data(); };
    std::vector<std::byte*> addresses;
    for (size_t i = 1; i <= 4; ++i) addresses.push_back(address_of_one(i * kMiB));
    // The peak is 4 MiB, so at most twice that is held: some of the four are gone.
    EXPECT_LT(arena.reserved_bytes(), 10 * kMiB);
    arena.release_unused();
    EXPECT_EQ(memory_->blocks(), 0u);

    arena.keep_blocks();
    addresses.clear();
    for (size_t i = 1; i <= 4; ++i) addresses.push_back(address_of_one(i * kMiB));
    EXPECT_EQ(arena.reserved_bytes(), 10 * kMiB);
    arena.release_unused();
    EXPECT_EQ(memory_->blocks(), 4u) << "a graph knows their addresses";
    for (size_t i = 1; i <= 4; ++i) EXPECT_EQ(address_of_one(i * kMiB), addresses[i - 1]);
  }
  EXPECT_EQ(memory_->blocks(), 0u);
}

TEST_F(DeviceMemoryTest, KeptBlocksAreNotGivenUpForRoomEither) {
  constexpr size_t kMiB = size_t{1} << 20;
  const auto small = std::make_shared<test::FakeDeviceMemory>(4 * kMiB);
  Arena arena(small);
  arena.keep_blocks();
  const std::byte* at = arena.allocate(3 * kMiB)->data();
  EXPECT_RAEDIT_ERROR(arena.allocate(2 * kMiB), ErrorCode::out_of_memory, "2.00 MiB");
  EXPECT_EQ(arena.allocate(3 * kMiB)->data(), at);
}

}  // namespace
}  // namespace raedit
