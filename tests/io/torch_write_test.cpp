// write_torch: the zip as torch lays it out, the pickle byte for byte, and nothing half done.
#include "io/torch_write.h"

#include "counted_sources.h"
#include "io/torch_archive.h"
#include "io_test_util.h"
#include "zip_bytes.h"

namespace raedit {
namespace {

using test::bytes_of;
using test::expect_error;
using test::parse_zip;
using test::random_tensor;
using test::ScratchFolder;
using test::slurp;
using test::ZipRecord;

constexpr DType kAll[] = {DType::float64,     DType::float32, DType::float16, DType::bfloat16, DType::float8_e4m3fn,
                          DType::float8_e5m2, DType::int64,   DType::int32,   DType::int16,    DType::int8,
                          DType::uint64,      DType::uint32,  DType::uint16,  DType::uint8,    DType::bool8};

std::vector<TensorSource> sources_of(const NamedTensors& tensors) {
  std::vector<TensorSource> sources;
  for (const auto& [name, tensor] : tensors) sources.push_back(TensorSource::of(name, tensor));
  return sources;
}

NamedTensors every_dtype_and_shape() {
  NamedTensors tensors;
  for (const DType dtype : kAll) {
    const std::string name(name_of(dtype));
    const Tensor whole = random_tensor({3, 5, 7}, dtype, tensors.size());
    tensors.emplace_back(name, whole);
    tensors.emplace_back(name + ".transposed", whole.transpose(0, 2));
    tensors.emplace_back(name + ".slice", whole.slice(1, 1, 4).select(2, 3));
    tensors.emplace_back(name + ".expanded", random_tensor({1, 4}, dtype, 99).expand({3, 4}));
    tensors.emplace_back(name + ".scalar", random_tensor({}, dtype, 7));
    tensors.emplace_back(name + ".empty", random_tensor({2, 0, 3}, dtype, 8));
  }
  tensors.emplace_back("größe/\xe4\xb8\xad \"quoted\"\n", random_tensor({70'000}, DType::uint8, 9));
  return tensors;
}

// torch.load(mmap=True) of a file with .format_version can find the records by adding up lengths: the header of the
// next record follows the data and a checksum of 16 bytes (24 for zip64, none without data), padded to 64.
void expect_offsets_that_torch_computes(const std::vector<ZipRecord>& records, uint64_t zip64_from) {
  uint64_t cursor = 0;
  for (const ZipRecord& record : records) {
    const uint64_t bytes = record.content.size();
    EXPECT_EQ(record.header, cursor) << record.name;
    const bool wide = bytes >= zip64_from, far = cursor >= zip64_from;
    uint64_t data = cursor + 30 + record.name.size() + 4 + (wide || far ? 4 : 0) + (wide ? 16 : 0) + (far ? 8 : 0);
    while (data % 64 != 0) ++data;
    EXPECT_EQ(record.data, data) << record.name;
    EXPECT_EQ(record.zip64, wide || far) << record.name;
    cursor = data + bytes + (bytes == 0 ? 0 : wide || far ? 24 : 16);
    EXPECT_EQ(record.end, cursor) << record.name;
  }
}

TEST(WriteTorch, LaysOutTheRecordsAsTorchDoes) {
  const ScratchFolder folder;
  const NamedTensors tensors = every_dtype_and_shape();
  for (const uint64_t zip64_from : {uint64_t{ZipWriter::kZip64From}, uint64_t{20'000}, uint64_t{0}}) {
    write_torch(folder / "some model.v2.pt", sources_of(tensors), "", zip64_from);
    const auto records = parse_zip(slurp(folder / "some model.v2.pt"));
    expect_offsets_that_torch_computes(records, zip64_from);
    ASSERT_EQ(records.size(), tensors.size() + 6);
    std::vector<std::string> names = {"data.pkl", ".format_version", ".storage_alignment", "byteorder"};
    for (size_t i = 0; i < tensors.size(); ++i) names.push_back("data/" + std::to_string(i));
    names.insert(names.end(), {"version", ".data/serialization_id"});
    for (size_t i = 0; i < names.size(); ++i) EXPECT_EQ(records[i].name, "some model.v2/" + names[i]);
    EXPECT_EQ(records[1].content, "1");
    EXPECT_EQ(records[2].content, "64");
    EXPECT_EQ(records[3].content, "little");
    for (size_t i = 0; i < tensors.size(); ++i)
      EXPECT_TRUE(records[4 + i].content == bytes_of(tensors[i].second)) << tensors[i].first;
    EXPECT_EQ(records[names.size() - 2].content, "3\n");
    EXPECT_EQ(records.back().content.size(), 40u);
    EXPECT_EQ(records.back().content.find_first_not_of("0123456789"), std::string::npos);
  }
}

TEST(WriteTorch, IsReadBack) {
  const ScratchFolder folder;
  const NamedTensors tensors = every_dtype_and_shape();
  for (const uint64_t zip64_from : {uint64_t{ZipWriter::kZip64From}, uint64_t{20'000}, uint64_t{0}})
    for (const std::string key : {"", "model", "größe"}) {
      write_torch(folder / "a.pt", sources_of(tensors), key, zip64_from);
      const TorchArchive archive = TorchArchive::open(folder / "a.pt");
      EXPECT_EQ(archive.format(), "zip");
      EXPECT_EQ(archive.root().size(), key.empty() ? tensors.size() : 1u);
      const auto weights =
          state_dict_of(archive, key.empty() ? archive.root() : archive.root().find(key).value(), "a.pt");
      ASSERT_EQ(weights->names().size(), tensors.size());
      for (size_t i = 0; i < tensors.size(); ++i) {
        const auto& [name, tensor] = tensors[i];
        EXPECT_EQ(weights->names()[i], name);
        EXPECT_EQ(weights->info(name).dtype, tensor.dtype()) << name;
        EXPECT_EQ(weights->info(name).shape, tensor.shape()) << name;
        EXPECT_TRUE(bytes_of(weights->tensor(name)) == bytes_of(tensor)) << name;
      }
    }
}

TEST(WriteTorch, EqualContentIsEqualBytesAndTheFingerprintTellsOthersApart) {
  const ScratchFolder folder;
  const auto fingerprint = [&](const NamedTensors& tensors) {
    write_torch(folder / "a.pt", sources_of(tensors));
    return parse_zip(slurp(folder / "a.pt")).back().content;
  };
  const std::string first = fingerprint(every_dtype_and_shape()), bytes = slurp(folder / "a.pt");
  EXPECT_EQ(fingerprint(every_dtype_and_shape()), first);
  EXPECT_TRUE(slurp(folder / "a.pt") == bytes);
  NamedTensors other = every_dtype_and_shape();
  other.front().second = random_tensor({3, 5, 7}, DType::float64, 12345);
  EXPECT_NE(fingerprint(other), first);
}

// The folder inside the zip when the file's own name will not do; torch.save chooses the same.
TEST(WriteTorch, CallsTheFolderArchiveWhereTheNameIsNotAscii) {
  const ScratchFolder folder;
  for (const char* name : {"modèle.pt", "a\\b.pt", "a\nb.pt"}) {
    write_torch(folder / name, {});
    EXPECT_EQ(parse_zip(slurp(folder / name)).front().name, "archive/data.pkl");
  }
  write_torch(folder / "no_suffix", {});
  EXPECT_EQ(parse_zip(slurp(folder / "no_suffix")).front().name, "no_suffix/data.pkl");
}

std::string pickle_in(const std::string& path) {
  return parse_zip(slurp(path)).front().content;
}

std::string text(const std::string& bytes) {
  return std::string("X") + static_cast<char>(bytes.size()) + std::string(3, '\0') + bytes;
}

TEST(WriteTorch, PicklesWhatTorchPickles) {
  const ScratchFolder folder;
  write_torch(folder / "a.pt", sources_of({{"w", random_tensor({2, 300}, DType::float32, 1)},
                                           {"n", random_tensor({}, DType::int64, 2)},
                                           {"f8", random_tensor({0, 70'000}, DType::float8_e4m3fn, 3)}}));
  const std::string ordered_dict = "ccollections\nOrderedDict\n)R";
  const std::string storage = "((" + text("storage");
  const std::string expected =
      "\x80\x02" + ordered_dict + "(" +  //
      text("w") + "ctorch._utils\n_rebuild_tensor_v2\n" + storage + "ctorch\nFloatStorage\n" + text("0") + text("cpu") +
      std::string("J\x58\x02\0\0", 5) + "tQ" + std::string("K\0(K\x02J\x2c\x01\0\0t", 11) +
      std::string("(J\x2c\x01\0\0K\x01t", 9) + "\x89" + ordered_dict + "tR" +  //
      text("n") + "ctorch._utils\n_rebuild_tensor_v2\n" + storage + "ctorch\nLongStorage\n" + text("1") + text("cpu") +
      "K\x01tQ" + std::string("K\0(t(t", 6) + "\x89" + ordered_dict + "tR" +  //
      text("f8") + "ctorch._utils\n_rebuild_tensor_v3\n" + storage + "ctorch.storage\nUntypedStorage\n" + text("2") +
      text("cpu") + std::string("K\0tQ", 4) + std::string("K\0(K\0J\x70\x11\x01\0t", 11) +
      std::string("(J\x70\x11\x01\0K\x01t", 9) + "\x89" + ordered_dict + "ctorch\nfloat8_e4m3fn\ntR" + "u.";
  EXPECT_EQ(pickle_in(folder / "a.pt"), expected);
  write_torch(folder / "a.pt", {}, "model");
  EXPECT_EQ(pickle_in(folder / "a.pt"), "\x80\x02}" + text("model") + ordered_dict + "(us.");
}

// Sizes beyond 31 bits, which no test can hold: an expanded tensor without elements has them too.
TEST(WriteTorch, WritesLongIntegers) {
  const ScratchFolder folder;
  write_torch(folder / "a.pt", sources_of({{"w", Tensor::empty({int64_t{1} << 33, 0}, DType::uint8)}}));
  EXPECT_NE(pickle_in(folder / "a.pt").find(std::string("(\x8a\x08\0\0\0\0\x02\0\0\0K\0t", 14)), std::string::npos);
}

TEST(WriteTorch, AsksForEachTensorOnceAndForOneAtATime) {
  const ScratchFolder folder;
  test::CountedSources counted(5);
  write_torch(folder / "a.pt", counted.sources);
  EXPECT_EQ(counted.made, 5);
  EXPECT_EQ(counted.most, 1);
}

TEST(WriteTorch, StridedTensorLargerThanAChunk) {
  const ScratchFolder folder;
  const Tensor wide = random_tensor({3, 1'500'001}, DType::float32, 1).transpose(0, 1);
  write_torch(folder / "a.pt", sources_of({{"wide", wide}}));
  EXPECT_TRUE(parse_zip(slurp(folder / "a.pt"))[4].content == bytes_of(wide));
}

TEST(WriteTorch, RefusesBadNamesAndBrokenPromises) {
  const ScratchFolder folder;
  const std::string path = folder / "a.pt";
  const Tensor tensor = random_tensor({2}, DType::float32, 1);
  const auto write = [&](const NamedTensors& tensors) { write_torch(path, sources_of(tensors)); };
  expect_error(ErrorCode::invalid_argument, {path, "'t'", "twice"}, [&] { write({{"t", tensor}, {"t", tensor}}); });
  expect_error(ErrorCode::invalid_argument, {path, "not UTF-8"}, [&] { write({{"\xff", tensor}}); });
  expect_error(ErrorCode::invalid_argument, {path, "not UTF-8"}, [&] { write_torch(path, {}, "\xc3"); });
  const auto expect_refused = [&](DType dtype, const Shape& shape, const std::string& expected) {
    expect_error(ErrorCode::internal, {path, "'t'", "found float32 [2]", expected}, [&] {
      write_torch(path, {{"t", dtype, shape, [&] { return tensor; }}});
    });
  };
  expect_refused(DType::float32, {3}, "expected float32 [3]");
  expect_refused(DType::int32, {2}, "expected int32 [2]");
  EXPECT_TRUE(folder.names().empty());
}

TEST(WriteTorch, FailureLeavesTheOldFileWhole) {
  const ScratchFolder folder;
  const Tensor tensor = random_tensor({2000}, DType::float32, 1);
  write_torch(folder / "a.pt", sources_of({{"t", tensor}}));
  const std::string before = slurp(folder / "a.pt");
  std::vector<TensorSource> failing = sources_of({{"t", tensor}, {"u", tensor}});
  failing.back().produce = []() -> Tensor { throw Error({.code = ErrorCode::cancelled, .what = "stop"}); };
  expect_error(ErrorCode::cancelled, {"stop"}, [&] { write_torch(folder / "a.pt", failing); });
  EXPECT_EQ(folder.names(), std::vector<std::string>{"a.pt"});
  EXPECT_TRUE(slurp(folder / "a.pt") == before);
  expect_error(ErrorCode::io, {"No space left"}, [&] { write_torch("/dev/full", sources_of({{"t", tensor}})); });
  expect_error(ErrorCode::io, {folder / "none/a.pt", "does not exist"}, [&] { write_torch(folder / "none/a.pt", {}); });
  expect_error(ErrorCode::io, {folder.path(), "folder"}, [&] { write_torch(folder.path(), {}); });
}

}  // namespace
}  // namespace raedit
