// Reading: what is right is given as it lies, and whatever is wrong has its own message.
#include "io/safetensors.h"

#include "io_test_util.h"

namespace raedit {
namespace {

using test::expect_error;
using test::ScratchFolder;
using test::spit;

std::string le64(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

std::string file_of(const std::string& header, const std::string& data = "") {
  return le64(header.size()) + header + data;
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

struct Hostile {
  const char* name;
  std::string content;
  ErrorCode code;
  std::vector<std::string> parts;
};

void PrintTo(const Hostile& hostile, std::ostream* out) {
  *out << hostile.name;
}

std::vector<Hostile> hostile_files() {
  const std::string a = R"({"a":)", good = entry("F32", "[2]", "[0,8]"), eight(8, 'x');
  const auto format = ErrorCode::format;
  const auto one = [&](const char* name, const std::string& tensor, std::vector<std::string> parts,
                       ErrorCode code = ErrorCode::format) {
    return Hostile{name, file_of(a + tensor + "}", std::string(8, 'x')), code, std::move(parts)};
  };
  return {
      {"Empty", "", format, {"too short", "found 0 bytes", "at least 8 bytes"}},
      {"SevenBytes", "1234567", format, {"too short", "found 7 bytes"}},
      {"HugeHeader", le64(100'000'001) + "{}", format, {"header is too long", "found 100000001 bytes"}},
      {"HeaderLengthAllOnes", std::string(8, '\xff') + "{}", format, {"header is too long", "18446744073709551615"}},
      {"HeaderBeyondFile", le64(100) + "{}", format, {"ends inside the safetensors header", "10 bytes", "108 bytes"}},
      {"LfsPointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", format, {"Git LFS pointer"}},
      {"PyTorchArchive", std::string("PK\x03\x04\0\0\0\0", 8) + std::string(100, 'z'), format, {"PyTorch archive"}},
      {"NoHeader", le64(0), format, {"does not begin with '{'", "found nothing"}},
      {"SpaceFirst", file_of(" {}"), format, {"does not begin with '{'", "0x20"}},
      {"NotJson", file_of("{\"a\":"), format, {"header", "not valid JSON at byte"}},
      {"TextAfterJson", file_of("{}x"), format, {"not valid JSON"}},
      {"NotUtf8", file_of("{\"\xc3\x28\":1}"), format, {"not valid JSON"}},
      {"TooDeep", file_of("{\"a\":" + std::string(100'000, '[')), format, {"nested too deeply"}},
      {"DuplicateTensor", file_of(a + good + ",\"a\":" + good + "}", eight), format, {"key twice", "'a'"}},
      {"DuplicateKey",
       file_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", eight),
       format,
       {"key twice", "'dtype'"}},
      {"MetadataNotObject", file_of(R"({"__metadata__":[]})"), format, {"__metadata__", "found array"}},
      {"MetadataNotString", file_of(R"({"__metadata__":{"k":1}})"), format, {"__metadata__ 'k'", "found number"}},
      one("EntryNotObject", "3", {"tensor 'a'", "not an object", "found number"}),
      one("UnknownKey", R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"stride":[1]})",
          {"unknown key", "'stride'"}),
      one("NoDtype", R"({"shape":[2],"data_offsets":[0,8]})", {"tensor 'a' lacks a key", "no dtype"}),
      one("NoShape", R"({"dtype":"F32","data_offsets":[0,8]})", {"no shape"}),
      one("NoOffsets", R"({"dtype":"F32","shape":[2]})", {"no data_offsets"}),
      one("DtypeNotString", R"({"dtype":32,"shape":[2],"data_offsets":[0,8]})", {"dtype that is not a string"}),
      one("UnknownDtype", entry("F4", "[16]", "[0,8]"), {"tensor 'a'", "found 'F4'", "BOOL"}, ErrorCode::unsupported),
      one("LowerCaseDtype", entry("f32", "[2]", "[0,8]"), {"'f32'"}, ErrorCode::unsupported),
      one("ShapeNotList", entry("F32", "2", "[0,8]"), {"shape that is not a list"}),
      one("NegativeDim", entry("F32", "[-2]", "[0,8]"), {"bad dimension", "-2"}),
      one("FractionalDim", entry("F32", "[2.0]", "[0,8]"), {"bad dimension", "2.0"}),
      one("StringDim", entry("F32", "[\"2\"]", "[0,8]"), {"bad dimension"}),
      one("DimBeyondInt64", entry("U8", "[9223372036854775808]", "[0,8]"), {"bad dimension"}),
      one("DimBeyondUint64", entry("U8", "[18446744073709551616]", "[0,8]"), {"bad dimension"}),
      one("RankNine", entry("U8", "[1,1,1,1,1,1,1,1,8]", "[0,8]"), {"too many dimensions", "found 9", "at most 8"},
          ErrorCode::unsupported),
      one("ProductOverflows", entry("F32", "[4294967296,4294967296]", "[0,8]"), {"overflows"}),
      // 2^62 * 4 wraps to 0, which would match an empty range.
      one("ProductWrapsToZero", entry("F32", "[4611686018427387904]", "[0,0]"), {"overflows"}),
      one("OverflowBehindZero", entry("U8", "[0,4294967296,4294967296]", "[0,0]"), {"overflows"}),
      one("OffsetsNotList", entry("F32", "[2]", "8"), {"bad data_offsets"}),
      one("OneOffset", entry("F32", "[2]", "[0]"), {"bad data_offsets"}),
      one("ThreeOffsets", entry("F32", "[2]", "[0,8,8]"), {"bad data_offsets"}),
      one("NegativeOffset", entry("F32", "[2]", "[-8,0]"), {"bad data_offsets"}),
      one("OffsetsBackwards", entry("F32", "[2]", "[8,0]"), {"end before they begin", "[8,0]"}),
      one("TooFewBytes", entry("F32", "[3]", "[0,8]"), {"tensor 'a'", "found 8 bytes", "12 bytes for F32 [3]"}),
      one("TooManyBytes", entry("F16", "[3]", "[0,8]"), {"found 8 bytes", "6 bytes for F16 [3]"}),
      one("GapAtBegin", entry("F32", "[1]", "[4,8]"), {"gap before tensor 'a'", "begins at 4", "expected 0"}),
      {"GapBetween",
       file_of(a + entry("U8", "[2]", "[0,2]") + ",\"b\":" + entry("U8", "[2]", "[3,5]") + "}", "12345"),
       format,
       {"gap before tensor 'b'", "begins at 3", "expected 2"}},
      {"Overlap",
       file_of(a + entry("U8", "[4]", "[0,4]") + ",\"b\":" + entry("U8", "[2]", "[3,5]") + "}", "12345"),
       format,
       {"'a' and 'b' overlap", "begins at 3", "expected 4"}},
      {"SameBytesTwice", file_of(a + good + ",\"b\":" + good + "}", eight), format, {"overlap"}},
      {"Truncated", file_of(a + good + "}", "1234567"), format, {"truncated", "found 69 bytes", "expected 70 bytes"}},
      {"TrailingBytes",
       file_of(a + good + "}", "123456789"),
       format,
       {"bytes after the last tensor", "found 71 bytes", "expected 70 bytes"}},
      {"OnlyTrailing", file_of("{}", "1"), format, {"bytes after the last tensor"}},
      {"OffsetsNearMax",
       file_of(a + entry("U8", "[8]", "[18446744073709551607,18446744073709551615]") + "}", eight),
       format,
       {"gap before tensor 'a'"}},
      {"ControlCharacterInName", file_of("{\"\\u001b[2J\":3}"), format, {"'\\x1b[2J'"}},
  };
}

class HostileSafetensors : public testing::TestWithParam<Hostile> {};

TEST_P(HostileSafetensors, IsRefusedWithItsOwnMessage) {
  const ScratchFolder folder;
  const std::string path = folder / "model.safetensors";
  spit(path, GetParam().content);
  std::vector<std::string> parts = GetParam().parts;
  parts.push_back(path);
  expect_error(GetParam().code, parts, [&] { SafetensorsFile::open(path); });
}

INSTANTIATE_TEST_SUITE_P(Files, HostileSafetensors, testing::ValuesIn(hostile_files()),
                         [](const auto& info) { return info.param.name; });

// Every prefix of a good file and every flipped header bit: an Error or a file, never a crash.
TEST(SafetensorsFile, SurvivesEveryPrefixAndEveryFlippedBit) {
  const ScratchFolder folder;
  const std::string path = folder / "a";
  const std::string good = file_of(R"({"__metadata__":{"k":"v"},"a":)" + entry("F32", "[2]", "[0,8]") +
                                       ",\"b\":" + entry("U8", "[1,3]", "[8,11]") + "}",
                                   "12345678abc");
  spit(path, good);
  EXPECT_EQ(SafetensorsFile::open(path).names().size(), 2u);
  for (size_t length = 0; length < good.size(); ++length) {
    spit(path, good.substr(0, length));
    EXPECT_THROW(SafetensorsFile::open(path), Error) << length;
  }
  size_t refused = 0;
  for (size_t bit = 0; bit < (good.size() - 11) * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    spit(path, bad);
    try {
      const auto file = SafetensorsFile::open(path);
      for (const std::string& name : file.names())
        EXPECT_EQ(test::bytes_of(file.tensor(name)).size(), file.info(name).nbytes);
    } catch (const Error& error) {
      ++refused;
      EXPECT_TRUE(error.code() == ErrorCode::format || error.code() == ErrorCode::unsupported) << error.what();
    }
  }
  EXPECT_GT(refused, 500u);
}

TEST(SafetensorsFile, GivesNamesInfoAndNumbers) {
  const ScratchFolder folder;
  // The header's order and the data's differ; padding after the JSON is allowed.
  const std::string header = R"({"z":)" + entry("I16", "[2]", "[8,12]") +
                             R"(,"__metadata__":{"format":"pt"},"scalar":)" + entry("F32", "[]", "[4,8]") +
                             ",\"a\":" + entry("U8", "[2,2]", "[0,4]") + ",\"none\":" + entry("F64", "[3,0]", "[4,4]") +
                             "}";
  const std::string padded = header + std::string(8 - header.size() % 8, ' ');
  const float value = 1.5f;
  spit(folder / "a", file_of(padded, "\x01\x02\x03\xff" + std::string(reinterpret_cast<const char*>(&value), 4) +
                                         std::string("\x01\x02\xff\xff")));
  const auto file = SafetensorsFile::open(folder / "a");
  EXPECT_EQ(file.names(), (std::vector<std::string>{"a", "none", "scalar", "z"}));
  EXPECT_EQ(file.metadata(), (SafetensorsMetadata{{"format", "pt"}}));
  EXPECT_TRUE(file.contains("z"));
  EXPECT_FALSE(file.contains("__metadata__"));
  EXPECT_EQ(file.info("a").offset, 8 + padded.size());
  EXPECT_EQ(file.info("none").shape, (Shape{3, 0}));
  EXPECT_EQ(file.tensor("none").numel(), 0);
  EXPECT_EQ(file.tensor("a").to_vector<uint8_t>(), (std::vector<uint8_t>{1, 2, 3, 255}));
  EXPECT_EQ(file.tensor("scalar").item(), 1.5);
  EXPECT_EQ(file.tensor("z").to_vector<int16_t>(), (std::vector<int16_t>{0x201, -1}));
  expect_error(ErrorCode::not_found, {folder / "a", "no tensor 'scalr'", "did you mean 'scalar'"},
               [&] { file.tensor("scalr"); });
}

TEST(SafetensorsFile, LendsItsPagesAndCopiesOnlyTheMisaligned) {
  const ScratchFolder folder;
  std::string header = R"({"a":)" + entry("F32", "[2]", "[0,8]") + "}";
  for (const size_t misalignment : {0u, 1u, 2u}) {
    header.resize(header.size() + (8 + misalignment - header.size() % 8) % 8, ' ');
    const float values[2] = {0.1f, -3e38f};
    spit(folder / "a", file_of(header, std::string(reinterpret_cast<const char*>(values), 8)));
    Tensor tensor;
    {
      const auto file = SafetensorsFile::open(folder / "a");
      tensor = file.tensor("a");
      EXPECT_EQ(tensor.storage()->read_only(), misalignment == 0);
      EXPECT_EQ(tensor.storage() == file.tensor("a").storage(), misalignment == 0);
      file.drop_pages("a");
    }
    std::filesystem::remove(folder / "a");  // the view keeps the mapping, and the mapping the file
    EXPECT_EQ(tensor.to_vector<float>(), (std::vector<float>{0.1f, -3e38f}));
  }
}

TEST(SafetensorsFile, MissingFileSaysSo) {
  expect_error(ErrorCode::not_found, {"/nowhere/a.safetensors", "No such file"},
               [] { SafetensorsFile::open("/nowhere/a.safetensors"); });
}

std::string one_tensor(const std::string& name) {
  return file_of("{\"" + name + "\":" + entry("U8", "[1]", "[0,1]") + "}", "x");
}

TEST(SafetensorsSet, FindsTheVariantAskedFor) {
  const ScratchFolder folder;
  spit(folder / "w.safetensors", one_tensor("plain"));
  spit(folder / "w.fp16.safetensors", one_tensor("half"));
  EXPECT_EQ(SafetensorsSet::open(folder.path(), "w").names(), std::vector<std::string>{"plain"});
  EXPECT_EQ(SafetensorsSet::open(folder.path(), "w", "fp16").names(), std::vector<std::string>{"half"});
  expect_error(ErrorCode::not_found, {folder.path(), "expected w.ema.safetensors", "variants here: none", "'fp16'"},
               [&] { SafetensorsSet::open(folder.path(), "w", "ema"); });
  expect_error(ErrorCode::invalid_argument, {"../x"}, [&] { SafetensorsSet::open(folder.path(), "w", "../x"); });
}

TEST(SafetensorsSet, SaysWhatIsThereInsteadOfWeights) {
  const ScratchFolder folder;
  const auto open = [&] { SafetensorsSet::open(folder.path()); };
  expect_error(ErrorCode::not_found, {"no weights", "an empty folder", "diffusion_pytorch_model.safetensors"}, open);
  spit(folder / "config.json", "{}");
  expect_error(ErrorCode::not_found, {"found config.json"}, open);
  spit(folder / "diffusion_pytorch_model.bin", "x");
  expect_error(ErrorCode::not_found, {"only PyTorch .bin weights"}, open);
  for (int i = 0; i < 20; ++i) spit(folder / std::string(static_cast<size_t>(i + 1), 'x'), "");
  expect_error(ErrorCode::not_found, {"and 10 more"}, open);
  expect_error(ErrorCode::not_found, {"/nowhere", "No such file"}, [] { SafetensorsSet::open("/nowhere"); });
}

class ShardedFolder : public testing::Test {
 protected:
  ShardedFolder() {
    spit(folder_ / "w-00001-of-00002.safetensors", one_tensor("a"));
    spit(folder_ / "w-00002-of-00002.safetensors", one_tensor("b"));
    index(R"({"a":"w-00001-of-00002.safetensors","b":"w-00002-of-00002.safetensors"})");
  }
  void index(const std::string& map) {
    spit(folder_ / "w.safetensors.index.json", R"({"metadata":{"total_size":2},"weight_map":)" + map + "}");
  }
  SafetensorsSet open(const std::string& variant = "") { return SafetensorsSet::open(folder_.path(), "w", variant); }
  ScratchFolder folder_;
};

TEST_F(ShardedFolder, IsOneSet) {
  spit(folder_ / "w.safetensors", one_tensor("single"));  // the index wins
  const auto set = open();
  EXPECT_EQ(set.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(set.shards().size(), 2u);
  EXPECT_EQ(set.file_of("b"), folder_ / "w-00002-of-00002.safetensors");
  EXPECT_EQ(set.path(), folder_ / "w.safetensors.index.json");
  EXPECT_EQ(set.tensor("b").to_vector<uint8_t>(), std::vector<uint8_t>{'x'});
  EXPECT_FALSE(set.contains("single"));
  expect_error(ErrorCode::not_found, {"no tensor 'c'", "index.json"}, [&] { set.tensor("c"); });
}

TEST_F(ShardedFolder, TakesBothNamesOfAnIndexWithVariant) {
  for (const char* name : {"w.safetensors.index.fp16.json", "w.safetensors.fp16.index.json"}) {
    const auto from = folder_ / "w.safetensors.index.json";
    std::filesystem::copy_file(from, folder_ / name);
    EXPECT_EQ(open("fp16").path(), folder_ / name);
    std::filesystem::remove(folder_ / name);
  }
  expect_error(ErrorCode::not_found, {"expected w.fp16.safetensors"}, [&] { open("fp16"); });
}

TEST_F(ShardedFolder, MissingShard) {
  std::filesystem::remove(folder_ / "w-00002-of-00002.safetensors");
  expect_error(ErrorCode::not_found, {"w-00002-of-00002.safetensors", "shard is missing", "2 files"}, [&] { open(); });
}

TEST_F(ShardedFolder, ShardsAndIndexMustAgree) {
  const std::string one = "w-00001-of-00002.safetensors", two = "w-00002-of-00002.safetensors";
  index(R"({"a":")" + one + R"(","b":")" + two + R"(","c":")" + two + "\"}");
  expect_error(ErrorCode::format, {two, "shard lacks tensor 'c'"}, [&] { open(); });
  index(R"({"a":")" + one + R"(","c":")" + two + "\"}");
  expect_error(ErrorCode::format, {two, "tensor 'b' is not in the index"}, [&] { open(); });
  index(R"({"a":")" + two + R"(","b":")" + one + "\"}");
  expect_error(ErrorCode::format, {"tensor 'a' is in another shard", "found " + one, "expected " + two},
               [&] { open(); });
}

TEST_F(ShardedFolder, BadIndex) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "weight_map of the index is wrong"},
      {"{}", "weight_map of the index is wrong"},
      {R"({"a":1})", "no file name for tensor 'a'"},
      {R"({"a":""})", "bad file name"},
      {R"({"a":".."})", "bad file name"},
      {R"({"a":"../w-00001-of-00002.safetensors"})", "bad file name"},
      {R"({"a":"/etc/passwd"})", "bad file name"},
      {R"({"a":"x\u0000.safetensors"})", "bad file name"},
      {R"({"a":"x.safetensors","a":"y.safetensors"})", "key twice"},
  };
  for (const auto& [map, part] : cases) {
    index(map);
    expect_error(ErrorCode::format, {"index.json", part}, [&] { open(); });
  }
  spit(folder_ / "w.safetensors.index.json", "{}");
  expect_error(ErrorCode::format, {"index has no weight_map"}, [&] { open(); });
  spit(folder_ / "w.safetensors.index.json", "{");
  expect_error(ErrorCode::format, {"not valid JSON"}, [&] { open(); });
}

}  // namespace
}  // namespace raedit
