// Products on AMX tiles against float64, at sizes around every edge of a tile. CMakeLists.txt has the emulator at work.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "amx/amx_emulator.h"
#include "backend/cpu/amx.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/gemm_ceiling.h"
#include "backend/cpu/isa.h"
#include "raedit/context.h"
#include "raedit/generator.h"
#include "raedit/tensor.h"

namespace raedit::test {
namespace {

using namespace backend::cpu;

constexpr float kUntouched = 1234.5f;

class Amx : public testing::Test {
 protected:
  void SetUp() override {
    if (amx_kind() == AmxKind::none) GTEST_SKIP() << "no AMX, and no AVX-512 with bfloat16 to emulate it on";
  }
};

std::vector<uint16_t> random_bits(int64_t count, uint64_t seed) {
  Generator generator(seed);
  const Tensor numbers = generator.randn({count}).to(DType::bfloat16);
  const auto* bits = reinterpret_cast<const uint16_t*>(numbers.data<bfloat16>());
  return {bits, bits + count};
}

double value(uint16_t bits) {
  return static_cast<double>(static_cast<float>(std::bit_cast<bfloat16>(bits)));
}

struct Size {
  int64_t rows, columns, k;
};
std::string name_of(const Size& s) {
  return std::to_string(s.rows) + " rows, " + std::to_string(s.columns) + " columns, k " + std::to_string(s.k);
}

// Rows [n][k] as panels, the way weights are packed.
std::vector<uint16_t> packed(const std::vector<uint16_t>& weights, int64_t n, int64_t k) {
  const int64_t panels = (n + kPanel - 1) / kPanel, stride = round_up(k, 2) * kPanel;
  std::vector<uint16_t> out(static_cast<size_t>(panels * stride));
  for (int64_t p = 0; p < panels; ++p)
    pack_column_pairs(weights.data() + p * kPanel * k, k, std::min(kPanel, n - p * kPanel), k, out.data() + p * stride);
  return out;
}

double bound(double magnitude, int64_t k) {
  return magnitude * static_cast<double>(k + 4) * 0x1p-24 + 1e-30;
}

TEST_F(Amx, ProductsOfRows) {
  const int64_t before = emulated_instructions();
  for (const Size& s : {Size{1, 16, 32}, Size{16, 16, 1}, Size{17, 33, 31}, Size{32, 64, 64}, Size{33, 48, 545},
                        Size{7, 20, 1030}, Size{70, 64, 96}, Size{513, 16, 34}, Size{5, 5, 5}, Size{100, 64, 1153},
                        Size{80, 48, 1152}, Size{48, 32, 1800}, Size{40, 16, 0}}) {
    for (const bool accumulate : {false, true}) {
      const auto a = random_bits(s.rows * (s.k + 3), 1), w = random_bits(s.columns * s.k, 2);
      const auto panels = packed(w, s.columns, s.k);
      const int64_t count = (s.columns + kPanel - 1) / kPanel, ldc = count * kPanel + 5;
      std::vector<float> c(static_cast<size_t>(s.rows * ldc + 64), kUntouched);
      {
        const AmxTiles tiles;
        amx_product({s.rows, count, a.data(), s.k + 3, panels.data(), round_up(s.k, 2) * kPanel, s.k, c.data(), ldc,
                     accumulate, false, accumulate ? panels.data() : nullptr});
      }
      for (int64_t r = 0; r < s.rows; ++r) {
        for (int64_t n = 0; n < count * kPanel; ++n) {
          double sum = accumulate ? static_cast<double>(kUntouched) : 0.0, magnitude = std::abs(sum);
          for (int64_t k = 0; n < s.columns && k < s.k; ++k) {
            const double term =
                value(a[static_cast<size_t>(r * (s.k + 3) + k)]) * value(w[static_cast<size_t>(n * s.k + k)]);
            sum += term;
            magnitude += std::abs(term);
          }
          ASSERT_NEAR(static_cast<double>(c[static_cast<size_t>(r * ldc + n)]), sum, bound(magnitude, s.k))
              << name_of(s) << " at " << r << ", " << n;
        }
        for (int64_t n = count * kPanel; n < ldc; ++n)
          ASSERT_EQ(c[static_cast<size_t>(r * ldc + n)], kUntouched) << name_of(s);
      }
      for (int64_t i = s.rows * ldc; i < s.rows * ldc + 64; ++i) ASSERT_EQ(c[static_cast<size_t>(i)], kUntouched);
    }
  }
  if (amx_kind() == AmxKind::emulated) {
    EXPECT_GT(emulated_instructions(), before);
  }
}

TEST_F(Amx, ProductsOf8Bits) {
  constexpr int64_t kCount = 3, kColumns = kCount * kPanel;
  for (const auto& [rows, k] : {std::pair<int64_t, int64_t>{1, 64}, {33, 1152}, {70, 1216}, {64, 2368}}) {
    std::mt19937 engine(9);
    const auto draw = [&](int64_t count) {
      std::vector<int8_t> bytes(static_cast<size_t>(count));
      std::generate(bytes.begin(), bytes.end(), [&] { return static_cast<int8_t>(engine() % 255 - 127); });
      return bytes;
    };
    const auto a = draw(rows * k), panels = draw(kColumns * k);
    std::vector<int32_t> c(static_cast<size_t>(rows * kColumns));
    {
      const AmxTiles tiles;
      amx_product(
          {rows, kCount, a.data(), k, panels.data(), kPanel * k, k, c.data(), kColumns, false, false, panels.data()});
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t n = 0; n < kColumns; ++n) {
        int32_t sum = 0;
        for (int64_t i = 0; i < k; ++i)
          sum += a[static_cast<size_t>(r * k + i)] *
                 panels[static_cast<size_t>(n / kPanel * kPanel * k + i / 4 * 4 * kPanel + n % kPanel * 4 + i % 4)];
        ASSERT_EQ(c[static_cast<size_t>(r * kColumns + n)], sum)
            << rows << " rows, k " << k << " at " << r << ", " << n;
      }
  }
}

// Each sets up the tiles that it needs itself.
TEST_F(Amx, Ceilings) {
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::int8})
    EXPECT_GT(ceiling_of(dtype, 2, 2), 0.0) << name_of(dtype);
}

