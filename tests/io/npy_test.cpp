// .npy and .npz, read back by a small reader that follows the formats' descriptions and shares nothing with the writer.
#include "io/npy.h"

#include <map>

#include "io_test_util.h"
#include "zip_bytes.h"

namespace raedit {
namespace {

using test::bytes_of;
using test::expect_error;
using test::field;
using test::parse_zip;
using test::random_tensor;
using test::ScratchFolder;
using test::slurp;
using test::ZipRecord;

struct Npy {
  std::string dict;
  std::string data;
};

Npy parse_npy(const std::string& bytes) {
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  const size_t length = static_cast<uint8_t>(bytes.at(8)) | static_cast<size_t>(static_cast<uint8_t>(bytes.at(9))) << 8;
  EXPECT_EQ((10 + length) % 64, 0u);
  EXPECT_EQ(bytes.at(9 + length), '\n');
  const std::string header = bytes.substr(10, length);
  return {header.substr(0, header.find_last_not_of(" \n") + 1), bytes.substr(10 + length)};
}

// Name -> content.
std::map<std::string, std::string> files_of(const std::string& zip) {
  std::map<std::string, std::string> files;
  for (const ZipRecord& record : parse_zip(zip)) files[record.name] = record.content;
  return files;
}

TEST(WriteNpy, DescribesShapeAndType) {
  const ScratchFolder folder;
  const std::vector<std::pair<Shape, std::string>> shapes = {
      {{}, "()"}, {{3}, "(3,)"}, {{2, 3}, "(2, 3)"}, {{0, 4}, "(0, 4)"}, {{1, 2, 3, 4}, "(1, 2, 3, 4)"}};
  for (const auto& [shape, text] : shapes) {
    const Tensor tensor = random_tensor(shape, DType::float32, 1);
    write_npy(folder / "a.npy", tensor);
    const Npy npy = parse_npy(slurp(folder / "a.npy"));
    EXPECT_EQ(npy.dict, "{'descr': '<f4', 'fortran_order': False, 'shape': " + text + ", }");
    EXPECT_EQ(npy.data, bytes_of(tensor));
  }
}

TEST(WriteNpy, NamesEveryTypeAndWidensThoseThatNumpyLacks) {
  const ScratchFolder folder;
  const std::vector<std::pair<DType, std::string>> types = {
      {DType::float64, "<f8"},  {DType::float32, "<f4"},       {DType::float16, "<f2"},    {DType::int64, "<i8"},
      {DType::int32, "<i4"},    {DType::int16, "<i2"},         {DType::int8, "|i1"},       {DType::uint64, "<u8"},
      {DType::uint32, "<u4"},   {DType::uint16, "<u2"},        {DType::uint8, "|u1"},      {DType::bool8, "|b1"},
      {DType::bfloat16, "<f4"}, {DType::float8_e4m3fn, "<f4"}, {DType::float8_e5m2, "<f4"}};
  for (const auto& [dtype, code] : types) {
    const Tensor tensor = random_tensor({4, 5}, dtype, 3).transpose(0, 1);
    write_npy(folder / "a.npy", tensor);
    const Npy npy = parse_npy(slurp(folder / "a.npy"));
    EXPECT_NE(npy.dict.find("'" + code + "'"), npy.dict.npos) << npy.dict;
    EXPECT_NE(npy.dict.find("(5, 4)"), npy.dict.npos);
    const bool widened = code == "<f4";
    EXPECT_EQ(npy.data, bytes_of(widened ? tensor.to(DType::float32) : tensor)) << name_of(dtype);
  }
}

TEST(WriteNpz, HoldsEveryArray) {
  const ScratchFolder folder;
  const NamedTensors tensors = {{"b", random_tensor({3, 4}, DType::uint8, 1)},
                                {"a/nested \xc3\xa4", random_tensor({2, 5}, DType::float32, 2).transpose(0, 1)},
                                {"empty", random_tensor({0}, DType::int64, 3)}};
  write_npz(folder / "a.npz", tensors);
  write_npz(folder / "b.npz", tensors);
  EXPECT_EQ(slurp(folder / "a.npz"), slurp(folder / "b.npz"));
  const auto files = files_of(slurp(folder / "a.npz"));
  ASSERT_EQ(files.size(), 3u);
  for (const auto& [name, tensor] : tensors)
    EXPECT_EQ(parse_npy(files.at(name + ".npy")).data, bytes_of(tensor)) << name;
  write_npz(folder / "none.npz", {});
  EXPECT_TRUE(files_of(slurp(folder / "none.npz")).empty());
}

TEST(NpzWriter, WritesZip64WhereSizesOrOffsetsNeedIt) {
  const ScratchFolder folder;
  const Tensor small = random_tensor({10}, DType::uint8, 1), large = random_tensor({5000}, DType::uint8, 2);
  // From 1000 bytes on: `first` needs nothing, `large` its size, `last` its offset, `both` both.
  NpzWriter writer(folder / "a.npz", 1000);
  writer.add("first", small);
  writer.add("large", large);
  writer.add("last", small);
  writer.add("both", large);
  EXPECT_TRUE(!std::filesystem::exists(folder / "a.npz"));
  writer.commit();
  const std::string bytes = slurp(folder / "a.npz");
  EXPECT_EQ(field(bytes, bytes.size() - 6, 4), 0xffffffffu);
  const auto files = files_of(bytes);
  ASSERT_EQ(files.size(), 4u);
  for (const char* name : {"first.npy", "last.npy"}) EXPECT_EQ(parse_npy(files.at(name)).data, bytes_of(small));
  for (const char* name : {"large.npy", "both.npy"}) EXPECT_EQ(parse_npy(files.at(name)).data, bytes_of(large));
}

TEST(NpzWriter, RefusesBadNamesAndLeavesNothing) {
  const ScratchFolder folder;
  const Tensor tensor = random_tensor({2}, DType::float32, 1);
  for (const NamedTensors& tensors : {NamedTensors{{"", tensor}}, NamedTensors{{"a", tensor}, {"a", tensor}},
                                      NamedTensors{{std::string("a\0b", 3), tensor}}})
    expect_error(ErrorCode::invalid_argument, {folder / "a.npz", "array name"},
                 [&] { write_npz(folder / "a.npz", tensors); });
  EXPECT_TRUE(folder.names().empty());
  expect_error(ErrorCode::io, {"No space left"}, [&] { write_npz("/dev/full", {{"a", tensor}}); });
  expect_error(ErrorCode::io, {"No space left"}, [&] { write_npy("/dev/full", tensor); });
}

}  // namespace
}  // namespace raedit
