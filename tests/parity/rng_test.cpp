// The generator against torch's, tensor by tensor: tests/parity/data/rng, written by tools/dump_rng.py under two
// versions of torch, which differ in bfloat16.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <string>

#include "io/safetensors.h"
#include "raedit/generator.h"

namespace raedit {
namespace {

struct Reference {
  const char* file;
  Bfloat16Draws draws;
  int first_draws;  // per seed
  int sequence;
};

class Rng : public ::testing::TestWithParam<Reference> {
 protected:
  SafetensorsFile fixture =
      SafetensorsFile::open(std::string(RAEDIT_TEST_DATA "/rng/") + GetParam().file + ".safetensors");

  Generator generator(uint64_t seed) const { return Generator(seed, GetParam().draws); }

  // Integers, uniform numbers and what is rounded after every operation are exact. float32 normals differ by how log,
  // sin and cos round, and with them, now and then, the last bit of a rounded bfloat16.
  double tolerance(bool normal, DType dtype, double value) const {
    if (!normal) return 0;
    if (dtype == DType::float64) return 1e-14;
    if (dtype == DType::float32) return 2e-6;
    return GetParam().draws == Bfloat16Draws::native ? 0 : std::ldexp(std::abs(value), -7);
  }

  void expect_same(const Tensor& drawn, const std::string& name, bool normal) const {
    const Tensor reference = fixture.tensor(name);
    ASSERT_EQ(drawn.dtype(), reference.dtype()) << name;
    ASSERT_EQ(drawn.shape(), reference.shape()) << name;
    const std::vector<double> found = drawn.to_vector<double>(), expected = reference.to_vector<double>();
    size_t different = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      ASSERT_NEAR(found[i], expected[i], tolerance(normal, drawn.dtype(), expected[i])) << name << " at " << i;
      different += found[i] != expected[i];
    }
    if (drawn.dtype() == DType::bfloat16) {
      EXPECT_LE(different, found.size() / 16) << name;
    }
  }
};

DType dtype_of_kind(const std::string& kind) {
  if (kind.ends_with("_bf16")) return DType::bfloat16;
  return kind.ends_with("_f64") ? DType::float64 : DType::float32;
}

// KIND.seedS.nCOUNT: the first numbers of a fresh generator.
TEST_P(Rng, FirstNumbersOfEverySeedTypeAndSize) {
  int compared = 0;
  for (const std::string& name : fixture.names()) {
    if (name.starts_with("sequence.")) continue;
    const size_t seed_at = name.find(".seed"), count_at = name.find(".n", seed_at);
    ASSERT_NE(count_at, std::string::npos) << name;
    const std::string kind = name.substr(0, seed_at);
    Generator fresh = generator(std::stoull(name.substr(seed_at + 5)));
    const Shape shape{std::stoll(name.substr(count_at + 2))};
    const bool normal = kind.starts_with("randn");
    ASSERT_TRUE(normal || kind.starts_with("rand_")) << name;
    const DType dtype = dtype_of_kind(kind);
    expect_same(normal ? fresh.randn(shape, dtype) : fresh.rand(shape, dtype), name, normal);
    ++compared;
  }
  EXPECT_EQ(compared, 3 * GetParam().first_draws);
}

// torch.randperm for small counts: Fisher-Yates from the front.
Tensor permutation(Generator& generator, int64_t count) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = 0; i + 1 < order.size(); ++i) std::swap(order[i], order[i + generator.random() % (order.size() - i)]);
  return Tensor::from(order, {count});
}

Tensor integers_below(Generator& generator, uint32_t limit, int64_t count) {
  std::vector<int64_t> values(static_cast<size_t>(count));
  for (int64_t& value : values) value = generator.random() % limit;
  return Tensor::from(values, {count});
}

// Everything from one generator: what each call leaves behind is where the next begins.
TEST_P(Rng, MixedCallsContinueOneStream) {
  for (const std::string seed : {"0", "42", "1099511627781"}) {
    const std::string sequence = "sequence.seed" + seed;
    Generator one = generator(std::stoull(seed));
    expect_same(one.randn({7}), sequence + ".randn7", true);
    expect_same(one.rand({9}), sequence + ".then_rand9", false);
    expect_same(one.randn({40}), sequence + ".then_randn40", true);
    expect_same(integers_below(one, 100, 11), sequence + ".then_randint100_11", false);
    expect_same(permutation(one, 13), sequence + ".then_randperm13", false);
    if (GetParam().sequence == 5) continue;
    expect_same(one.randn({40}, DType::bfloat16), sequence + ".then_randn_bf16_40", true);
    expect_same(one.randn({3}), sequence + ".then_randn3", true);
  }
}

TEST_P(Rng, EveryTensorOfTheFixtureIsCompared) {
  EXPECT_EQ(static_cast<int>(fixture.names().size()), 3 * (GetParam().first_draws + GetParam().sequence));
}

INSTANTIATE_TEST_SUITE_P(Torch, Rng,
                         ::testing::Values(Reference{"torch_2_11", Bfloat16Draws::native, 13, 5},
                                           Reference{"torch_2_15", Bfloat16Draws::rounded, 18, 7}),
                         [](const auto& info) { return info.param.file; });

}  // namespace
}  // namespace raedit
