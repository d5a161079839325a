#include "raedit/tensor.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/float8.h"
#include "expect_error.h"

namespace raedit {
namespace {

using Values = std::vector<float>;

Tensor counting(const Shape& shape) {
  Values values(static_cast<size_t>(shape.numel()));
  std::iota(values.begin(), values.end(), 0.0f);
  return Tensor::from(values, shape);
}

Values values_of(const Tensor& tensor) {
  return tensor.to_vector<float>();
}

TEST(Tensor, IsUndefinedUntilAssigned) {
  const Tensor tensor;
  EXPECT_FALSE(tensor.defined());
  EXPECT_RAEDIT_ERROR(tensor.data<float>(), ErrorCode::internal, "empty");
  EXPECT_RAEDIT_ERROR(tensor.slice(0, 0, 1), ErrorCode::internal, "empty");
  EXPECT_RAEDIT_ERROR(tensor.clone(), ErrorCode::internal, "empty");
  EXPECT_RAEDIT_ERROR(tensor.to(DType::float64), ErrorCode::internal, "empty");
  EXPECT_RAEDIT_ERROR(tensor.item(), ErrorCode::invalid_argument, "item");
  EXPECT_RAEDIT_ERROR(Tensor(nullptr, 0, {}, DType::float32), ErrorCode::internal, "empty");
}

TEST(Tensor, MakesValues) {
  EXPECT_EQ(values_of(Tensor::zeros({2, 2}, DType::float32)), Values(4, 0.0f));
  EXPECT_EQ(values_of(Tensor::full({3}, -1.5f)), Values(3, -1.5f));
  EXPECT_EQ(Tensor::full({2}, 3.7f, DType::int32).to_vector<int32_t>(), (std::vector<int32_t>{3, 3}));
  EXPECT_EQ(Tensor::full({2}, 1.0f, DType::bfloat16).data<bfloat16>()[1].bits, 0x3f80);
  EXPECT_EQ(Tensor::full({2}, 0.5f, DType::bool8).to_vector<bool>(), (std::vector<bool>{true, true}));
  EXPECT_EQ(Tensor::full({}, 4.0f).item(), 4.0);
  EXPECT_EQ(Tensor::empty({0, 7}, DType::float32).numel(), 0);
  EXPECT_EQ(Tensor::empty({2, 3}, DType::float64).nbytes(), 48u);
  EXPECT_RAEDIT_ERROR(Tensor::from(Values{1, 2, 3}, {2, 2}), ErrorCode::invalid_argument, "3", "4 for [2, 2]");
  EXPECT_RAEDIT_ERROR(Tensor::empty({2, -1}, DType::float32), ErrorCode::invalid_argument, "-1");
  EXPECT_RAEDIT_ERROR(Tensor::empty({int64_t{1} << 61}, DType::float64), ErrorCode::invalid_argument, "too large");
}

TEST(Tensor, ChecksWhatItLooksAt) {
  const auto storage = Storage::allocate(32);
  EXPECT_EQ(Tensor(storage, 8, {2, 3}, DType::float32).numel(), 6);
  EXPECT_RAEDIT_ERROR(Tensor(storage, 12, {2, 3}, DType::float32), ErrorCode::internal, "24 bytes at offset 12 of 32");
  EXPECT_RAEDIT_ERROR(Tensor(storage, 33, {0}, DType::float32), ErrorCode::internal, "offset 33");
  EXPECT_RAEDIT_ERROR(Tensor(storage, 2, {2}, DType::float32), ErrorCode::internal, "misaligned");
  EXPECT_RAEDIT_ERROR(Tensor(storage, 0, {2}, DType::float32).data<int32_t>(), ErrorCode::internal, "float32", "int32");
}

TEST(Tensor, ReshapesWithOneInferredDimension) {
  const Tensor tensor = counting({2, 3, 4});
  EXPECT_EQ(tensor.reshape({6, -1}).shape(), (Shape{6, 4}));
  EXPECT_EQ(tensor.reshape({-1}).shape(), Shape{24});
  EXPECT_EQ(tensor.reshape({4, 3, 2}).select(0, 3).to_vector<float>(), (Values{18, 19, 20, 21, 22, 23}));
  EXPECT_EQ(tensor.reshape({24}).storage(), tensor.storage());
  EXPECT_RAEDIT_ERROR(tensor.reshape({5, -1}), ErrorCode::invalid_argument, "[2, 3, 4] to [5, -1]");
  EXPECT_RAEDIT_ERROR(tensor.reshape({-1, -1}), ErrorCode::invalid_argument, "[-1, -1]");
  EXPECT_RAEDIT_ERROR(tensor.reshape({23}), ErrorCode::invalid_argument, "[23]");
  EXPECT_RAEDIT_ERROR(tensor.reshape({0, -1}), ErrorCode::invalid_argument, "[0, -1]");
  const int64_t big = int64_t{1} << 33;
  EXPECT_RAEDIT_ERROR(tensor.reshape({big, big, -1}), ErrorCode::invalid_argument, "cannot reshape");
  EXPECT_RAEDIT_ERROR(tensor.transpose(0, 1).reshape({24}), ErrorCode::invalid_argument, "contiguous()");
  EXPECT_EQ(Tensor::empty({0, 3}, DType::float32).reshape({3, -1}).shape(), (Shape{3, 0}));
}

TEST(Tensor, SlicesAndSelects) {
  const Tensor tensor = counting({3, 4});
  EXPECT_EQ(values_of(tensor.slice(0, 1, 3)), (Values{4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_TRUE(tensor.slice(0, 1, 3).is_contiguous());
  const Tensor columns = tensor.slice(-1, 1, 3);
  EXPECT_EQ(values_of(columns), (Values{1, 2, 5, 6, 9, 10}));
  EXPECT_FALSE(columns.is_contiguous());
  EXPECT_EQ(columns.stride(0), 4);
  EXPECT_EQ(values_of(columns.slice(0, 2, 3).slice(1, 1, 2)), (Values{10}));
  EXPECT_EQ(tensor.slice(1, 4, 4).shape(), (Shape{3, 0}));
  EXPECT_EQ(values_of(tensor.select(0, 2)), (Values{8, 9, 10, 11}));
  const Tensor column = tensor.select(1, 3);
  EXPECT_EQ(column.shape(), Shape{3});
  EXPECT_EQ(column.stride(0), 4);
  EXPECT_EQ(values_of(column), (Values{3, 7, 11}));
  EXPECT_EQ(column.select(0, 1).item(), 7.0);
  EXPECT_RAEDIT_ERROR(tensor.slice(0, 2, 4), ErrorCode::invalid_argument, "[2, 4)", "[3, 4]");
  EXPECT_RAEDIT_ERROR(tensor.slice(0, 2, 1), ErrorCode::invalid_argument, "[2, 1)");
  EXPECT_RAEDIT_ERROR(tensor.slice(0, -1, 1), ErrorCode::invalid_argument, "[-1, 1)");
  EXPECT_RAEDIT_ERROR(tensor.slice(2, 0, 1), ErrorCode::invalid_argument, "no dimension 2");
  EXPECT_RAEDIT_ERROR(tensor.select(1, 4), ErrorCode::invalid_argument, "index 4");
}

TEST(Tensor, WritesThroughViews) {
  const Tensor tensor = counting({3, 4});
  tensor.slice(1, 1, 3).copy_from(Tensor::full({3, 2}, -1.0f));
  EXPECT_EQ(values_of(tensor), (Values{0, -1, -1, 3, 4, -1, -1, 7, 8, -1, -1, 11}));
  tensor.transpose(0, 1).copy_from(counting({4, 3}));
  EXPECT_EQ(values_of(tensor), (Values{0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11}));
  EXPECT_RAEDIT_ERROR(tensor.copy_from(counting({4, 3})), ErrorCode::invalid_argument, "[4, 3]", "[3, 4]");
  alignas(64) static std::byte bytes[16];
  const Tensor mapped(std::make_shared<Storage>(bytes, 16, nullptr, true), 0, {4}, DType::float32);
  EXPECT_RAEDIT_ERROR(mapped.copy_from(counting({4})), ErrorCode::internal, "read-only");
}

TEST(Tensor, TransposesAndCopiesAnyStrides) {
  const Tensor tensor = counting({2, 3, 4, 5});
  const Tensor view = tensor.transpose(1, 3).transpose(0, 2).slice(1, 1, 4);  // [4, 3, 2, 3]
  ASSERT_EQ(view.shape(), (Shape{4, 3, 2, 3}));
  const Tensor copy = view.contiguous();
  EXPECT_TRUE(copy.is_contiguous());
  EXPECT_NE(copy.storage(), tensor.storage());
  const auto* data = copy.data<float>();
  for (int h = 0; h < 4; ++h)
    for (int w = 0; w < 3; ++w)
      for (int b = 0; b < 2; ++b)
        for (int c = 0; c < 3; ++c)
          ASSERT_EQ(*data++, static_cast<float>(((b * 3 + c) * 4 + h) * 5 + w + 1)) << h << w << b << c;
  EXPECT_EQ(values_of(view), values_of(copy));
  EXPECT_EQ(tensor.contiguous().storage(), tensor.storage());
  EXPECT_NE(tensor.clone().storage(), tensor.storage());
  EXPECT_RAEDIT_ERROR(tensor.transpose(0, 4), ErrorCode::invalid_argument, "no dimension 4");
}

TEST(Tensor, OnesDoNotBreakContiguity) {
  const Tensor tensor = counting({1, 4});
  EXPECT_TRUE(tensor.transpose(0, 1).is_contiguous());
  EXPECT_EQ(tensor.transpose(0, 1).reshape({2, 2}).shape(), (Shape{2, 2}));
  EXPECT_TRUE(counting({4, 4}).slice(1, 2, 2).is_contiguous());  // nothing in it
}

TEST(Tensor, ExpandsOnes) {
  const Tensor row = counting({1, 3});
  const Tensor rows = row.expand({2, 2, 3});
  EXPECT_EQ(rows.stride(0), 0);
  EXPECT_EQ(rows.stride(1), 0);
  EXPECT_EQ(values_of(rows), (Values{0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2}));
  EXPECT_FALSE(rows.is_contiguous());
  EXPECT_EQ(values_of(Tensor::full({}, 2.0f).expand({2, 2})), Values(4, 2.0f));
  EXPECT_EQ(row.expand({0, 3}).numel(), 0);
  EXPECT_RAEDIT_ERROR(row.expand({1, 4}), ErrorCode::invalid_argument, "[1, 3] to [1, 4]");
  EXPECT_RAEDIT_ERROR(row.expand({3}), ErrorCode::invalid_argument, "[1, 3] to [3]");
  EXPECT_RAEDIT_ERROR(row.expand({-1, 3}), ErrorCode::invalid_argument, "[-1, 3]");
  const int64_t big = int64_t{1} << 31;
  EXPECT_RAEDIT_ERROR(row.expand({big, big, 3}), ErrorCode::invalid_argument, "64 bits");
}

TEST(Tensor, TakesTheSameViewOfAnotherStorage) {
  const Tensor weights = counting({4, 6});
  const Tensor view = weights.slice(0, 1, 3).transpose(0, 1);
  const Tensor gradients = Tensor::full({4, 6}, 1.0f, DType::float64);
  const Tensor same = view.same_view_of(gradients.storage(), DType::float64);
  EXPECT_EQ(same.shape(), view.shape());
  EXPECT_EQ(same.stride(0), 1);
  EXPECT_EQ(same.offset_bytes(), 6 * sizeof(double));
  same.copy_from(view);
  EXPECT_EQ(values_of(gradients),
            (Values{1, 1, 1, 1, 1, 1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 1, 1, 1, 1, 1, 1}));
  EXPECT_RAEDIT_ERROR(view.same_view_of(Storage::allocate(17 * 4), DType::float32), ErrorCode::internal, "18 elements");
  EXPECT_EQ(view.same_view_of(Storage::allocate(18 * 2), DType::bfloat16).dtype(), DType::bfloat16);
}

TEST(Tensor, ConvertsBetweenTypes) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor floats = Tensor::from(Values{-2.7f, 0.0f, 0.3f, 300.0f, 3e9f, inf, -inf, nan}, {8});
  EXPECT_EQ(floats.to(DType::float32).storage(), floats.storage());
  EXPECT_EQ(floats.to_vector<int32_t>(), (std::vector<int32_t>{-2, 0, 0, 300, INT32_MAX, INT32_MAX, INT32_MIN, 0}));
  EXPECT_EQ(floats.to_vector<uint8_t>(), (std::vector<uint8_t>{0, 0, 0, 255, 255, 255, 0, 0}));
  EXPECT_EQ(floats.to_vector<int64_t>(), (std::vector<int64_t>{-2, 0, 0, 300, 3'000'000'000, INT64_MAX, INT64_MIN, 0}));
  EXPECT_EQ(floats.to_vector<bool>(), (std::vector<bool>{true, false, true, true, true, true, true, true}));
  const std::vector<double> doubles = floats.to(DType::bfloat16).to_vector<double>();
  EXPECT_EQ(doubles[0], -2.703125);
  EXPECT_EQ(doubles[5], inf);
  EXPECT_TRUE(std::isnan(doubles[7]));
}

TEST(Tensor, TakesAnyByteButZeroForTrue) {
  const Tensor bools = Tensor::empty({4}, DType::bool8);
  const uint8_t bytes[] = {0, 1, 2, 255};
  std::memcpy(bools.raw(), bytes, sizeof(bytes));
  EXPECT_EQ(bools.to_vector<int64_t>(), (std::vector<int64_t>{0, 1, 1, 1}));
  EXPECT_EQ(bools.to_vector<uint8_t>(), (std::vector<uint8_t>{0, 1, 1, 1}));
  EXPECT_EQ(bools.to_vector<float>(), (Values{0, 1, 1, 1}));
  EXPECT_EQ(bools.to_vector<bool>(), (std::vector<bool>{false, true, true, true}));
}

TEST(Tensor, KeepsLargeIntegersExact) {
  const std::vector<int64_t> large{INT64_MAX, INT64_MIN, (int64_t{1} << 53) + 1};
  const Tensor tensor = Tensor::from(large, {3});
  EXPECT_EQ(tensor.to_vector<int64_t>(), large);
  EXPECT_EQ(tensor.to(DType::uint64).to_vector<int64_t>(), large);
  EXPECT_EQ(tensor.transpose(0, 0).clone().to_vector<int64_t>(), large);
}

// A strided view of every type must convert like a contiguous one.
TEST(Tensor, ConvertsEveryTypeFromAStridedView) {
  const Values small{0, 1, 1, 0, 1, 0};
  for (int i = 0; i < 15; ++i) {
    const auto dtype = static_cast<DType>(i);
    const Tensor tensor = Tensor::from(small, {2, 3}).to(dtype);
    EXPECT_EQ(tensor.nbytes(), 6 * size_of(dtype));
    EXPECT_EQ(values_of(tensor), small) << name_of(dtype);
    EXPECT_EQ(values_of(tensor.transpose(0, 1)), (Values{0, 0, 1, 1, 1, 0})) << name_of(dtype);
    EXPECT_EQ(values_of(tensor.transpose(0, 1).contiguous()), (Values{0, 0, 1, 1, 1, 0})) << name_of(dtype);
    EXPECT_EQ(tensor.select(0, 1).select(0, 1).item(), 1.0) << name_of(dtype);
  }
}

TEST(Tensor, StridedViewsOfAStorage) {
  const Tensor six = counting({6});
  const auto view = [&](size_t offset, const Shape& shape, const std::vector<int64_t>& strides) {
    return Tensor::strided(six.storage(), offset, shape, strides, DType::float32);
  };
  EXPECT_EQ(values_of(view(4, {2, 2}, {3, 1})), (Values{1, 2, 4, 5}));
  EXPECT_EQ(values_of(view(0, {3, 2}, {1, 3})), (Values{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(values_of(view(20, {3}, {0})), (Values{5, 5, 5}));
  EXPECT_EQ(values_of(view(24, {0, 7}, {7, 1})), Values{});
  EXPECT_EQ(view(8, {}, {}).item(), 2.0);
  EXPECT_TRUE(view(0, {2, 1, 3}, {3, 99, 1}).is_contiguous());
  EXPECT_EQ(view(0, {2, 1, 3}, {3, 0, 1}).stride(1), 3);
  EXPECT_FALSE(view(0, {3, 2}, {1, 3}).is_contiguous());

  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  EXPECT_RAEDIT_ERROR(view(4, {2, 2}, {4, 1}), ErrorCode::internal, "[2, 2]", "[4, 1]", "does not fit");
  EXPECT_RAEDIT_ERROR(view(24, {1}, {1}), ErrorCode::internal, "does not fit");
  EXPECT_RAEDIT_ERROR(view(28, {0}, {1}), ErrorCode::internal, "does not fit");
  EXPECT_RAEDIT_ERROR(view(0, {2}, {-1}), ErrorCode::internal, "does not fit");
  EXPECT_RAEDIT_ERROR(view(0, {2}, {1, 1}), ErrorCode::internal, "does not fit");
  EXPECT_RAEDIT_ERROR(view(0, {3}, {kMost}), ErrorCode::internal, "does not fit");
  EXPECT_RAEDIT_ERROR(view(0, {2, 2}, {kMost, kMost}), ErrorCode::internal, "does not fit");
  EXPECT_RAEDIT_ERROR(view(2, {2}, {1}), ErrorCode::internal, "misaligned");
  EXPECT_RAEDIT_ERROR(Tensor::strided(nullptr, 0, {1}, std::vector<int64_t>{1}, DType::float32), ErrorCode::internal,
                      "empty");
}

TEST(Tensor, ItemNeedsOneElement) {
  EXPECT_EQ(Tensor::from(Values{2.5f}, {1, 1}).item(), 2.5);
  EXPECT_RAEDIT_ERROR(counting({2}).item(), ErrorCode::invalid_argument, "[2]");
}

}  // namespace
}  // namespace raedit
