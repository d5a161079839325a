// torch.save's files as torch wrote them (tests/io/data/torch, tools/make_torch_fixtures.py), and as a stranger might.
#include "io/torch_archive.h"

#include <gtest/gtest.h>
#include <zip.h>

#include <limits>

#include "io/io_test_util.h"
#include "io/safetensors.h"

namespace raedit::test {
namespace {

using namespace std::string_literals;

std::string fixture(const std::string& name) {
  return RAEDIT_SOURCE_DIR "/tests/io/data/torch/" + name;
}

std::shared_ptr<const WeightSet> root_of(const std::string& path) {
  const auto archive = TorchArchive::open(path);
  return state_dict_of(archive, archive.root(), path);
}

void expect_same(const WeightSet& found, const WeightSet& expected) {
  std::vector<std::string> names = found.names(), wanted = expected.names();
  std::sort(names.begin(), names.end());
  std::sort(wanted.begin(), wanted.end());
  ASSERT_EQ(names, wanted);
  for (const std::string& name : names) {
    const Tensor a = found.tensor(name), b = expected.tensor(name);
    EXPECT_EQ(a.dtype(), b.dtype()) << name;
    EXPECT_EQ(a.shape(), b.shape()) << name;
    EXPECT_EQ(found.info(name).dtype, b.dtype()) << name;
    EXPECT_EQ(found.info(name).shape, b.shape()) << name;
    EXPECT_EQ(found.info(name).nbytes, b.nbytes()) << name;
    EXPECT_EQ(bytes_of(a), bytes_of(b)) << name;
    found.drop_pages(name);
    EXPECT_EQ(bytes_of(found.tensor(name)), bytes_of(b)) << name;
  }
}

class Packings : public testing::TestWithParam<std::tuple<std::string, std::string, std::string>> {};

TEST_P(Packings, HoldTheSameBits) {
  const auto& [name, twin, format] = GetParam();
  EXPECT_TRUE(TorchArchive::looks_like_one(fixture(name)));
  EXPECT_EQ(TorchArchive::open(fixture(name)).format(), format);
  expect_same(*root_of(fixture(name)), SafetensorsSet(SafetensorsFile::open(fixture(twin))));
}

INSTANTIATE_TEST_SUITE_P(
    Torch, Packings,
    testing::Values(std::tuple{"dtypes_and_views.pt", "dtypes_and_views.safetensors", "zip"},
                    std::tuple{"views_protocol_1.pt", "dtypes_and_views.safetensors", "zip"},
                    std::tuple{"views_protocol_3.pt", "dtypes_and_views.safetensors", "zip"},
                    std::tuple{"views_protocol_4.pt", "dtypes_and_views.safetensors", "zip"},
                    std::tuple{"views_protocol_5.pt", "dtypes_and_views.safetensors", "zip"},
                    std::tuple{"views_deflated.pt", "dtypes_and_views.safetensors", "zip"},
                    std::tuple{"views_misaligned.pt", "dtypes_and_views.safetensors", "zip"},
                    std::tuple{"views_zip64.pt", "dtypes_and_views.safetensors", "zip"},
                    std::tuple{"views_legacy.pt", "dtypes_and_views.safetensors", "legacy"},
                    std::tuple{"views_legacy_protocol_4.pt", "dtypes_and_views.safetensors", "legacy"},
                    std::tuple{"wide.pt", "wide.safetensors", "zip"},
                    std::tuple{"wide_legacy.pt", "wide.safetensors", "legacy"}),
    [](const auto& info) { return std::get<0>(info.param).substr(0, std::get<0>(info.param).size() - 3); });

TEST(TorchArchive, ReadsATrainingCheckpoint) {
  for (const char* name : {"checkpoint.pt", "checkpoint_legacy.pt"}) {
    const auto archive = TorchArchive::open(fixture(name));
    const PickleValue& root = archive.root();
    const SafetensorsSet model(SafetensorsFile::open(fixture("checkpoint_model.safetensors")));
    expect_same(*state_dict_of(archive, *root.find("model"), "model"), model);
    const auto ema = state_dict_of(archive, *root.find("ema"), "ema");
    EXPECT_EQ(ema->names(), (std::vector<std::string>{"0.weight", "0.bias", "1.weight", "1.bias"}));
    EXPECT_EQ(bytes_of(ema->tensor("0.weight")), bytes_of(model.tensor("0.weight")));
    EXPECT_EQ(ema->file_of("0.bias"), fixture(name));
    EXPECT_EQ(archive.tensor(*root.find("attribute")).shape(), (Shape{2, 2}));
    EXPECT_EQ(root.find("epoch")->integer(), 12);
    EXPECT_EQ(root.find("negative")->integer(), -70000);
    EXPECT_EQ(root.find("large")->integer(), int64_t{1} << 40);
    EXPECT_EQ(root.find("huge")->kind(), PickleKind::other);
    EXPECT_EQ(root.find("rate")->real(), 1e-6);
    EXPECT_EQ(root.find("name")->string(), "gr\u00f6\u00dfe");
    EXPECT_FALSE(root.find("flags")->item(1).boolean());
    EXPECT_EQ(root.find("list")->item(1).item(1).string(), "three");
    EXPECT_EQ(root.find("set")->size(), 2u);
    EXPECT_EQ(root.find("frozen")->item(0).integer(), 6);
    EXPECT_EQ(root.find("raw")->kind(), PickleKind::bytes);
    EXPECT_EQ(root.find("none")->kind(), PickleKind::bytes);
    EXPECT_EQ(root.find("dtype")->kind(), PickleKind::dtype);
    EXPECT_EQ(root.find("size")->item(1).integer(), 3);
    EXPECT_EQ(root.find("device")->describe(), "a torch.device");
    EXPECT_EQ(root.key(root.size() - 1).integer(), 7);
  }
}

TEST(TorchArchive, StoredRecordsAreMappedAndShared) {
  const auto weights = root_of(fixture("dtypes_and_views.pt"));
  const Tensor a = weights->tensor("tied_a"), b = weights->tensor("tied_b");
  EXPECT_TRUE(a.storage()->read_only());
  EXPECT_EQ(a.storage(), b.storage());
  EXPECT_EQ(a.raw() + 4, b.raw());
  EXPECT_EQ(weights->info("tied_b").offset, weights->info("tied_a").offset + 4);
  const Tensor slice = weights->tensor("slice");
  EXPECT_EQ(slice.stride(0), 6);
  EXPECT_EQ(slice.stride(1), 2);
  EXPECT_EQ(slice.offset_bytes(), 24u);
  EXPECT_EQ(weights->info("slice").offset, 0u);
  EXPECT_FALSE(root_of(fixture("views_deflated.pt"))->tensor("f32").storage()->read_only());
  EXPECT_EQ(root_of(fixture("views_deflated.pt"))->info("f32").offset, 0u);
}

TEST(TorchArchive, OffsetsAreThoseOfTheFile) {
  for (const char* name : {"dtypes_and_views.pt", "views_misaligned.pt", "views_zip64.pt", "views_legacy.pt"}) {
    const auto weights = root_of(fixture(name));
    const std::string file = slurp(fixture(name));
    for (const std::string tensor : {"f32", "bf16", "tied_b", "u8"})
      EXPECT_EQ(file.substr(weights->info(tensor).offset, weights->info(tensor).nbytes),
                bytes_of(weights->tensor(tensor)))
          << name << " " << tensor;
  }
}

TEST(TorchArchive, TensorsOutliveArchiveAndFile) {
  const ScratchFolder folder;
  for (const char* name : {"dtypes_and_views.pt", "views_deflated.pt", "views_legacy.pt"}) {
    spit(folder / name, slurp(fixture(name)));
    const Tensor tensor = root_of(folder / name)->tensor("transposed");
    std::filesystem::remove(folder / name);
    const auto twin = SafetensorsFile::open(fixture("dtypes_and_views.safetensors"));
    EXPECT_EQ(bytes_of(tensor), bytes_of(twin.tensor("transposed")));
  }
}

TEST(TorchArchive, RefusesWhatIsNoPlainCheckpoint) {
  struct Case {
    std::string name;
    ErrorCode code;
    std::string part;
  };
  const std::vector<Case> cases = {
      {"hostile_plain.pkl", ErrorCode::unsupported, "global 'posix.system' is refused"},
      {"hostile_reduce.pt", ErrorCode::unsupported, "global 'posix.system' is refused"},
      {"truncated.pt", ErrorCode::format, "the zip directory at its end is missing; the file ends at byte 1350"},
      {"big_endian.pt", ErrorCode::unsupported, "not little-endian (found 'big')"},
      {"negative.pt", ErrorCode::unsupported, "resolve_neg()"},
      {"sparse.pt", ErrorCode::unsupported, "'torch._utils._rebuild_sparse_tensor'"},
      {"numpy_scalar.pt", ErrorCode::unsupported, "'numpy._core.multiarray.scalar'"},
      {"whole_module.pt", ErrorCode::unsupported, "'torch.nn.modules.container.Sequential'"},
      {"torchscript.pt", ErrorCode::unsupported, "TorchScript"},
  };
  for (const auto& [name, code, part] : cases)
    expect_error(code, {fixture(name), part}, [&, &name = name] { TorchArchive::open(fixture(name)); });
  for (const char* folder : {".", RAEDIT_SOURCE_DIR "/tests/io/data/torch"})
    EXPECT_FALSE(std::filesystem::exists(std::string(folder) + "/raedit_was_here"));
}

TEST(TorchArchive, ComplexNumbersAreNamedWhenAskedFor) {
  const auto archive = TorchArchive::open(fixture("complex.pt"));
  EXPECT_EQ(archive.tensor(*archive.root().find("x")).numel(), 2);
  expect_error(ErrorCode::unsupported, {"where.pt", "'z'", "a tensor of complex64"},
               [&] { state_dict_of(archive, archive.root(), "where.pt"); });
}

TEST(TorchArchive, OtherFilesSaySo) {
  const ScratchFolder folder;
  const auto refused = [&](const std::string& content, ErrorCode code, const std::string& part, bool looks = false) {
    spit(folder / "a.pt", content);
    EXPECT_EQ(TorchArchive::looks_like_one(folder / "a.pt"), looks) << part;
    expect_error(code, {folder / "a.pt", part}, [&] { TorchArchive::open(folder / "a.pt"); });
  };
  refused("", ErrorCode::format, "an empty file");
  refused("version https://git-lfs.github.com/spec/v1\n", ErrorCode::format, "git lfs pull");
  refused("<html>", ErrorCode::format, "neither a zip nor a pickle");
  refused(std::string(257, '\0') + "ustar" + std::string(300, '\0'), ErrorCode::unsupported, "tar", true);
  refused("\x80\2K\1."s, ErrorCode::format, "was not written by torch.save", true);
  refused("\x80\2\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.K\1."s, ErrorCode::format, "unknown protocol", true);
  // A header of 0x0280 bytes: safetensors that begins as a pickle does.
  refused("\x80\2\0\0\0\0\0\0{"s + std::string(0x27f, ' '), ErrorCode::format, "neither");
  expect_error(ErrorCode::not_found, {"/nowhere/a.pt"}, [] { TorchArchive::open("/nowhere/a.pt"); });
  expect_error(ErrorCode::not_found, {"/nowhere/a.pt"}, [] { TorchArchive::looks_like_one("/nowhere/a.pt"); });
}

TEST(TorchArchive, EveryTruncationNamesTheOffset) {
  const ScratchFolder folder;
  for (const char* name : {"views_legacy.pt", "dtypes_and_views.pt"}) {
    const std::string whole = slurp(fixture(name));
    for (size_t length = 8; length < whole.size(); length += 1 + length % 7) {
      std::filesystem::remove(folder / "a.pt");  // a new file need not reach the disk, an overwritten one does
      spit(folder / "a.pt", whole.substr(0, length));
      expect_error(ErrorCode::format, {"truncated", "byte " + std::to_string(length)},
                   [&] { TorchArchive::open(folder / "a.pt"); });
    }
  }
}

TEST(TorchArchive, DamagedNumbersAreFound) {
  const ScratchFolder folder;
  std::string stored = slurp(fixture("dtypes_and_views.pt"));
  stored[root_of(fixture("dtypes_and_views.pt"))->info("bf16").offset + 3] ^= 1;
  spit(folder / "a.pt", stored);
  const auto weights = root_of(folder / "a.pt");
  EXPECT_EQ(weights->tensor("f32").numel(), 24);
  for (int twice = 0; twice < 2; ++twice)
    expect_error(ErrorCode::format, {folder / "a.pt", "tensor 'bf16'", "data/2' at byte 2112 is damaged", "CRC"},
                 [&] { weights->tensor("bf16"); });

  std::string packed = slurp(fixture("views_deflated.pt"));
  const size_t header = packed.find("data/3");
  packed[header + 6 + 40] ^= 1;
  spit(folder / "b.pt", packed);
  expect_error(ErrorCode::format, {folder / "b.pt", "tensor 'f64'", "damaged"},
               [&] { root_of(folder / "b.pt")->tensor("f64"); });
}

// A legacy file around one pickled object.
struct Stored {
  std::string key;
  uint64_t numel;
  std::string bytes;
};

std::string text(const std::string& value) {
  return "X"s + static_cast<char>(value.size()) + "\0\0\0"s + value;
}

std::string little(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i));
  return bytes;
}

