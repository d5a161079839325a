// raedit compare: differences that are known, tolerances, and files that do not match.
#include <cmath>
#include <limits>

#include "cli_test.h"
#include "io/safetensors.h"
#include "raedit/generator.h"

namespace raedit::cli_test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class CompareTest : public CliTest {
 protected:
  void write(const std::string& name, const NamedTensors& tensors) const { write_safetensors(path(name), tensors); }
  Json compare(int exit_code, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments{"compare", "a.safetensors", "b.safetensors", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result result = run(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.out << result.err;
    return parse_json(result.out, "stdout");
  }
};

Tensor floats(const std::vector<float>& values) {
  return Tensor::from(values, {static_cast<int64_t>(values.size())});
}

TEST_F(CompareTest, EqualFiles) {
  const Tensor x = Generator(3).randn({7, 5, 3}), ids = Tensor::from(std::vector<int64_t>{1, 2}, {2});
  write("a.safetensors", {{"x", x}, {"ids", ids}});
  write("b.safetensors", {{"x", x}, {"ids", ids}});
  const std::string text = expect_success({"compare", "a.safetensors", "b.safetensors"});
  EXPECT_NE(text.find("2 of 2 tensors agree"), std::string::npos) << text;
  EXPECT_EQ(compare(0)["within_tolerance"], true);
}

TEST_F(CompareTest, MaximaAndMeans) {
  write("a.safetensors", {{"x", floats({1.0f, 2.5f, -4.0f, 0.25f})}});
  write("b.safetensors", {{"x", floats({1.0f, 2.0f, -8.0f, 0.0f})}});
  const Json row = compare(1)["tensors"][0];
  EXPECT_EQ(row["max_abs"], 4.0);
  EXPECT_EQ(row["mean_abs"], (0.5 + 4.0 + 0.25) / 4);
  EXPECT_EQ(row["max_rel"], 0.5);
  EXPECT_EQ(row["mean_rel"], (0.25 + 0.5) / 3);  // where b is not 0
  EXPECT_EQ(row["max_abs_of_largest"], 0.5);
  EXPECT_EQ(row["beyond"], 3);
  EXPECT_EQ(row["elements"], 4);
}

TEST_F(CompareTest, TolerancesAreAddedUp) {
  write("a.safetensors", {{"x", floats({10.5f, 0.25f})}});
  write("b.safetensors", {{"x", floats({10.0f, 0.0f})}});
  compare(1);
  compare(1, {"--atol", "0.25"});
  compare(1, {"--rtol", "0.05"});  // nothing is near 0
  compare(0, {"--atol", "0.25", "--rtol", "0.025"});
  compare(0, {"--atol", "0.5"});
  compare(1, {"--atol", "0.499"});
}

TEST_F(CompareTest, NansAndInfinities) {
  write("a.safetensors", {{"x", floats({kNan, kInfinity, 1.0f})}});
  write("b.safetensors", {{"x", floats({kNan, kInfinity, 1.0f})}});
  const Json same = compare(0)["tensors"][0];
  EXPECT_EQ(same["nan_in_both"], 1);
  EXPECT_EQ(same["max_abs"], 0.0);
  write("b.safetensors", {{"x", floats({1.0f, -kInfinity, kNan})}});
  const Json other = compare(1, {"--atol", "1e30", "--rtol", "1e30"})["tensors"][0];
  EXPECT_EQ(other["nan_or_infinity_against_other"], 3);
  const Result text = run({"compare", "a.safetensors", "b.safetensors"});
  EXPECT_NE(text.out.find("3 of 3 BEYOND, 3 NaN or infinity in one only"), std::string::npos) << text.out;
}

TEST_F(CompareTest, TensorsThatDoNotMatch) {
  write("a.safetensors", {{"both", floats({1})}, {"gone", floats({1})}, {"shape", floats({1, 2})}});
  write("b.safetensors", {{"both", floats({1})}, {"extra", floats({1})}, {"shape", floats({1, 2}).reshape({1, 2})}});
  const Json json = compare(1, {"--atol", "100"});
  EXPECT_EQ(json["within_tolerance"], false);
  std::map<std::string, std::string> status;
  for (const Json& row : json["tensors"]) status[row["name"]] = row["status"];
  EXPECT_EQ(status["both"], "ok");
  EXPECT_EQ(status["gone"], "only in A");
  EXPECT_EQ(status["extra"], "only in B");
  EXPECT_EQ(status["shape"], "shapes differ");
  const Result text = run({"compare", "a.safetensors", "b.safetensors"});
  for (const char* part :
       {"ONLY IN A: float32 [1]", "ONLY IN B", "SHAPES DIFFER: float32 [2] and float32 [1, 2]", "1 of 4 tensors agree"})
    EXPECT_NE(text.out.find(part), std::string::npos) << part << "\n" << text.out;
}

TEST_F(CompareTest, TypesMayDiffer) {
  const Tensor x = Generator(5).randn({100000});  // several chunks
  write("a.safetensors", {{"x", x.to(DType::bfloat16)}});
  write("b.safetensors", {{"x", x}});
  compare(1);
  const Json row = compare(0, {"--rtol", "0.00390625"})["tensors"][0];  // half of bfloat16's spacing, 2^-8
  EXPECT_GT(row["max_rel"].get<double>(), 0.003);
  EXPECT_EQ(row["elements"], 100000);
  EXPECT_EQ(row["a"], "bfloat16 [100000]");
}

TEST_F(CompareTest, WideIntegersExactly) {
  write("a.safetensors", {{"x", Tensor::from(std::vector<int64_t>{9007199254740993}, {1})}});  // 2^53 + 1
  write("b.safetensors", {{"x", Tensor::from(std::vector<int64_t>{9007199254740992}, {1})}});
  EXPECT_EQ(compare(1)["tensors"][0]["max_abs"], 1.0);
  compare(0, {"--atol", "1"});
}

TEST_F(CompareTest, EmptyTensors) {
  write("a.safetensors", {{"x", Tensor::zeros({0, 3}, DType::float32)}});
  write("b.safetensors", {{"x", Tensor::zeros({0, 3}, DType::float32)}});
  compare(0);
}

TEST_F(CompareTest, FilesThatCannotBeRead) {
  write("a.safetensors", {{"x", floats({1})}});
  spit(path("c.safetensors"), raw_safetensors("nonsense", 0));
  expect_failure({"compare", "a.safetensors", "b.safetensors"}, 1, {"b.safetensors", "No such file"});
  expect_failure({"compare", "a.safetensors", "c.safetensors"}, 1, {"c.safetensors"});
}

}  // namespace
}  // namespace raedit::cli_test
