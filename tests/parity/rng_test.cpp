// The generator against torch's, tensor by tensor: tests/parity/data/rng, written by tools/dump_rng.py.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <string>

#include "io/safetensors.h"
#include "raedit/generator.h"

namespace raedit {
namespace {

const SafetensorsFile& fixture() {
  static const SafetensorsFile file = SafetensorsFile::open(RAEDIT_TEST_DATA "/rng/torch_cpu.safetensors");
  return file;
}

// Uniform numbers and integers are exact. float32 normals differ by how log, sin and cos round, and with them, now and
// then, the last bit of a bfloat16.
double tolerance(bool normal, DType dtype, double value) {
  if (!normal) return 0;
  if (dtype == DType::float64) return 1e-14;
  return dtype == DType::bfloat16 ? std::ldexp(std::abs(value), -7) : 2e-6;
}

void expect_same(const Tensor& drawn, const std::string& name, bool normal) {
  const Tensor reference = fixture().tensor(name);
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

DType dtype_of_kind(const std::string& kind) {
  if (kind.ends_with("_bf16")) return DType::bfloat16;
  return kind.ends_with("_f64") ? DType::float64 : DType::float32;
}

// KIND.seedS.nCOUNT: the first numbers of a fresh generator.
TEST(Rng, FirstNumbersOfEverySeedTypeAndSize) {
  int compared = 0;
  for (const std::string& name : fixture().names()) {
    if (name.starts_with("sequence.")) continue;
    const size_t seed_at = name.find(".seed"), count_at = name.find(".n", seed_at);
    ASSERT_NE(count_at, std::string::npos) << name;
    const std::string kind = name.substr(0, seed_at);
    Generator generator(std::stoull(name.substr(seed_at + 5)));
    const Shape shape{std::stoll(name.substr(count_at + 2))};
    const bool normal = kind.starts_with("randn");
    ASSERT_TRUE(normal || kind.starts_with("rand_")) << name;
    const DType dtype = dtype_of_kind(kind);
    expect_same(normal ? generator.randn(shape, dtype) : generator.rand(shape, dtype), name, normal);
    ++compared;
  }
  EXPECT_EQ(compared, 3 * 18);
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
TEST(Rng, MixedCallsContinueOneStream) {
  for (const std::string seed : {"0", "42", "1099511627781"}) {
    const std::string sequence = "sequence.seed" + seed;
    Generator generator(std::stoull(seed));
    expect_same(generator.randn({7}), sequence + ".randn7", true);
    expect_same(generator.rand({9}), sequence + ".then_rand9", false);
    expect_same(generator.randn({40}), sequence + ".then_randn40", true);
    expect_same(integers_below(generator, 100, 11), sequence + ".then_randint100_11", false);
    expect_same(permutation(generator, 13), sequence + ".then_randperm13", false);
    expect_same(generator.randn({40}, DType::bfloat16), sequence + ".then_randn_bf16_40", true);
    expect_same(generator.randn({3}), sequence + ".then_randn3", true);
  }
}

TEST(Rng, EveryTensorOfTheFixtureIsCompared) {
  EXPECT_EQ(fixture().names().size(), 3u * (18 + 7));
}

}  // namespace
}  // namespace raedit