std::string legacy(const std::string& object, const std::vector<Stored>& records) {
  std::string file = "\x80\2\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.\x80\2M\xe9\3.\x80\2}.\x80\2"s + object + ".\x80\2](";
  for (const Stored& record : records) file += text(record.key);
  file += "e.";
  for (const Stored& record : records) file += little(record.numel) + record.bytes;
  return file;
}

std::string tuple(const std::vector<int64_t>& values) {
  std::string pickle = "(";
  for (const int64_t value : values) pickle.append("I").append(std::to_string(value)).append("\n");
  return pickle + "t";
}

// {'w': tensor}, of a float32 storage 'k' unless told otherwise.
std::string one_tensor(int64_t numel, int64_t offset, const std::vector<int64_t>& size,
                       const std::vector<int64_t>& stride, const std::string& view = "N",
                       const std::string& type = "FloatStorage") {
  return "}" + text("w") + "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\n" + type + "\n" +
         text("k") + text("cpu") + "I" + std::to_string(numel) + "\n" + view + "tQI" + std::to_string(offset) + "\n" +
         tuple(size) + tuple(stride) + "\x89NtRs";
}

std::string floats(int count) {
  std::string bytes;
  for (int i = 0; i < count; ++i) {
    const auto value = static_cast<float>(i) + 0.25f;
    bytes.append(reinterpret_cast<const char*>(&value), 4);
  }
  return bytes;
}

