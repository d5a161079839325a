// What pack() writes, byte for byte: both layouts from every type that a checkpoint may have, odd sizes, rows with
// gaps, transposed weights, values that do not round like others.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/gemm_partition.h"

namespace raedit::backend::cpu {
namespace {

Tensor random_weight(int64_t n, int64_t k, DType dtype) {
  std::mt19937 random(static_cast<unsigned>(n * 1000 + k));
  std::normal_distribution<float> normal;
  const Tensor t = Tensor::empty({n, k}, DType::float32);
  for (int64_t i = 0; i < n * k; ++i) t.data<float>()[i] = normal(random);
  // A NaN whose payload is lost by truncation, what rounds to infinity, and a tie.
  const uint32_t special[] = {0x7f800001u, 0x7f7fffffu, 0xff800000u, 0x3f808000u, 0x3f818000u, 0x80000001u};
  for (size_t i = 0; i < std::size(special); ++i)
    std::memcpy(t.data<float>() + random() % static_cast<unsigned>(n * k), &special[i], 4);
  return t.to(dtype);
}

// panel[k / group][16][group], panels of zeros up to a multiple of four.
template <class To>
std::vector<To> expected(const Tensor& weight) {
  constexpr int64_t kGroup = sizeof(To) == 2 ? 2 : 1;
  const int64_t n = weight.dim(0), k = weight.dim(1), deep = round_up(k, kGroup);
  std::vector<To> panels(static_cast<size_t>(round_up(n, kTileColumns) * deep), To(0.0f));
  const Tensor values = weight.to(DType::float32).contiguous();
  for (int64_t row = 0; row < n; ++row)
    for (int64_t i = 0; i < k; ++i)
      panels[static_cast<size_t>(row / kPanel * kPanel * deep + i / kGroup * kGroup * kPanel + row % kPanel * kGroup +
                                 i % kGroup)] = To(values.data<float>()[row * k + i]);
  return panels;
}

template <class To>
void expect_packed(const Kernels& kernels, const Tensor& weight, DType compute) {
  const auto packed = kernels.pack(weight, compute);
  const std::vector<To> panels = expected<To>(weight);
  ASSERT_EQ(packed->nbytes(), panels.size() * sizeof(To));
  const auto* bytes = static_cast<const CpuPackedMatrix&>(*packed).storage->data();
  EXPECT_EQ(std::memcmp(bytes, panels.data(), packed->nbytes()), 0);
}

class Packing : public testing::TestWithParam<DType> {};

TEST_P(Packing, IsTheLayoutByteForByte) {
  for (const int threads : {1, 3}) {
    const auto kernels = make_cpu_kernels(threads);
    for (const int64_t n : {1, 15, 16, 17, 63, 65, 130})
      for (const int64_t k : {1, 2, 3, 31, 63, 64, 65, 127, 128, 129, 131, 257}) {
        SCOPED_TRACE(testing::Message() << n << " x " << k << ", " << threads << " threads");
        const Tensor plain = random_weight(n, k, GetParam());
        const Tensor gaps = random_weight(n, k + 5, GetParam()).slice(1, 2, k + 2);
        const Tensor turned = random_weight(k, n, GetParam()).transpose(0, 1);
        for (const Tensor& weight : {plain, gaps, turned}) {
          expect_packed<float>(*kernels, weight, DType::float32);
          expect_packed<bfloat16>(*kernels, weight, DType::bfloat16);
        }
      }
  }
}

// Every row of every group is somebody's, once, in pieces of bounded size; and what a thread is told of its next group.
TEST(Partition, CoversEverythingOnce) {
  constexpr int64_t kRows = 32, kMost = 256;
  for (const int64_t m : {1, 31, 32, 33, 256, 257, 1000})
    for (const int64_t groups : {1, 3, 40})
      for (const int64_t bytes : {1 << 10, 1 << 24})
        for (const int threads : {1, 2, 7}) {
          const Partition parts(m, groups, kRows, kMost, bytes, threads);
          std::vector<int> taken(static_cast<size_t>(m * groups));
          for (int64_t i = 0; i < parts.items(); ++i) {
            const Partition::Item item = parts[i];
            ASSERT_TRUE(item.rows > 0 && item.rows <= kMost && item.row % kRows == 0);
            for (int64_t r = item.row; r < item.row + item.rows; ++r)
              ++taken.at(static_cast<size_t>(item.group * m + r));
            const int64_t next = parts.next_group(i, threads);
            if (i + threads >= parts.items())
              ASSERT_EQ(next, -1);
            else
              ASSERT_EQ(next, parts[i + threads].group == item.group ? -1 : parts[i + threads].group);
          }
          ASSERT_EQ(std::count(taken.begin(), taken.end(), 1), m * groups);
        }
}

INSTANTIATE_TEST_SUITE_P(All, Packing,
                         testing::Values(DType::float32, DType::bfloat16, DType::float16, DType::float64,
                                         DType::float8_e4m3fn),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace raedit::backend::cpu
