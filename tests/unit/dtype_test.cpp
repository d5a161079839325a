// Conversions of the small floats. Expected codes and values are torch 2.15's.
#include "raedit/dtype.h"

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "core/float8.h"
#include "expect_error.h"

namespace raedit {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(DType, NamesAndSizesGoBothWays) {
  const std::vector<std::pair<const char*, size_t>> known{
      {"float64", 8},     {"float32", 4}, {"float16", 2}, {"bfloat16", 2}, {"float8_e4m3fn", 1},
      {"float8_e5m2", 1}, {"int64", 8},   {"int32", 4},   {"int16", 2},    {"int8", 1},
      {"uint64", 8},      {"uint32", 4},  {"uint16", 2},  {"uint8", 1},    {"bool", 1}};
  for (size_t i = 0; i < known.size(); ++i) {
    const DType dtype = dtype_from_name(known[i].first);
    EXPECT_EQ(static_cast<size_t>(dtype), i);
    EXPECT_EQ(name_of(dtype), known[i].first);
    EXPECT_EQ(size_of(dtype), known[i].second);
    EXPECT_EQ(is_floating(dtype), i < 6);
  }
  EXPECT_RAEDIT_ERROR(dtype_from_name("flaot32"), ErrorCode::invalid_argument, "'flaot32'", "did you mean 'float32'",
                      "float8_e5m2");
  EXPECT_RAEDIT_ERROR(size_of(static_cast<DType>(200)), ErrorCode::internal, "200");
}

TEST(BFloat16, RoundsToNearestEven) {
  EXPECT_EQ(bfloat16(1.0f).bits, 0x3f80);
  EXPECT_EQ(bfloat16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);  // tie: down to even
  EXPECT_EQ(bfloat16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);  // tie: up to even
  EXPECT_EQ(bfloat16(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
  EXPECT_EQ(bfloat16(std::bit_cast<float>(0x3fffffffu)).bits, 0x4000);  // carries into the exponent
  EXPECT_EQ(bfloat16(-0.0f).bits, 0x8000);
}

TEST(BFloat16, KeepsInfinityAndNan) {
  EXPECT_EQ(bfloat16(kInf).bits, 0x7f80);
  EXPECT_EQ(bfloat16(-kInf).bits, 0xff80);
  EXPECT_EQ(bfloat16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_EQ(bfloat16(std::numeric_limits<float>::denorm_min()).bits, 0);
  // A NaN whose payload lies in the lower half only must not become infinity, nor must rounding carry it away.
  EXPECT_TRUE(std::isnan(static_cast<float>(bfloat16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(static_cast<float>(bfloat16(std::bit_cast<float>(0xffffffffu)))));
}

TEST(Float16, DecodesAllKinds) {
  const std::vector<std::pair<uint16_t, float>> table{
      {0x0000, 0.0f},        {0x0001, 0x1p-24f}, {0x03ff, 0x1.ff8p-15f}, {0x0400, 0x1p-14f}, {0x3c00, 1.0f},
      {0x3555, 0x1.554p-2f}, {0x7bff, 65504.0f}, {0x7c00, kInf},         {0xfc00, -kInf},    {0x8001, -0x1p-24f}};
  for (const auto& [bits, value] : table) {
    float16 half;
    half.bits = bits;
    EXPECT_EQ(static_cast<float>(half), value) << bits;
  }
}

TEST(Float16, EncodesWithRoundingSubnormalsAndOverflow) {
  const std::vector<std::pair<float, uint16_t>> table{
      {1.0f, 0x3c00},       {1.00048828125f, 0x3c00},                                          // tie to even
      {1.001463f, 0x3c01},  {65504.0f, 0x7bff},       {65519.0f, 0x7bff}, {65520.0f, 0x7c00},  // tie beyond the largest
      {1e6f, 0x7c00},       {0x1p-24f, 0x0001},       {0x1p-25f, 0x0000}, {0x1.8p-25f, 0x0001},
      {0x1.8p-24f, 0x0002},  // tie between subnormals
      {-0x1p-14f, 0x8400},  {6.1e-5f, 0x03ff},        {kNan, 0x7e00},     {-kInf, 0xfc00},
      {1e-40f, 0x0000},     {-0.0f, 0x8000}};
  for (const auto& [value, bits] : table) EXPECT_EQ(float16(value).bits, bits) << value;
}

TEST(Float16, EveryCodeSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    float16 half;
    half.bits = static_cast<uint16_t>(bits);
    const auto value = static_cast<float>(half);
    if ((bits & 0x7fffu) > 0x7c00u)
      EXPECT_TRUE(std::isnan(value)) << bits;
    else
      ASSERT_EQ(float16(value).bits, bits) << value;
  }
}

TEST(Float8, DecodesTheTables) {
  const std::vector<uint8_t> codes{0, 1, 7, 8, 0x38, 0x3f, 0x7b, 0x7e, 0x7f, 0x7c, 0x80, 0xb9, 0xfe};
  const std::vector<float> e4m3{0.0f,   0x1p-9f, 0x1.cp-7f, 0x1p-6f, 1.0f,    1.875f, 352.0f,
                                448.0f, kNan,    384.0f,    -0.0f,   -1.125f, -448.0f};
  const std::vector<float> e5m2{0.0f, 0x1p-16f, 0x1.cp-14f, 0x1p-13f, 0.5f,    1.75f, 57344.0f,
                                kNan, kNan,     kInf,       -0.0f,    -0.625f, kNan};
  for (size_t i = 0; i < codes.size(); ++i) {
    float8_e4m3fn a;
    float8_e5m2 b;
    a.bits = b.bits = codes[i];
    const auto va = static_cast<float>(a);
    const auto vb = static_cast<float>(b);
    EXPECT_TRUE(va == e4m3[i] || (std::isnan(va) && std::isnan(e4m3[i]))) << int{codes[i]} << ": " << va;
    EXPECT_TRUE(vb == e5m2[i] || (std::isnan(vb) && std::isnan(e5m2[i]))) << int{codes[i]} << ": " << vb;
  }
}

TEST(Float8, EncodesWithRoundingAndOverflow) {
  const std::vector<float> values{1.0f,     1.0625f,  1.1875f,  448.0f,   464.0f,      465.0f,
                                  1e9f,     kInf,     -3.3f,    0x1p-10f, 0.00097657f, 0.002f,
                                  57344.0f, 61440.0f, 61439.0f, 0x1p-17f, 0x1.3p-17f,  kNan};
  const std::vector<int> e4m3{56, 56, 58, 126, 126, 126, 126, 126, 197, 0, 1, 1, 126, 126, 126, 0, 0, 127};
  const std::vector<int> e5m2{60, 60, 61, 95, 95, 95, 124, 124, 195, 20, 20, 24, 123, 124, 123, 0, 1, 127};
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(float8_e4m3fn(values[i]).bits, e4m3[i]) << values[i];
    EXPECT_EQ(float8_e5m2(values[i]).bits, e5m2[i]) << values[i];
  }
}

}  // namespace
}  // namespace raedit
