// Which file of a model folder is read, and what is said where none is.
#include "io/weight_folder.h"

#include <gtest/gtest.h>

#include "io/io_test_util.h"
#include "io/safetensors.h"

namespace raedit::test {
namespace {

std::string fixture(const std::string& name) {
  return RAEDIT_SOURCE_DIR "/tests/io/data/torch/" + name;
}

const std::vector<std::string> kStat = {"mean", "var"};

class WeightFolder : public testing::Test {
 protected:
  void put(const std::string& from, const std::string& name) {
    std::filesystem::copy_file(fixture(from), folder_ / name, std::filesystem::copy_options::overwrite_existing);
  }
  void put_safetensors(const std::string& name, const std::string& tensor) {
    write_safetensors(folder_ / name, NamedTensors{{tensor, random_tensor({2}, DType::float32, 1)}});
  }
  // stat.pt as one shard, wide.pt as the other.
  void put_shards(const std::string& index, const std::string& variant = "") {
    put("stat.pt", "w" + variant + "-00001-of-00002.bin");
    put("wide.pt", "w" + variant + "-00002-of-00002.bin");
    std::string map;
    for (const char* name : {"mean", "var"}) map += entry(name, "w" + variant + "-00001-of-00002.bin");
    for (const char* name : {"u16", "u32", "u64", "i16", "i8", "e4m3", "e5m2"})
      map += entry(name, "w" + variant + "-00002-of-00002.bin");
    map.pop_back();
    put_index(index, map);
  }
  void put_index(const std::string& index, const std::string& map) {
    spit(folder_ / index, R"({"metadata":{},"weight_map":{)" + map + "}}");
  }
  static std::string entry(const std::string& tensor, const std::string& file) {
    return "\"" + tensor + "\":\"" + file + "\",";
  }
  std::shared_ptr<const WeightSet> open(const std::string& variant = "", const std::string& base = "w") {
    return open_weights(folder_.path(), base, variant);
  }
  ScratchFolder folder_;
};

TEST_F(WeightFolder, SafetensorsComeFirst) {
  put("stat.pt", "w.bin");
  EXPECT_EQ(open()->names(), kStat);
  EXPECT_EQ(open()->path(), folder_ / "w.bin");
  EXPECT_EQ(open()->file_of("mean"), folder_ / "w.bin");
  put_safetensors("w.safetensors", "safe");
  EXPECT_EQ(open()->names(), std::vector<std::string>{"safe"});
}

TEST_F(WeightFolder, VariantsAreAskedForByName) {
  put("stat.pt", "w.bin");
  put("wide.pt", "w.ema.bin");
  EXPECT_TRUE(open("ema")->contains("u16"));
  EXPECT_EQ(open()->names(), kStat);
  expect_error(ErrorCode::not_found,
               {folder_.path(), "w.fp16.safetensors", "w.fp16.bin", "variants here: none", "'ema'"},
               [&] { open("fp16"); });
  expect_error(ErrorCode::invalid_argument, {"../w"}, [&] { open("../w"); });
}

TEST_F(WeightFolder, TransformersNamesItsFilesOtherwise) {
  put("stat.pt", "pytorch_model.bin");
  EXPECT_EQ(open("", "model")->names(), kStat);
  expect_error(ErrorCode::not_found, {"w.bin"}, [&] { open(); });
}

TEST_F(WeightFolder, ShardsAreOneSet) {
  for (const auto& [index, variant] : {std::pair{"w.bin.index.json", ""}, std::pair{"w.bin.index.ema.json", "ema"},
                                       std::pair{"w.bin.ema.index.json", "ema"}}) {
    put_shards(index, *variant == '\0' ? "" : std::string(".") + variant);
    put("stat.pt", "w.bin");  // the index wins
    const auto weights = open(variant);
    EXPECT_EQ(weights->path(), folder_ / index);
    EXPECT_EQ(weights->names().size(), 9u);
    EXPECT_EQ(weights->info("u16").shape, (Shape{3, 5}));
    EXPECT_NE(weights->file_of("mean"), weights->file_of("u16"));
    EXPECT_EQ(weights->tensor("mean").shape(), (Shape{8, 4, 4}));
    weights->drop_pages("mean");
    EXPECT_FALSE(weights->contains("none"));
    expect_error(ErrorCode::not_found, {"there is no tensor 'vari'", index, "'var'"}, [&] { weights->tensor("vari"); });
    std::filesystem::remove(folder_ / index);
  }
}

TEST_F(WeightFolder, ShardsAndIndexMustAgree) {
  const std::string index = "w.bin.index.json", one = "w-00001-of-00002.bin", two = "w-00002-of-00002.bin";
  put_shards(index);
  put_index(index, R"("mean":")" + one + "\"");
  expect_error(ErrorCode::format, {one, "tensor 'var' is not in the index"}, [&] { open(); });
  put_index(index, entry("mean", one) + entry("var", one) + R"("more":")" + one + "\"");
  expect_error(ErrorCode::format, {one, "shard lacks tensor 'more'"}, [&] { open(); });
  put_index(index, entry("mean", one) + R"("var":")" + two + "\"");
  expect_error(ErrorCode::format, {"tensor 'var' is in another shard"}, [&] { open(); });
  put_index(index, R"("mean":"../w.bin")");
  expect_error(ErrorCode::format, {"bad file name"}, [&] { open(); });
  put_index(index, R"("mean":"w-00003-of-00003.bin")");
  expect_error(ErrorCode::not_found, {"w-00003-of-00003.bin", "shard is missing"}, [&] { open(); });
}

TEST_F(WeightFolder, SaysWhatIsThereInstead) {
  expect_error(ErrorCode::not_found, {"an empty folder", "expected w.safetensors, w.safetensors.index.json or w.bin"},
               [&] { open(); });
  expect_error(ErrorCode::not_found, {"/nowhere"}, [] { open_weights("/nowhere", "w"); });
}

TEST_F(WeightFolder, AFileIsToldByContent) {
  put("stat.pt", "a.safetensors");
  put("views_legacy.pt", "b");
  put_safetensors("c.bin", "safe");
  EXPECT_EQ(open_weight_file(folder_ / "a.safetensors")->names(), kStat);
  EXPECT_TRUE(open_weight_file(folder_ / "b")->contains("tied_a"));
  EXPECT_TRUE(open_weight_file(folder_ / "c.bin")->contains("safe"));
  expect_error(ErrorCode::format, {"checkpoint.pt", "a key of the state dict is no string (found an integer"},
               [] { open_weight_file(fixture("checkpoint.pt")); });
  expect_error(ErrorCode::unsupported, {"posix.system"}, [] { open_weight_file(fixture("hostile_reduce.pt")); });
  expect_error(ErrorCode::not_found, {"/nowhere/a"}, [] { open_weight_file("/nowhere/a"); });
  spit(folder_ / "junk.pt", "neither a zip nor a pickle");
  expect_error(ErrorCode::format, {"no PyTorch checkpoint"}, [&] { open_weight_file(folder_ / "junk.pt"); });
}

}  // namespace
}  // namespace raedit::test
