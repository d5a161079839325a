// The 8-bit tiles of all instruction sets give the same sums, those of plain int64 arithmetic; a row in 8 bits is what
// its definition says, value by value.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/gemm_int8.h"
#include "backend/cpu/isa.h"

namespace raedit::backend::cpu {
namespace {

struct Operands {
  int64_t depth;
  std::vector<int8_t> a, shifted, panels;
  std::vector<int32_t> corrections;

  // extreme: 127 and -127 alone, all alike where `seed` is 0.
  Operands(int64_t k, bool extreme, uint32_t seed) : depth(k), corrections(kTileColumns) {
    std::mt19937 engine(seed);
    const auto draw = [&] {
      const auto value = static_cast<int>(engine() % 255) - 127;
      return static_cast<int8_t>(!extreme ? value : value < 0 && seed != 0 ? -127 : 127);
    };
    for (int64_t i = 0; i < kTileRows * depth; ++i) a.push_back(draw());
    for (const int8_t v : a) shifted.push_back(static_cast<int8_t>(static_cast<uint8_t>(v) ^ 0x80));
    for (int64_t i = 0; i < kTileColumns * depth; ++i) panels.push_back(draw());
    for (int64_t c = 0; c < kTileColumns; ++c)
      for (int64_t k4 = 0; k4 < depth; ++k4) corrections[static_cast<size_t>(c)] -= 128 * weight(c, k4);
  }
  int32_t weight(int64_t column, int64_t k) const {
    const int64_t panel = column / kPanel, c = column % kPanel;
    return panels[static_cast<size_t>(panel * kPanel * depth + k / 4 * 4 * kPanel + 4 * c + k % 4)];
  }
  int64_t sum(int64_t row, int64_t column) const {
    int64_t total = 0;
    for (int64_t k = 0; k < depth; ++k) total += int64_t{a[static_cast<size_t>(row * depth + k)]} * weight(column, k);
    return total;
  }
};

void expect_sums(const Operands& o, void (*multiply)(const Int8Tile&), bool shifted, const char* name) {
  for (int64_t rows = 1; rows <= kTileRows; ++rows) {
    for (int64_t count = 1; count <= kTileColumns / kPanel; ++count) {
      std::vector<int32_t> c(kTileRows * kTileColumns, -1);
      multiply({rows, count, shifted ? o.shifted.data() : o.a.data(), o.depth, o.panels.data(), kPanel * o.depth,
                o.depth, o.corrections.data(), c.data()});
      for (int64_t r = 0; r < kTileRows; ++r)
        for (int64_t column = 0; column < kTileColumns; ++column)
          ASSERT_EQ(c[static_cast<size_t>(r * kTileColumns + column)],
                    r < rows && column < count * kPanel ? o.sum(r, column) : -1)
              << name << ", " << rows << " rows, " << count << " panels, row " << r << ", column " << column;
    }
  }
}

class Int8Tiles : public testing::Test {
 protected:
  static void check(void (*multiply)(const Int8Tile&), bool shifted, const char* name) {
    for (const int64_t depth : {64, 192}) {
      expect_sums(Operands(depth, false, 1), multiply, shifted, name);
      expect_sums(Operands(depth, true, 2), multiply, shifted, name);
    }
    // The largest sums there are.
    const Operands most(kMostInt8Depth, true, 0);
    std::vector<int32_t> c(kTileRows * kTileColumns);
    multiply({1, 1, shifted ? most.shifted.data() : most.a.data(), most.depth, most.panels.data(), kPanel * most.depth,
              most.depth, most.corrections.data(), c.data()});
    for (int64_t i = 0; i < kPanel; ++i) EXPECT_EQ(c[static_cast<size_t>(i)], 127 * 127 * kMostInt8Depth) << name;
  }
};

TEST_F(Int8Tiles, Plain) {
  check(tile_int8_plain, false, "plain");
}

TEST_F(Int8Tiles, Avx2) {
  if (isa_name() == "sse2") GTEST_SKIP() << "needs AVX2";
  check(tile_int8_avx2, false, "avx2");
}

TEST_F(Int8Tiles, Vnni) {
  if (!has_avx512_vnni()) GTEST_SKIP() << "needs AVX-512 VNNI";
  check(tile_int8_vnni, true, "vnni");
}

TEST(Int8Rows, AreWhatTheirDefinitionSays) {
  std::mt19937 engine(7);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  for (const int64_t k : {1, 3, 16, 63, 64, 65, 682}) {
    const int64_t depth = round_up(k, kInt8DepthStep);
    std::vector<float> x(static_cast<size_t>(k)), factor(static_cast<size_t>(depth), 0.5f);
    for (float& v : x) v = static_cast<float>(bfloat16(normal(engine)));
    for (float& v : factor) v += std::abs(normal(engine));
    const std::vector<bfloat16> half(x.begin(), x.end());
    for (const auto& [scaled, in_half] : {std::pair{false, false}, {false, true}, {true, false}, {true, true}}) {
      const auto* bytes =
          in_half ? reinterpret_cast<const std::byte*>(half.data()) : reinterpret_cast<const std::byte*>(x.data());
      float most = 0.0f;
      for (size_t i = 0; i < x.size(); ++i) most = std::max(most, std::abs(scaled ? x[i] * factor[i] : x[i]));
      for (const uint8_t flip : {0x00, 0x80}) {
        std::vector<int8_t> row(static_cast<size_t>(depth), 99);
        const float scale = quantize_row(in_half ? DType::bfloat16 : DType::float32, bytes,
                                         scaled ? factor.data() : nullptr, k, depth, flip, row.data());
        EXPECT_EQ(scale, most / 127.0f);
        for (size_t i = 0; i < row.size(); ++i) {
          const float value = i >= x.size() ? 0.0f : scaled ? x[i] * factor[i] : x[i];
          ASSERT_EQ(static_cast<int8_t>(static_cast<uint8_t>(row[i]) ^ flip), std::lrint(value * (127.0f / most)))
              << "k " << k << ", element " << i;
        }
      }
    }
  }
}

// Halves go to the even neighbour, as torch's do.
TEST(Int8Rows, RoundHalfToEven) {
  const std::vector<float> x{127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 0.49999997f, -126.5f};
  const std::vector<int8_t> expected{127, 0, 2, 2, 0, -2, -2, 0, -126};
  std::vector<int8_t> row(kInt8DepthStep);
  const auto* bytes = reinterpret_cast<const std::byte*>(x.data());
  EXPECT_EQ(quantize_row(DType::float32, bytes, nullptr, 9, kInt8DepthStep, 0, row.data()), 1.0f);
  row.resize(x.size());
  EXPECT_EQ(row, expected);
}

}  // namespace
}  // namespace raedit::backend::cpu
