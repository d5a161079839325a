// Writing: bytes as the Rust library writes them, shards as diffusers names them, and nothing half done.
#include <sys/resource.h>

#include <csignal>

#include "counted_sources.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "io_test_util.h"

namespace raedit {
namespace {

using test::bytes_of;
using test::expect_error;
using test::random_tensor;
using test::ScratchFolder;
using test::slurp;
using test::spit;

constexpr DType kAll[] = {DType::float64,     DType::float32, DType::float16, DType::bfloat16, DType::float8_e4m3fn,
                          DType::float8_e5m2, DType::int64,   DType::int32,   DType::int16,    DType::int8,
                          DType::uint64,      DType::uint32,  DType::uint16,  DType::uint8,    DType::bool8};

TEST(WriteSafetensors, RoundTripsEveryDtypeShapeAndStride) {
  const ScratchFolder folder;
  NamedTensors tensors;
  for (const DType dtype : kAll) {
    const std::string name(name_of(dtype));
    const Tensor whole = random_tensor({3, 5, 7}, dtype, tensors.size());
    tensors.emplace_back(name, whole);
    tensors.emplace_back(name + ".transposed", whole.transpose(0, 2));
    tensors.emplace_back(name + ".slice", whole.slice(1, 1, 4).select(2, 3));
    tensors.emplace_back(name + ".expanded", random_tensor({1, 4}, dtype, 99).expand({3, 4}));
    tensors.emplace_back(name + ".scalar", random_tensor({}, dtype, 7));
    tensors.emplace_back(name + ".empty", random_tensor({2, 0}, dtype, 8));
  }
  const SafetensorsMetadata metadata = {{"format", "pt"}, {"quote \" and \n", "\xc3\xa4\xe2\x82\xac"}};
  write_safetensors(folder / "a", tensors, metadata);
  const auto file = SafetensorsFile::open(folder / "a");
  EXPECT_EQ(file.names().size(), tensors.size());
  EXPECT_EQ(file.metadata(), metadata);
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(file.info(name).dtype, tensor.dtype()) << name;
    EXPECT_EQ(file.info(name).shape, tensor.shape()) << name;
    EXPECT_EQ(bytes_of(file.tensor(name)), bytes_of(tensor)) << name;
    EXPECT_TRUE(file.tensor(name).storage()->read_only()) << name;  // aligned, so not copied
  }
}

TEST(WriteSafetensors, LaysOutTheFileAsTheRustLibraryDoes) {
  const ScratchFolder folder;
  const std::pair<const char*, DType> tensors[] = {
      {"b", DType::bool8},    {"a", DType::bfloat16}, {"h", DType::float16},        {"i", DType::int64},
      {"f", DType::float32},  {"d", DType::float64},  {"u", DType::uint8},          {"k", DType::int32},
      {"i8", DType::int8},    {"i16", DType::int16},  {"e4", DType::float8_e4m3fn}, {"u16", DType::uint16},
      {"u32", DType::uint32}, {"u64", DType::uint64}, {"e5", DType::float8_e5m2}};
  NamedTensors named;
  for (const auto& [name, dtype] : tensors)
    named.emplace_back(name, random_tensor({name == std::string("b")              ? 3
                                            : size_of(dtype) == 2 && name[1] == 0 ? 2
                                                                                  : 1},
                                           dtype, 5));
  write_safetensors(folder / "a", named, {{"format", "pt"}, {"a", "z"}});
  // The header that safetensors 0.8.0 writes for these names, types and shapes.
  const std::string expected =
      R"({"__metadata__":{"a":"z","format":"pt"},"u64":{"dtype":"U64","shape":[1],"data_offsets":[0,8]},)"
      R"("i":{"dtype":"I64","shape":[1],"data_offsets":[8,16]},"d":{"dtype":"F64","shape":[1],"data_offsets":[16,24]},)"
      R"("f":{"dtype":"F32","shape":[1],"data_offsets":[24,28]},"u32":{"dtype":"U32","shape":[1],"data_offsets":[28,32]},)"
      R"("k":{"dtype":"I32","shape":[1],"data_offsets":[32,36]},"a":{"dtype":"BF16","shape":[2],"data_offsets":[36,40]},)"
      R"("h":{"dtype":"F16","shape":[2],"data_offsets":[40,44]},"u16":{"dtype":"U16","shape":[1],"data_offsets":[44,46]},)"
      R"("i16":{"dtype":"I16","shape":[1],"data_offsets":[46,48]},"e4":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[48,49]},)"
      R"("e5":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[49,50]},"i8":{"dtype":"I8","shape":[1],"data_offsets":[50,51]},)"
      R"("u":{"dtype":"U8","shape":[1],"data_offsets":[51,52]},"b":{"dtype":"BOOL","shape":[3],"data_offsets":[52,55]}})"
      "       ";
  const std::string content = slurp(folder / "a");
  EXPECT_EQ(content.substr(8, expected.size()), expected);
  EXPECT_EQ(content.size(), 8 + expected.size() + 55);
}

TEST(WriteSafetensors, StridedTensorLargerThanAChunk) {
  const ScratchFolder folder;
  const Tensor wide = random_tensor({3, 1'500'001}, DType::float32, 1).transpose(0, 1);
  const Tensor deep = random_tensor({1'500'001, 2}, DType::float32, 2).transpose(0, 1);  // rows beyond a chunk
  write_safetensors(folder / "a", NamedTensors{{"wide", wide}, {"deep", deep}});
  const auto file = SafetensorsFile::open(folder / "a");
  EXPECT_TRUE(bytes_of(file.tensor("wide")) == bytes_of(wide));
  EXPECT_TRUE(bytes_of(file.tensor("deep")) == bytes_of(deep));
}

TEST(WriteSafetensors, AsksForOneTensorAtATime) {
  const ScratchFolder folder;
  test::CountedSources counted(5);
  write_safetensors(folder / "a", counted.sources);
  EXPECT_EQ(counted.made, 5);
  EXPECT_EQ(counted.most, 1);
  EXPECT_EQ(SafetensorsFile::open(folder / "a").tensor("t3").to_vector<uint8_t>(), std::vector<uint8_t>(1000, 3));
}

TEST(WriteSafetensors, RefusesBadNamesAndBrokenPromises) {
  const ScratchFolder folder;
  const Tensor tensor = random_tensor({2}, DType::float32, 1);
  const auto write = [&](const NamedTensors& tensors) { write_safetensors(folder / "a", tensors); };
  expect_error(ErrorCode::invalid_argument, {"'t'", "twice"}, [&] { write({{"t", tensor}, {"t", tensor}}); });
  expect_error(ErrorCode::invalid_argument, {"'__metadata__'"}, [&] { write({{"__metadata__", tensor}}); });
  expect_error(ErrorCode::invalid_argument, {"not UTF-8"}, [&] { write({{"\xff", tensor}}); });
  const std::vector<TensorSource> liar = {{"t", DType::float32, {3}, [&] { return tensor; }}};
  expect_error(ErrorCode::internal, {"'t'", "found float32 [2]", "expected float32 [3]"},
               [&] { write_safetensors(folder / "a", liar); });
  EXPECT_TRUE(folder.names().empty());
}

TEST(WriteSafetensors, NothingAtAll) {
  const ScratchFolder folder;
  write_safetensors(folder / "a", NamedTensors{});
  EXPECT_TRUE(SafetensorsFile::open(folder / "a").names().empty());
}

class Sharded : public testing::Test {
 protected:
  Sharded() {
    for (int i = 0; i < 5; ++i)
      tensors_.push_back(TensorSource::of(
          "layer." + std::to_string(i), random_tensor({i == 3 ? 100 : 25}, DType::float32, static_cast<uint64_t>(i))));
  }
  void write(size_t max_bytes, const std::string& variant = "") {
    write_safetensors_sharded(folder_.path(), "w", variant, tensors_, max_bytes);
  }
  void expect_readable(const std::string& variant = "") {
    const auto set = SafetensorsSet::open(folder_.path(), "w", variant);
    EXPECT_EQ(set.names().size(), tensors_.size());
    EXPECT_EQ(set.metadata(), (SafetensorsMetadata{{"format", "pt"}}));
    for (const TensorSource& tensor : tensors_)
      EXPECT_EQ(bytes_of(set.tensor(tensor.name)), bytes_of(tensor.produce()));
  }
  ScratchFolder folder_;
  std::vector<TensorSource> tensors_;
};

TEST_F(Sharded, OneFileWhenItFits) {
  write(800);
  EXPECT_EQ(folder_.names(), std::vector<std::string>{"w.safetensors"});
  expect_readable();
  write(800, "bf16");
  EXPECT_EQ(folder_.names(), (std::vector<std::string>{"w.bf16.safetensors", "w.safetensors"}));
}

TEST_F(Sharded, SplitsAsDiffusersDoesAndWritesTheIndex) {
  write(200);  // 100 + 100 | 400 alone | 100 + 100; the large one comes first of those that follow it
  expect_readable();
  EXPECT_EQ(folder_.names(), (std::vector<std::string>{"w-00001-of-00003.safetensors", "w-00002-of-00003.safetensors",
                                                       "w-00003-of-00003.safetensors", "w.safetensors.index.json"}));
  EXPECT_EQ(slurp(folder_ / "w.safetensors.index.json"), R"({
  "metadata": {
    "total_size": 800
  },
  "weight_map": {
    "layer.0": "w-00001-of-00003.safetensors",
    "layer.1": "w-00001-of-00003.safetensors",
    "layer.2": "w-00003-of-00003.safetensors",
    "layer.3": "w-00002-of-00003.safetensors",
    "layer.4": "w-00003-of-00003.safetensors"
  }
}
)");
}

