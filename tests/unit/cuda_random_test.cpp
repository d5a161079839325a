// torch's CUDA numbers, computed on the processor: against Random123's vectors, against what people's GPUs printed, and
// against a second model of the launch. What GPUs printed has four decimals and is quoted with its public source.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <random>
#include <utility>

#include "expect_error.h"
#include "raedit/generator.h"
#include "tensor/philox.h"

namespace raedit {
namespace {

constexpr CudaGeometry kRtx2070Super{40, 1024}, kRtxA4000{48, 1536}, kRtxA6000{84, 1536}, kA100{108, 2048},
    kH100{132, 2048};
constexpr double kGpuRounding = 1e-5;             // __sincosf and logf of a GPU, beside the processor's
constexpr double kPrinted = 5e-5 + kGpuRounding;  // four decimals

Generator generator(uint64_t seed, const CudaGeometry& geometry = kA100) {
  return Generator(seed, RandomStream{geometry});
}

// values[first + i] is expected[i].
void expect_printed(const std::vector<float>& values, size_t first, const std::vector<double>& expected,
                    double tolerance = kPrinted) {
  ASSERT_LE(first + expected.size(), values.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(values[first + i], expected[i], tolerance) << first + i;
}

// Random123, examples/kat_vectors (github.com/DEShawResearch/random123): counters and keys of zeros, of ones, and of
// the digits of pi.
TEST(Philox, AnswersAsRandom123Does) {
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32_10({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// ---- what GPUs printed

// github.com/AUTOMATIC1111/stable-diffusion-webui, modules/rng_philox.py: "Expected output" of randn((3, 4)), seed 0.
TEST(CudaRandom, FirstNumbersOfSeedZero) {
  expect_printed(generator(0).randn({3, 4}).to_vector<float>(), 0,
                 {-0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564, -0.62285122, -0.32838709,
                  -1.07454231, -0.36314407, -1.67105067, 2.26550497},
                 kGpuRounding);
}

// github.com/pytorch/pytorch/issues/79496 (torch 1.11): randn(3) of seed 10.
TEST(CudaRandom, FirstNumbersOfSeedTen) {
  expect_printed(generator(10).randn({3}).to_vector<float>(), 0, {-0.1029, 1.6810, -0.2708});
}

// github.com/pytorch/pytorch/issues/47347: rand(5) of seed 0. The uniform numbers need no logarithm and no sine.
TEST(CudaRandom, UniformNumbersOfSeedZero) {
  expect_printed(generator(0).rand({5}).to_vector<float>(), 0, {0.3990, 0.5167, 0.0249, 0.9401, 0.9459}, 5.01e-5);
}

// github.com/mrdbourke/pytorch-deep-learning/issues/759 (torch 2.1): nn.Linear(1, 1) of seed 42 draws its weight and
// then its bias, both uniform in (-1, 1). The second call goes on where the first ended.
TEST(CudaRandom, ASecondCallGoesOn) {
  Generator one = generator(42);
  EXPECT_NEAR(2 * one.rand({1}).item() - 1, 0.2259, 5.01e-5);
  EXPECT_NEAR(2 * one.rand({1}).item() - 1, 0.9754, 5.01e-5);
}

// github.com/pytorch/pytorch/issues/62467, an RTX A6000: normal_() of [1,3,128,128] and seed 43, at [...,0,0].
TEST(CudaRandom, WithinOneWaveOfAnA6000) {
  const auto values = generator(43, kRtxA6000).randn({1, 3, 128, 128}).to_vector<float>();
  expect_printed(values, 0, {1.9983});
  expect_printed(values, size_t{128} * 128, {0.8704});
  expect_printed(values, size_t{2} * 128 * 128, {2.1127});
}

// github.com/pytorch/pytorch/issues/97097 (torch 2.0): normal_(5, sqrt(5)) of [1000,100] and seed 14, on an RTX A4000
// (a wave is 73,728) and on an RTX 2070 Super (40,960), which printed the same first rows and other last ones.
TEST(CudaRandom, BeyondOneWaveOfAnA4000) {
  const auto scaled = [](const CudaGeometry& geometry) {
    auto values = generator(14, geometry).randn({1000, 100}).to_vector<float>();
    for (float& value : values) value = value * std::sqrt(5.0f) + 5.0f;
    return values;
  };
  const auto a4000 = scaled(kRtxA4000), rtx2070 = scaled(kRtx2070Super);
  const std::vector<std::pair<size_t, std::vector<double>>> rows = {
      {0, {2.8731, 5.2727, 2.9889, 1.6853, 9.6331, 6.6319}},   {1, {3.9968, 3.8097, 5.7328, 4.4029, 3.9804, 7.4698}},
      {2, {6.5552, 4.0857, 4.2315, 2.7704, 3.5479, 3.3063}},   {997, {8.6297, 2.3137, 6.2596, 7.9358, 4.4697, 2.7475}},
      {998, {7.0551, 7.8583, 3.9990, 4.1139, 8.9315, 4.2042}}, {999, {2.7337, 2.2106, 7.7815, 8.2207, 6.5395, 4.2604}}};
  for (const auto& [row, printed] : rows) {
    const auto middle = printed.begin() + 3;
    expect_printed(a4000, row * 100, {printed.begin(), middle});
    expect_printed(a4000, row * 100 + 97, {middle, printed.end()});
    EXPECT_EQ(rtx2070[row * 100] == a4000[row * 100], row < 3) << row;
  }
}

// github.com/pytorch/pytorch/issues/143086 (torch 2.5): the ends of randn(1, 49 * 12 * 112 * 144) of seed 1, on an H100
// and an A100. Nine million numbers: nine and eleven turns of four waves.
TEST(CudaRandom, ManyTurnsOfAnH100AndAnA100) {
  constexpr int64_t kCount = int64_t{49} * 12 * 112 * 144;
  const std::pair<CudaGeometry, std::vector<double>> ends[] = {{kH100, {-0.6970, -0.7780, 0.3267}},
                                                               {kA100, {0.1549, -0.6797, -0.1656}}};
  for (const auto& [geometry, last] : ends) {
    const auto values = generator(1, geometry).randn({1, kCount}).to_vector<float>();
    expect_printed(values, 0, {-0.2963, 2.6764, -0.1408});
    expect_printed(values, values.size() - 3, last);
  }
}

// ---- a second model

// cuRAND's state of one thread, a number at a time.
class Subsequence {
 public:
  Subsequence(uint64_t seed, uint64_t number, uint64_t offset) : seed_(seed), number_(number), next_(offset) {}
  uint32_t draw() {
    const auto words = [](uint64_t x) { return std::pair(static_cast<uint32_t>(x), static_cast<uint32_t>(x >> 32)); };
    const auto [c0, c1] = words(next_ / 4);
    const auto [c2, c3] = words(number_);
    const auto [k0, k1] = words(seed_);
    return philox4x32_10({c0, c1, c2, c3}, {k0, k1})[next_++ % 4];
  }
  uint64_t position() const { return next_; }

 private:
  uint64_t seed_, number_, next_;
};

// Each thread walks through the tensor on its own, in doubles. Moves `offset` as torch does.
std::vector<double> normals_by_threads(uint64_t seed, uint64_t& offset, const CudaGeometry& g, int64_t count) {
  std::vector<double> values(static_cast<size_t>(count), NAN);
  const int64_t blocks = std::min((count + 255) / 256, g.multiprocessors * (g.threads / 256)), all = blocks * 256;
  uint64_t end = offset;
  for (int64_t t = 0; t < all; ++t) {
    Subsequence own(seed, static_cast<uint64_t>(t), offset);
    for (int64_t at = t; at < count; at += 4 * all) {
      std::array<double, 4> four{};
      for (size_t pair = 0; pair < 4; pair += 2) {
        // Beside 1 the logarithm shows every bit that float32 has not.
        const double u = (static_cast<float>(own.draw()) + 0.5f) / 4294967296.0f;
        const double v = (own.draw() + 0.5) / 4294967296.0;
        four[pair] = std::sqrt(-2 * std::log(u)) * std::sin(2 * std::numbers::pi * v);
        four[pair + 1] = std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
      }
      for (int64_t i = 0; i < 4 && at + i * all < count; ++i)
        values[static_cast<size_t>(at + i * all)] = four[static_cast<size_t>(i)];
    }
    end = std::max(end, own.position());
  }
  offset = end;
  return values;
}

TEST(CudaRandom, AgreesWithThreadsThatWalkAlone) {
  std::mt19937_64 random(5);
  const CudaGeometry geometries[] = {{1, 256}, {1, 1023}, {2, 600}, {5, 1536}, {3, 2048}};
  for (const CudaGeometry& geometry : geometries) {
    const uint64_t seed = random();
    uint64_t offset = 0;
    Generator drawn = generator(seed, geometry);
    // Successive calls, from one number to several turns, and sizes at the edges of blocks and waves.
    for (const int64_t count : {1, 255, 256, 257, 1024, 3073, 12289, 1 + static_cast<int>(random() % 40000)}) {
      const std::vector<double> expected = normals_by_threads(seed, offset, geometry, count);
      const std::vector<float> found = drawn.randn({count}).to_vector<float>();
      for (size_t i = 0; i < found.size(); ++i)
        ASSERT_NEAR(found[i], expected[i], 5e-6) << i << " of " << count << ", sm " << geometry.multiprocessors;
    }
  }
}

// The numbers of PyTorch's own sizes: one latent of 768 x 16 x 16 is one wave of an RTX 4090, more than one of a 3090.
TEST(CudaRandom, OneLatentIsMoreThanAWaveOfSomeGpus) {
  const auto latent = [](const CudaGeometry& geometry) {
    return generator(3, geometry).randn({1, 768, 16, 16}).to_vector<float>();
  };
  const auto h100 = latent(kH100), rtx4090 = latent({128, 1536}), rtx3090 = latent({82, 1536});
  EXPECT_EQ(h100, rtx4090);
  EXPECT_NE(h100, rtx3090);
  const size_t wave = size_t{82} * 1536;
  EXPECT_TRUE(std::equal(h100.begin(), h100.begin() + wave, rtx3090.begin()));
  EXPECT_NE(h100[wave], rtx3090[wave]);
}

// ---- types, seeds, copies

TEST(CudaRandom, Bfloat16IsTheFloat32NumberRounded) {
  for (const int64_t count : {3, 700, 6000}) {
    const CudaGeometry small{1, 512};
    EXPECT_EQ(generator(9, small).randn({count}, DType::bfloat16).to_vector<float>(),
              generator(9, small).randn({count}).to(DType::bfloat16).to_vector<float>());
  }
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const float value : generator(1).rand({20000}, dtype).to_vector<float>()) {
      ASSERT_GE(value, 0.0f);
      ASSERT_LT(value, 1.0f);
    }
  }
}

TEST(CudaRandom, SeedsHave64BitsAndStartAnew) {
  Generator one = generator(5);
  const auto first = one.randn({40}).to_vector<float>();
  EXPECT_NE(generator((uint64_t{1} << 40) + 5).randn({40}).to_vector<float>(), first);
  EXPECT_EQ(one.randn({0, 3}).numel(), 0);
  Generator copy = one;
  const auto second = one.randn({40}).to_vector<float>();
  EXPECT_NE(second, first);
  EXPECT_EQ(copy.randn({40}).to_vector<float>(), second);
  one.manual_seed(5);
  EXPECT_EQ(one.randn({40}).to_vector<float>(), first);
  EXPECT_NE(Generator(5).randn({40}).to_vector<float>(), first);
}

TEST(CudaRandom, RefusesWhatItDoesNotCover) {
  Generator one = generator(5);
  EXPECT_RAEDIT_ERROR(one.randn({2}, DType::float64), ErrorCode::unsupported, "float64", "float32 or bfloat16");
  EXPECT_RAEDIT_ERROR(one.random(), ErrorCode::unsupported, "integers");
  EXPECT_RAEDIT_ERROR(one.random64(), ErrorCode::unsupported, "integers");
  EXPECT_RAEDIT_ERROR(one.randn({(int64_t{1} << 29) + 1}), ErrorCode::unsupported, "2^31 bytes");
  for (const CudaGeometry& bad : {CudaGeometry{0, 2048}, CudaGeometry{132, 255}, CudaGeometry{-1, 2048},
                                  CudaGeometry{int64_t{1} << 40, 2048}, CudaGeometry{1, 65536}})
    EXPECT_RAEDIT_ERROR(generator(5, bad), ErrorCode::invalid_argument, "no GPU has this geometry", "H100 SXM 132");
}

TEST(RandomStream, NamesGoBothWays) {
  for (const char* name : {"torch-cpu", "torch-cuda:sm=132,threads=2048", "torch-cuda:sm=1,threads=256"})
    EXPECT_EQ(RandomStream::from_name(name).name(), name);
  EXPECT_EQ(RandomStream::from_name("torch-cuda:threads=1536,sm=82").name(), "torch-cuda:sm=82,threads=1536");
  EXPECT_EQ(Generator(4, RandomStream{}).randn({20}).to_vector<float>(), Generator(4).randn({20}).to_vector<float>());
  for (const char* bad : {"", "torch", "torch-cpu:", "torch-cuda", "torch-cuda:", "torch-cuda:sm=132",
                          "torch-cuda:sm=132,threads=", "torch-cuda:sm=132,threads=2048,", "torch-cuda:sm,threads=2048",
                          "torch-cuda:sm=132,sm=132", "torch-cuda:sm=132,threads=2048,threads=2048",
                          "torch-cuda:sm=1e2,threads=2048", "torch-cuda: sm=132,threads=2048",
                          "torch-cuda:sm=99999999999999999999,threads=2048", "TORCH-CUDA:sm=132,threads=2048"})
    EXPECT_RAEDIT_ERROR(RandomStream::from_name(bad), ErrorCode::invalid_argument, std::string("'") + bad + "'",
                        "torch-cuda:sm=N,threads=N", "RTX 3090 82, 1536");
  EXPECT_RAEDIT_ERROR(RandomStream::from_name("torch-cuda:sm=132,threads=128"), ErrorCode::invalid_argument,
                      "no GPU has this geometry");
}

}  // namespace
}  // namespace raedit