TEST_F(Amx, ARowDoesNotDependOnTheOthers) {
  constexpr int64_t kRows = 50, kDepth = 600;
  const auto a = random_bits(kRows * kDepth, 3), w = random_bits(48 * kDepth, 4);
  const auto panels = packed(w, 48, kDepth);
  const AmxTiles tiles;
  const auto product = [&](int64_t first, int64_t rows, int64_t panel, int64_t count) {
    std::vector<float> c(static_cast<size_t>(rows * count * kPanel));
    amx_product({rows, count, a.data() + first * kDepth, kDepth, panels.data() + panel * kDepth * kPanel,
                 kDepth * kPanel, kDepth, c.data(), count * kPanel, false});
    return c;
  };
  const auto all = product(0, kRows, 0, 3);
  for (const int64_t row : {0, 15, 16, 37, 49}) {
    const auto one = product(row, 1, 1, 2);
    for (size_t n = 0; n < 32; ++n) ASSERT_EQ(one[n], all[static_cast<size_t>(row) * 48 + 16 + n]);
  }
}

TEST_F(Amx, TransposedTilesComeBack) {
  const auto tile = random_bits(512, 5);
  auto turned = tile;
  transpose_tile(turned.data());
  for (size_t pair = 0; pair < 16; ++pair)
    for (size_t column = 0; column < 16; ++column)
      for (size_t half = 0; half < 2; ++half)
        ASSERT_EQ(turned[column * 32 + pair * 2 + half], tile[pair * 32 + column * 2 + half]);
  transpose_tile(turned.data());
  EXPECT_EQ(turned, tile);
}

// The gradient of a weight: both operands packed over rows, of any number.
TEST_F(Amx, TransposedProducts) {
  for (const Size& s : {Size{16, 16, 32}, Size{20, 50, 33}, Size{300, 70, 7}, Size{48, 128, 1040}, Size{5, 3, 513}}) {
    const auto d = random_bits(s.k * s.rows, 6), x = random_bits(s.k * s.columns, 7);
    for (const bool add : {false, true}) {
      const Tensor out = Tensor::full({s.rows, s.columns}, 0.25f);
      std::vector<std::byte> workspace(transposed_workspace(s.rows, s.columns) + 64, std::byte{0x7f});  // no number
      dot_transposed({d.data(), DType::bfloat16, s.rows}, {x.data(), DType::bfloat16, s.columns}, s.k, out, add,
                     workspace.data(), 2);
      for (int64_t r = 0; r < s.rows; ++r)
        for (int64_t c = 0; c < s.columns; ++c) {
          double sum = add ? 0.25 : 0.0, magnitude = sum;
          for (int64_t k = 0; k < s.k; ++k) {
            const double term =
                value(d[static_cast<size_t>(k * s.rows + r)]) * value(x[static_cast<size_t>(k * s.columns + c)]);
            sum += term;
            magnitude += std::abs(term);
          }
          ASSERT_NEAR(static_cast<double>(out.data<float>()[r * s.columns + c]), sum, bound(magnitude, s.k))
              << name_of(s) << " at " << r << ", " << c;
        }
    }
  }
}

TEST_F(Amx, TheDeviceSaysSo) {
  const Context ctx({.threads = 1});
  EXPECT_NE(ctx.description().find("AMX"), std::string::npos) << ctx.description();
  EXPECT_TRUE(has_amx_bf16());
}

}  // namespace
}  // namespace raedit::test