TEST(TorchArchive, ViewsMustFitTheirStorage) {
  constexpr int64_t kMany = int64_t{1} << 40, kMost = std::numeric_limits<int64_t>::max();
  const ScratchFolder folder;
  const auto read = [&](const std::string& object) {
    spit(folder / "a.pt", legacy(object, {{"k", 6, floats(6)}}));
    return root_of(folder / "a.pt")->tensor("w").contiguous().to_vector<float>();
  };
  EXPECT_EQ(read(one_tensor(6, 1, {2, 2}, {3, 1})), (std::vector<float>{1.25f, 2.25f, 4.25f, 5.25f}));
  EXPECT_EQ(read(one_tensor(6, 5, {3}, {0})), (std::vector<float>{5.25f, 5.25f, 5.25f}));
  EXPECT_EQ(read(one_tensor(6, 0, {}, {})), (std::vector<float>{0.25f}));
  EXPECT_EQ(read(one_tensor(6, 7, {0, 4}, {4, 1})), (std::vector<float>{}));
  // A view of the storage, as the legacy format writes them: key, first element, how many.
  const std::string view = text("v") + "K\2K\3\x87";
  EXPECT_EQ(read(one_tensor(6, 1, {2}, {1}, view)), (std::vector<float>{3.25f, 4.25f}));

  const std::vector<std::pair<std::string, std::string>> cases = {
      {one_tensor(6, 0, {7}, {1}), "tensor 'w': a tensor [7] reaches beyond its storage 'k'"},
      {one_tensor(6, 5, {2}, {1}), "reaches beyond"},
      {one_tensor(6, 6, {}, {}), "reaches beyond"},
      {one_tensor(6, 0, {2, 2}, {4, 2}), "reaches beyond"},
      {one_tensor(6, 0, {2}, {kMany}), "reaches beyond"},
      {one_tensor(6, 0, {3}, {kMost}), "overflows"},
      {one_tensor(6, kMost, {2}, {1}), "overflows"},
      {one_tensor(6, 0, {kMany, kMany}, {1, 1}), "overflows"},
      {one_tensor(6, 0, {kMany, kMany, 0}, {1, 1, 1}), "overflows"},
      {one_tensor(6, 0, {kMany}, {0}), "repeats its numbers too often"},
      {one_tensor(6, -1, {2}, {1}), "a tensor's offset is negative"},
      {one_tensor(6, 0, {-2}, {1}), "a tensor's size is negative"},
      {one_tensor(6, 0, {2}, {-1}), "a tensor's stride is negative"},
      {one_tensor(6, 0, {2}, {1, 1}), "size and stride differ in length"},
      {one_tensor(5, 0, {2}, {1}), "storage 'k' is not as long as its tensors say"},
      {one_tensor(6, 0, {2}, {1}, "N", "DoubleStorage"), "truncated at byte"},
      {one_tensor(kMost, 0, {2}, {1}), "number of elements overflows"},
      {one_tensor(6, 0, {4}, {1}, view), "beyond its view"},
      {one_tensor(6, 2, {2}, {1}, view), "beyond its view"},
      {one_tensor(6, 0, {2}, {1}, text("v") + "K\5K\3\x87"), "reaches beyond"},
  };
  for (const auto& [object, part] : cases)
    expect_error(ErrorCode::format, {folder / "a.pt", part}, [&, &object = object] { read(object); });
  expect_error(ErrorCode::unsupported, {"too many dimensions"},
               [&] { read(one_tensor(6, 0, std::vector<int64_t>(9, 1), std::vector<int64_t>(9, 1))); });
  spit(folder / "a.pt", legacy(one_tensor(3, 0, {2}, {1}, "N", "ComplexFloatStorage"), {{"k", 3, floats(6)}}));
  expect_error(ErrorCode::unsupported, {"'w'", "complex64"}, [&] { root_of(folder / "a.pt"); });
}

