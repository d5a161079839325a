#include "data/picture_set.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "data/data_test_util.h"

namespace raedit {
namespace {

namespace fs = std::filesystem;
using data::open_picture_set;
using test::expect_error;
using test::random_image;
using test::ScratchFolder;
using test::spit;

void fill(const std::string& root) {
  for (const char* folder : {"/cat/deep", "/dog"}) fs::create_directories(root + folder);
  save_png(random_image(5, 4, 1), root + "/cat/a.png");
  save_png(random_image(6, 7, 2), root + "/cat/deep/b.png");
  save_png(random_image(3, 3, 3), root + "/dog/c.png");
}

TEST(FolderSet, HasPicturesClassesAndNames) {
  const ScratchFolder scratch;
  fill(scratch.path());
  const auto set = open_picture_set(scratch.path());
  ASSERT_EQ(set->size(), 3);
  EXPECT_EQ(set->classes(), (std::vector<std::string>{"cat", "dog"}));
  EXPECT_EQ(set->class_id(1), 0);
  EXPECT_EQ(set->class_id(2), 1);
  EXPECT_EQ(set->name(1), scratch / "cat/deep/b.png");
  EXPECT_EQ(set->bytes(0), test::slurp(scratch / "cat/a.png"));
  EXPECT_EQ(set->picture(1), random_image(6, 7, 2));
  EXPECT_EQ(set->picture(2), random_image(3, 3, 3));
}

TEST(FolderSet, SaysWhichPictureIsWrong) {
  const ScratchFolder scratch;
  fill(scratch.path());
  spit(scratch / "dog/c.png", "no picture");
  ASSERT_EQ(::mkfifo((scratch / "dog/d.png").c_str(), 0600), 0);
  const auto set = open_picture_set(scratch.path());
  expect_error(ErrorCode::unsupported, {"dog/c.png"}, [&] { set->picture(2); });
  expect_error(ErrorCode::io, {"dog/d.png", "regular"}, [&] { set->picture(3); });
  fs::remove(scratch / "cat/a.png");
  expect_error(ErrorCode::not_found, {"cat/a.png"}, [&] { set->picture(0); });
  expect_error(ErrorCode::not_found, {"/nowhere/set"}, [] { open_picture_set("/nowhere/set"); });
}

TEST(FolderSet, FingerprintFollowsNamesClassesAndSizesOnly) {
  const ScratchFolder scratch;
  fill(scratch / "one");
  const auto print = [&](const std::string& root) { return open_picture_set(root)->fingerprint(); };
  const std::string first = print(scratch / "one");
  EXPECT_EQ(first.size(), 64u);
  EXPECT_EQ(print(scratch / "one/"), first);
  fs::create_directories(scratch / "else/where");
  fs::rename(scratch / "one", scratch / "else/where/two");
  const std::string root = scratch / "else/where/two";
  EXPECT_EQ(print(root), first);

  spit(root + "/dog/new.png", "12345");
  const std::string added = print(root);
  EXPECT_NE(added, first);
  spit(root + "/dog/new.png", "54321");
  EXPECT_EQ(print(root), added);  // pixels are not looked at
  spit(root + "/dog/new.png", "123456");
  EXPECT_NE(print(root), added);
  fs::remove(root + "/dog/new.png");
  EXPECT_EQ(print(root), first);

  fs::rename(root + "/cat/a.png", root + "/dog/a.png");
  EXPECT_NE(print(root), first);
  fs::rename(root + "/dog/a.png", root + "/cat/a.png");
  fs::remove(root + "/cat/deep/b.png");
  EXPECT_NE(print(root), first);
}

TEST(PictureSet, RefusesFoldersThatMayMeanTwoThings) {
  const ScratchFolder scratch;
  fill(scratch.path());
  spit(scratch / "n.tar", test::tar_end());
  expect_error(ErrorCode::format, {"both", "n.tar", "class folders"}, [&] { open_picture_set(scratch.path()); });
  const ScratchFolder packed;
  spit(packed / "a.tar", test::tar_end());
  spit(packed / "b.tar.gz", "x");
  expect_error(ErrorCode::unsupported, {"b.tar.gz", "unpack"}, [&] { open_picture_set(packed.path()); });
  const ScratchFolder empty;
  expect_error(ErrorCode::format, {"no folders", empty.path()}, [&] { open_picture_set(empty.path()); });
}

}  // namespace
}  // namespace raedit
