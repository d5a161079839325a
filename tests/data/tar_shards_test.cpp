#include "data/tar_shards.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "data/data_test_util.h"
#include "data/tar_reader.h"

namespace raedit {
namespace {

namespace fs = std::filesystem;
using data::expand_braces;
using data::open_picture_set;
using test::expect_error;
using test::pax_record;
using test::png_bytes;
using test::random_image;
using test::ScratchFolder;
using test::spit;
using test::tar_end;
using test::tar_header;
using test::tar_member;
using test::TarEntry;

std::string sample(const std::string& key, uint64_t seed, const std::string& class_id) {
  return tar_member(key + ".png", png_bytes(random_image(4, 5, seed))) + tar_member(key + ".cls", class_id);
}

const TarEntry kGnuName{.type = 'L', .magic = "ustar  "};
const TarEntry kGnu{.magic = "ustar  "};

TEST(TarShards, ReadsSamplesOfAFile) {
  const ScratchFolder scratch;
  const std::string path = scratch / "a.tar";
  spit(path, tar_member("./", "", {.type = '5'}) + tar_member("README", "no sample") + tar_member("._x.jpg", "junk") +
                 tar_member("dir.d/000.cls", " 3\n") + tar_member("dir.d/000.JPG", png_bytes(random_image(9, 2, 1))) +
                 tar_member("dir.d/000.caption.txt", "a cat") +
                 tar_member("001.json", R"({"label": 1, "cls": 7, "width": 20})") +
                 tar_member("001.png", png_bytes(random_image(3, 8, 2))) + sample("002", 3, "0") +
                 tar_member("003.json", R"({"cls": 2})") + tar_member("003.webp", "undecodable") + tar_end());
  const auto set = open_picture_set(path);
  ASSERT_EQ(set->size(), 4);
  EXPECT_EQ(set->classes(), (std::vector<std::string>{"0", "1", "2", "3"}));
  const std::vector<int64_t> ids = {set->class_id(0), set->class_id(1), set->class_id(2), set->class_id(3)};
  EXPECT_EQ(ids, (std::vector<int64_t>{3, 1, 0, 2}));
  EXPECT_EQ(set->name(0), path + ": dir.d/000.JPG");
  EXPECT_EQ(set->picture(0), random_image(9, 2, 1));
  EXPECT_EQ(set->picture(1), random_image(3, 8, 2));
  EXPECT_EQ(set->picture(2), random_image(4, 5, 3));
  EXPECT_EQ(set->bytes(3), "undecodable");
  EXPECT_ANY_THROW(set->picture(3));
}

TEST(TarShards, ReadsEveryKindOfLongName) {
  const ScratchFolder scratch;
  const std::string deep(90, 'd'), deeper(120, 'e'), file(60, 'f');
  const std::string gnu = deep + "/" + deeper + "/" + file, pax = deeper + "/p\xc3\xa4x/" + file;
  const std::string content = png_bytes(random_image(2, 2, 9));
  const auto long_name = [&](const std::string& name) { return tar_member("././@LongLink", name + '\0', kGnuName); };
  const std::string far_size = std::string("\x80") + std::string(10, '\0') + "\x05";
  spit(scratch / "a.tar",
       tar_member(file + ".png", content, {.prefix = deep}) + tar_member(file + ".cls", "1", {.prefix = deep}) +
           tar_member("././@LongLink", "target\0", {.type = 'K', .magic = "ustar  "}) + long_name(gnu + ".png") +
           tar_member("cut.png", content, kGnu) + long_name(gnu + ".cls") +
           tar_member("cut.cls", "2    ", {.magic = "ustar  ", .size = far_size}) +
           tar_member("pax_global", pax_record("comment", "made by hand"), {.type = 'g'}) +
           tar_member("PaxHeaders/x", pax_record("mtime", "1.5") + pax_record("path", pax + ".png"), {.type = 'x'}) +
           tar_member("cut.png", content) +
           tar_member("PaxHeaders/x", pax_record("path", pax + ".cls") + pax_record("size", "2"), {.type = 'x'}) +
           tar_header("cut.cls", 0) + test::padded("33") + sample("plain", 4, "0") +
           tar_member("old.png", content, {.type = '\0', .magic = ""}) +
           tar_member("old.cls", "5", {.type = '\0', .magic = ""}) + tar_end());
  const auto set = open_picture_set(scratch / "a.tar");
  ASSERT_EQ(set->size(), 5);
  const std::vector<std::pair<std::string, int64_t>> expected = {
      {deep + "/" + file, 1}, {gnu, 2}, {pax, 33}, {"plain", 0}, {"old", 5}};
  for (int64_t i = 0; i < 5; ++i) {
    const auto& [name, class_id] = expected[static_cast<size_t>(i)];
    EXPECT_EQ(set->name(i), (scratch / "a.tar: ") + name + ".png");
    EXPECT_EQ(set->class_id(i), class_id);
    EXPECT_EQ(set->picture(i), i == 3 ? random_image(4, 5, 4) : random_image(2, 2, 9));
  }
}

TEST(TarShards, ReadsFoldersListsAndClassNames) {
  const ScratchFolder scratch;
  spit(scratch / "t-10.tar", sample("c", 3, "1") + tar_end());
  spit(scratch / "t-09.tar", sample("a", 1, "0") + sample("b", 2, "2") + tar_end());
  spit(scratch / "t-08.tar", tar_end());
  fs::create_directories(scratch / ".cache");
  const auto folder = open_picture_set(scratch.path()), list = open_picture_set(scratch / "t-{08..10}.tar");
  for (const auto& set : {folder, list}) {
    ASSERT_EQ(set->size(), 3);
    for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(set->picture(i), random_image(4, 5, static_cast<uint64_t>(i) + 1));
    EXPECT_EQ(set->name(2), scratch / "t-10.tar: c.png");
    EXPECT_EQ(set->classes().size(), 3u);
  }
  EXPECT_EQ(open_picture_set(scratch / "t-{10,09}.tar")->name(0), scratch / "t-10.tar: c.png");
  expect_error(ErrorCode::not_found, {"t-11.tar"}, [&] { open_picture_set(scratch / "t-{08..11}.tar"); });

  spit(scratch / "classes.txt", "tench\r\ngreat white shark\nhen\ncock\n");
  EXPECT_EQ(open_picture_set(scratch / "t-09.tar")->classes(),
            (std::vector<std::string>{"tench", "great white shark", "hen", "cock"}));
  spit(scratch / "classes.txt", "tench\nhen\n");
  expect_error(ErrorCode::format, {"t-09.tar: b", "found 2", "0 to 1", "classes.txt"},
               [&] { open_picture_set(scratch.path()); });
  spit(scratch / "classes.txt", "tench\n\nhen\n");
  expect_error(ErrorCode::format, {"classes.txt", "no name"}, [&] { open_picture_set(scratch.path()); });
}

TEST(TarShards, FingerprintFollowsNamesClassesAndSizesOnly) {
  const ScratchFolder scratch;
  const auto print = [&](const std::string& folder, const std::string& content) {
    fs::create_directories(scratch / folder);
    spit(scratch / folder + "/a.tar", content + tar_end());
    return open_picture_set(scratch / folder)->fingerprint();
  };
  const std::string first = print("one", sample("a", 1, "0") + sample("b", 2, "1"));
  EXPECT_EQ(print("two", tar_member("note", "moved by this") + sample("a", 3, "0") + sample("b", 4, "1")), first);
  EXPECT_NE(print("one", sample("a", 1, "1") + sample("b", 2, "1")), first);
  EXPECT_NE(print("one", sample("a", 1, "0")), first);
  EXPECT_NE(print("one", sample("a", 1, "0") + sample("c", 2, "1")), first);
  EXPECT_NE(print("one", sample("a", 1, "0") + tar_member("b.png", "small") + tar_member("b.cls", "1")), first);
}

TEST(TarShards, NamesTheSampleThatIsWrong) {
  const ScratchFolder scratch;
  const std::string path = scratch / "a.tar";
  const auto expect = [&](const std::string& content, const std::vector<std::string>& parts) {
    spit(path, sample("fine", 1, "0") + content + tar_end());
    expect_error(ErrorCode::format, parts, [&] { open_picture_set(path); });
  };
  expect(tar_member("d/x.cls", "1"), {"a.tar: d/x", "no picture", ".webp"});
  expect(tar_member("x.png", "p"), {"a.tar: x", "no class"});
  expect(tar_member("x.png", "p") + tar_member("x.json", R"({"caption": "c"})"), {"a.tar: x", "no class", "label"});
  expect(tar_member("x.png", "p") + tar_member("x.json", R"({"label": "cat"})"), {"x.json", "label", "integer"});
  expect(tar_member("x.png", "p") + tar_member("x.json", "{"), {"x.json", "JSON"});
  expect(tar_member("x.png", "p") + tar_member("x.cls", "cat"), {"a.tar: x", "not a number", "cat"});
  expect(tar_member("x.png", "p") + tar_member("x.cls", "-1"), {"a.tar: x", "impossible class", "-1"});
  expect(tar_member("x.png", "p") + tar_member("x.cls", "1000000000000"), {"a.tar: x", "impossible class"});
  expect(tar_member("x.png", "p") + tar_member("x.cls", std::string(2 << 20, '1')), {"x.cls", "too large"});
  expect(tar_member("x.png", "p") + tar_member("x.jpeg", "q") + tar_member("x.cls", "1"),
         {"a.tar: x", "two pictures", "x.jpeg"});
  // Not in a row.
  expect(tar_member("x.png", "p") + sample("y", 2, "1") + tar_member("x.cls", "1"), {"a.tar: x", "no class"});
  spit(path, tar_member("readme", "x") + tar_end());
  expect_error(ErrorCode::format, {"no samples", path}, [&] { open_picture_set(path); });
}

TEST(TarShards, RefusesWhatNoTarProgramWrites) {
  const ScratchFolder scratch;
  const std::string path = scratch / "a.tar", whole = sample("a", 1, "0") + sample("b", 2, "1");
  const auto expect = [&](const std::string& content, const std::vector<std::string>& parts,
                          ErrorCode code = ErrorCode::format) {
    spit(path, content);
    expect_error(code, parts, [&] { open_picture_set(path); });
  };
  // Cut anywhere, even where a header would begin.
  for (size_t size = 0; size <= whole.size(); size += size % 512 == 0 ? 511 : 1)
    expect(whole.substr(0, size), {path, "ends too early"});
  expect("b" + whole.substr(1) + tar_end(), {"byte 0", "checksum"});
  expect(std::string(2048, 'x'), {"byte 0", "checksum"});

  const auto with_size = [&](const std::string& size, char type = '0') {
    return whole + tar_header("x.png", 0, {.type = type, .size = size}) + tar_end();
  };
  expect(with_size("77777777777 "), {"ends too early"});
  expect(with_size("777777777777"), {"ends too early"});
  expect(with_size("00000000019"), {"size"});
  expect(with_size("-0000000001"), {"size"});
  expect(with_size(std::string(12, '\xff')), {"size"});
  expect(with_size("\x80" + std::string(11, '\xff')), {"size"});
  expect(with_size("\x80" + std::string(3, '\0') + "\x7f" + std::string(7, '\xff')), {"ends too early"});
  for (const char type : {'x', 'g', 'L', 'K', '7', 'Z'}) expect(with_size("77777777777 ", type), {"ends too early"});

  const auto pax = [&](const std::string& records) {
    return whole + tar_member("p", records, {.type = 'x'}) + tar_member("x.png", "p") + tar_end();
  };
  expect(pax("7 a"), {"pax record", "'7'"});
  expect(pax("0 a=b\n"), {"pax record"});
  expect(pax("99999999999999999999 a=b\n"), {"pax record"});
  expect(pax("nonsense"), {"pax record"});
  expect(pax("5 abc"), {"pax record"});
  expect(pax("7 abcd\n"), {"pax record", "'='"});
  expect(pax(pax_record("size", "-1")), {"size", "-1"});
  expect(pax(pax_record("size", "18446744073709551615")), {"ends too early"});
  expect(pax(pax_record("path", std::string("a\0b", 3))), {"name"});
  expect(pax(pax_record("path", std::string(5000, 'n'))), {"name", "5000"});
  expect(pax(pax_record("comment", std::string(2 << 20, 'c'))), {"pax header", "1048576"});
  expect(whole + tar_member("l", std::string(5000, 'n'), kGnuName) + tar_end(), {"name", "4097"});
  expect(pax(pax_record("GNU.sparse.major", "1")), {"sparse"}, ErrorCode::unsupported);
  expect(with_size("00000000000", 'S'), {"sparse"}, ErrorCode::unsupported);
}

TEST(TarShards, RefusesCompressedShardsAndPipes) {
  const ScratchFolder scratch;
  for (const std::string start : {"\x1f\x8b\x08", "\x28\xb5\x2f\xfd", "BZh9",
                                  "\xfd"
                                  "7zXZ"}) {
    spit(scratch / "a.tar", start + std::string(3000, 'z'));
    expect_error(ErrorCode::unsupported, {"a.tar", "compressed", "unpack"},
                 [&] { open_picture_set(scratch / "a.tar"); });
  }
  ASSERT_EQ(::mkfifo((scratch / "p.tar").c_str(), 0600), 0);
  expect_error(ErrorCode::io, {"p.tar", "regular"}, [&] { open_picture_set(scratch / "p.tar"); });
}

TEST(TarShards, SaysSoWhenAShardShrinksLater) {
  const ScratchFolder scratch;
  spit(scratch / "a.tar", sample("a", 1, "0") + tar_end());
  const auto set = open_picture_set(scratch / "a.tar");
  fs::resize_file(scratch / "a.tar", 520);
  expect_error(ErrorCode::io, {"a.tar", "shorter"}, [&] { set->picture(0); });
  fs::remove(scratch / "a.tar");
  expect_error(ErrorCode::not_found, {"a.tar"}, [&] { set->picture(0); });
}

TEST(TarShards, ExpandsBracesAsTheShellDoes) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(expand_braces("a{8..11}.tar"), (Names{"a8.tar", "a9.tar", "a10.tar", "a11.tar"}));
  EXPECT_EQ(expand_braces("a{08..11}"), (Names{"a08", "a09", "a10", "a11"}));
  EXPECT_EQ(expand_braces("a{000..001}"), (Names{"a000", "a001"}));
  EXPECT_EQ(expand_braces("{x,yy}/{1..2}"), (Names{"x/1", "x/2", "yy/1", "yy/2"}));
  for (const char* bad : {"a{1..", "a{}", "a{1}", "a{2..1}", "a{1..x}", "a{0..4294967296}", "a{0..999999}",
                          "{0..999}{0..999}", "{a,{b,c}}"})
    expect_error(ErrorCode::invalid_argument, {bad}, [&] { expand_braces(bad); });
}

}  // namespace
}  // namespace raedit