TEST(TorchArchive, LegacyKeysMustBelongToTensors) {
  const ScratchFolder folder;
  const std::string object = one_tensor(6, 0, {6}, {1});
  const auto refused = [&](const std::vector<Stored>& records, const std::string& part) {
    spit(folder / "a.pt", legacy(object, records));
    expect_error(ErrorCode::format, {folder / "a.pt", part}, [&] { root_of(folder / "a.pt"); });
  };
  refused({}, "the numbers of storage 'k' are missing");
  refused({{"k", 6, floats(6)}, {"stranger", 6, floats(6)}}, "there is no storage 'stranger'");
  refused({{"k", 6, floats(6)}, {"k", 6, floats(6)}}, "storage 'k' comes twice");
  refused({{"k", 7, floats(7)}}, "not as long as its tensors say");
  refused({{"k", 6, floats(5)}}, "truncated at byte");
  std::string big = legacy(object, {{"k", 6, floats(6)}});
  big.replace(big.find("}.\x80\2}"), 2, "}" + text("little_endian") + "\x89s.");
  spit(folder / "a.pt", big);
  expect_error(ErrorCode::unsupported, {"big-endian"}, [&] { root_of(folder / "a.pt"); });
}

TEST(StateDict, IsStrictAboutKeysAndValues) {
  const ScratchFolder folder;
  const std::string tensor = one_tensor(6, 0, {6}, {1});
  const auto refused = [&](const std::string& object, const std::string& part) {
    spit(folder / "a.pt", legacy(object, {{"k", 6, floats(6)}}));
    const auto archive = TorchArchive::open(folder / "a.pt");
    expect_error(ErrorCode::format, {"a.pt: ema", part}, [&] { state_dict_of(archive, archive.root(), "a.pt: ema"); });
  };
  refused(tensor + "K\1K\2s", "a key of the state dict is no string (found an integer");
  refused(tensor + text("epoch") + "K\2s", "'epoch' in the state dict is no tensor (found an integer");
  refused(tensor + text("inner") + "}s", "'inner' in the state dict is no tensor (found a dict");
  refused(tensor + "\x85", "this is no state dict (found a tuple");

  // Python: the last of equal keys wins, at the place of the first.
  const std::string second = one_tensor(6, 2, {1}, {1}).substr(1);
  spit(folder / "a.pt", legacy("}" + tensor.substr(1, tensor.size() - 2) + "q\0s"s + text("x") + "h\0s"s + second,
                               {{"k", 6, floats(6)}}));
  const auto weights = root_of(folder / "a.pt");
  EXPECT_EQ(weights->names(), (std::vector<std::string>{"w", "x"}));
  EXPECT_EQ(weights->tensor("w").to_vector<float>(), std::vector<float>{2.25f});
  EXPECT_EQ(weights->tensor("x").numel(), 6);
  EXPECT_TRUE(weights->contains("x"));
  EXPECT_FALSE(weights->contains("y"));
  expect_error(ErrorCode::not_found, {"there is no tensor 'v'"}, [&] { weights->tensor("v"); });
  expect_error(ErrorCode::not_found, {"there is no tensor 'v'"}, [&] { (void)weights->info("v"); });
}