TEST_F(Sharded, NamesVariantsAsDiffusersDoes) {
  write(200, "bf16");
  expect_readable("bf16");
  EXPECT_EQ(folder_.names(),
            (std::vector<std::string>{"w.bf16-00001-of-00003.safetensors", "w.bf16-00002-of-00003.safetensors",
                                      "w.bf16-00003-of-00003.safetensors", "w.safetensors.index.bf16.json"}));
}

TEST_F(Sharded, RemovesWhatAnEarlierSaveLeft) {
  spit(folder_ / "config.json", "{}");
  write(100, "bf16");
  write(100);
  write(200);
  expect_readable();
  write(800);
  expect_readable();
  expect_readable("bf16");
  const auto names = folder_.names();
  EXPECT_EQ(names.size(), 8u);  // five shards and the index of bf16, the single file, the config
  EXPECT_TRUE(std::find(names.begin(), names.end(), "config.json") != names.end());
  write(100);
  expect_readable();
  EXPECT_FALSE(std::filesystem::exists(folder_ / "w.safetensors"));
}

// Older versions of diffusers put the variant elsewhere. Left behind, that index would name shards that are gone.
TEST_F(Sharded, RemovesTheIndexOfOlderVersionsToo) {
  write(200, "bf16");
  std::filesystem::rename(folder_ / "w.safetensors.index.bf16.json", folder_ / "w.safetensors.bf16.index.json");
  expect_readable("bf16");
  write(800, "bf16");
  EXPECT_EQ(folder_.names(), std::vector<std::string>{"w.bf16.safetensors"});
  expect_readable("bf16");
}

TEST_F(Sharded, FailureLeavesTheOldWeightsWhole) {
  write(800);
  const std::string before = slurp(folder_ / "w.safetensors");
  int calls = 0;
  auto failing = tensors_;
  for (TensorSource& tensor : failing)
    tensor.produce = [&calls, produce = tensor.produce] {
      if (++calls == 4) throw Error({.code = ErrorCode::cancelled, .what = "stop"});
      return produce();
    };
  expect_error(ErrorCode::cancelled, {"stop"},
               [&] { write_safetensors_sharded(folder_.path(), "w", "", failing, 200); });
  EXPECT_EQ(folder_.names(), std::vector<std::string>{"w.safetensors"});
  EXPECT_EQ(slurp(folder_ / "w.safetensors"), before);
}

}  // namespace
}  // namespace raedit
