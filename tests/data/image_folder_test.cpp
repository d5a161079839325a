#include "data/image_folder.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "io/io_test_util.h"

namespace raedit {
namespace {

namespace fs = std::filesystem;
using data::ImageFolder;
using test::expect_error;
using test::ScratchFolder;
using test::spit;

TEST(ImageFolder, HasTorchvisionsOrder) {
  const ScratchFolder scratch;
  for (const char* folder : {"zebra", "Ape", "cat/b", "cat/a.dir", "cat/a"}) fs::create_directories(scratch / folder);
  for (const char* file : {"zebra/2.png", "zebra/10.PNG", "Ape/x.webp", "cat/b/1.jpg", "cat/a/3.jpeg",
                           "cat/a.dir/0.png", "cat/z.bmp", "cat/notes.txt", "readme.md"})
    spit(scratch / file, "x");
  const ImageFolder data = ImageFolder::open(scratch.path());
  EXPECT_EQ(data.classes, (std::vector<std::string>{"Ape", "cat", "zebra"}));
  std::vector<std::string> paths;
  std::vector<int64_t> ids;
  for (const auto& entry : data.entries) {
    paths.push_back(fs::path(entry.path).lexically_relative(scratch.path()).string());
    ids.push_back(entry.class_id);
  }
  // What torchvision 0.29's ImageFolder(...).samples gives: folders sorted by their whole path.
  EXPECT_EQ(paths, (std::vector<std::string>{"Ape/x.webp", "cat/z.bmp", "cat/a/3.jpeg", "cat/a.dir/0.png",
                                             "cat/b/1.jpg", "zebra/10.PNG", "zebra/2.png"}));
  EXPECT_EQ(ids, (std::vector<int64_t>{0, 1, 1, 1, 1, 2, 2}));
}

TEST(ImageFolder, SaysWhatIsWrong) {
  const ScratchFolder scratch;
  expect_error(ErrorCode::not_found, {"/nowhere/data"}, [] { ImageFolder::open("/nowhere/data"); });
  expect_error(ErrorCode::format, {"no folders"}, [&] { ImageFolder::open(scratch.path()); });
  fs::create_directories(scratch / "full");
  fs::create_directories(scratch / "hollow/inner");
  spit(scratch / "full/a.png", "x");
  spit(scratch / "hollow/inner/a.txt", "x");
  expect_error(ErrorCode::format, {"without pictures", "hollow", ".webp"}, [&] { ImageFolder::open(scratch.path()); });
  fs::create_directory_symlink("..", scratch / "full/loop");
  expect_error(ErrorCode::format, {"holds itself", "full/loop", "link"}, [&] { ImageFolder::open(scratch.path()); });
  fs::remove(scratch / "full/loop");
  fs::create_directory_symlink(".", scratch / "full/again");
  expect_error(ErrorCode::format, {"holds itself", "full/again", "link"}, [&] { ImageFolder::open(scratch.path()); });
}

}  // namespace
}  // namespace raedit