// Zips as libzip writes them.
struct Member {
  std::string name;
  std::string content;
  int method = ZIP_CM_STORE;
  bool encrypted = false;
};

void make_zip(const std::string& path, const std::vector<Member>& members) {
  int error = 0;
  zip_t* zip = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, &error);
  ASSERT_NE(zip, nullptr) << error;
  for (const Member& member : members) {
    zip_source_t* source = zip_source_buffer(zip, member.content.data(), member.content.size(), 0);
    const auto index = zip_file_add(zip, member.name.c_str(), source, ZIP_FL_ENC_UTF_8);
    ASSERT_GE(index, 0);
    ASSERT_EQ(zip_set_file_compression(zip, static_cast<zip_uint64_t>(index), member.method, 0), 0);
    if (member.encrypted) {
      ASSERT_EQ(zip_file_set_encryption(zip, static_cast<zip_uint64_t>(index), ZIP_EM_AES_256, "x"), 0);
    }
  }
  ASSERT_EQ(zip_close(zip), 0);
}

TEST(TorchZip, IsCheckedBeforeAnythingIsRead) {
  const ScratchFolder folder;
  const std::string path = folder / "a.pt";
  const std::string pickle = "\x80\2" + one_tensor(6, 0, {6}, {1}) + ".";
  const auto refused = [&](const std::vector<Member>& members, ErrorCode code, const std::string& part) {
    make_zip(path, members);
    expect_error(code, {path, part}, [&] { root_of(path); });
  };
  make_zip(path, {{"a b/data.pkl", pickle}, {"a b/data/k", floats(6)}});
  EXPECT_EQ(root_of(path)->tensor("w").to_vector<float>()[5], 5.25f);

  refused({{"a/data.pkl", pickle}}, ErrorCode::format, "the numbers of storage 'k' are missing");
  refused({{"a/data.pkl", pickle}, {"a/data/k", floats(7)}}, ErrorCode::format, "not as long as");
  refused({{"a/readme.txt", "x"}}, ErrorCode::format, "holds no data.pkl");
  refused({{"a/data.pkl", pickle}, {"b/data.pkl", pickle}}, ErrorCode::format, "more than one data.pkl");
  refused({{"a/data.pkl", pickle}, {"a/constants.pkl", "x"}}, ErrorCode::unsupported, "TorchScript");
  refused({{"a/data.pkl", pickle}, {"a/code/m.py", "x"}}, ErrorCode::unsupported, "TorchScript");
  refused({{"a/data.pkl", pickle}, {"a/data/k", floats(6), ZIP_CM_STORE, true}}, ErrorCode::unsupported,
          "'a/data/k' is encrypted");
  refused({{"a/data.pkl", pickle}, {"a/data/k", std::string(5000, 'x'), ZIP_CM_BZIP2}}, ErrorCode::unsupported,
          "'a/data/k' is packed by method 12");
  refused({{"a/data.pkl", pickle}, {"a/data/k", std::string(size_t{80} << 20, '\0'), ZIP_CM_DEFLATE}},
          ErrorCode::format, "'a/data/k' unpacks to suspiciously much (found 80.00 MiB");
  refused({{"a/data.pkl", pickle}, {"a/byteorder", std::string(99, 'x')}}, ErrorCode::unsupported, "little-endian");
  refused({{"a/data.pkl", "\x80\2cos\nsystem\n.", ZIP_CM_DEFLATE}}, ErrorCode::unsupported, "'os.system'");
  refused({{"a/data.pkl", std::string(3000, '}'), ZIP_CM_DEFLATE}}, ErrorCode::format, "a/data.pkl: truncated");
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}

TEST(TorchZip, LiesInTheDirectoryAreFound) {
  const ScratchFolder folder;
  const std::string path = folder / "a.pt";
  make_zip(
      path,
      {{"a/data.pkl", "\x80\2" + one_tensor(6, 0, {6}, {1}) + "."}, {"a/data/k", floats(6)}, {"a/data/x", floats(6)}});
  const std::string whole = slurp(path);
  const auto refused = [&](const std::string& content, const std::string& part) {
    spit(path, content);
    expect_error(ErrorCode::format, {path, part}, [&] { root_of(path)->tensor("w"); });
  };
  refused(replaced(whole, "a/data/x", "a/data/k"), "'a/data/k' comes twice");

  const size_t central = whole.rfind("PK\x01\x02", whole.rfind("a/data/k"));
  const auto with = [&](size_t at, uint32_t value) {
    std::string changed = whole;
    for (size_t i = 0; i < 4; ++i) changed[central + at + i] = static_cast<char>(value >> (8 * i));
    return changed;
  };
  constexpr size_t kCrc = 16, kPacked = 20, kUnpacked = 24, kLocal = 42;
  refused(with(kCrc, 5), "");
  refused(with(kPacked, 0x7fffffff), "");
  refused(with(kUnpacked, 25), "");
  refused(with(kLocal, 3), "");
  refused(with(kLocal, 0x7fffffff), "");
}

TEST(TorchZip, RandomDamageIsAnErrorAndNothingElse) {
  const ScratchFolder folder;
  std::mt19937 engine(2);
  int errors = 0;
  for (const char* name : {"dtypes_and_views.pt", "views_deflated.pt", "views_zip64.pt", "views_legacy.pt"}) {
    const std::string whole = slurp(fixture(name));
    for (int i = 0; i < 400; ++i) {
      std::string damaged = whole;
      for (int n = 1 + static_cast<int>(engine() % 4); n > 0; --n)
        damaged[engine() % damaged.size()] = static_cast<char>(engine());
      const std::string path = folder / "a.pt";
      std::filesystem::remove(path);
      spit(path, damaged);
      try {
        const auto weights = root_of(path);
        for (const std::string& tensor : weights->names()) (void)bytes_of(weights->tensor(tensor));
      } catch (const Error& error) {
        ++errors;
        EXPECT_TRUE(error.code() == ErrorCode::format || error.code() == ErrorCode::unsupported) << error.what();
      }
    }
  }
  EXPECT_GT(errors, 400);
}

}  // namespace
}  // namespace raedit::test
