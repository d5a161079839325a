// Writing all or nothing, and saying why not.
#include "io/files.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include "io_test_util.h"

namespace raedit {
namespace {

using test::expect_error;
using test::ScratchFolder;
using test::slurp;
using test::spit;

// Permissions do not bind root, so root becomes somebody else for a while.
class Unprivileged {
 public:
  Unprivileged() : uid_(::geteuid()) { EXPECT_TRUE(uid_ != 0 || ::seteuid(65534) == 0); }
  ~Unprivileged() { EXPECT_TRUE(uid_ != 0 || ::seteuid(0) == 0); }

 private:
  uid_t uid_;
};

std::string pattern(size_t bytes) {
  std::string text(bytes, ' ');
  for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i * 2654435761u >> 7);
  return text;
}

TEST(ReadFile, GivesEveryByte) {
  const ScratchFolder folder;
  const std::string content = pattern(100'003);
  spit(folder / "a", content);
  spit(folder / "empty", "");
  EXPECT_EQ(read_file(folder / "a"), content);
  EXPECT_EQ(read_file(folder / "a", content.size()), content);
  EXPECT_EQ(read_file(folder / "empty"), "");
}

TEST(ReadFile, SaysWhatIsWrong) {
  const ScratchFolder folder;
  spit(folder / "a", pattern(1000));
  expect_error(ErrorCode::format, {folder / "a", "too large", "at most 999 bytes"},
               [&] { read_file(folder / "a", 999); });
  expect_error(ErrorCode::not_found, {folder / "b", "cannot open", "No such file"}, [&] { read_file(folder / "b"); });
  expect_error(ErrorCode::not_found, {"Not a directory"}, [&] { read_file(folder / "a/b"); });
  expect_error(ErrorCode::io, {folder.path(), "Is a directory", "name a file in it"},
               [&] { read_file(folder.path()); });
  ::chmod((folder / "a").c_str(), 0);
  const Unprivileged nobody;
  expect_error(ErrorCode::io, {folder.path(), "Permission denied"}, [&] { read_file(folder / "a"); });
}

TEST(MappedFile, ShowsTheFileAndSurvivesItsRemoval) {
  const ScratchFolder folder;
  const std::string content = pattern(70'001);
  spit(folder / "a", content);
  const auto file = MappedFile::open(folder / "a");
  std::filesystem::remove(folder / "a");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file->data()), file->size()), content);
}

TEST(MappedFile, RefusesWhatCannotBeMapped) {
  const ScratchFolder folder;
  spit(folder / "empty", "");
  EXPECT_EQ(MappedFile::open(folder / "empty")->size(), 0u);
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error(ErrorCode::io, {"pipe", "not a regular file"}, [&] { MappedFile::open(folder / "pipe"); });
  expect_error(ErrorCode::io, {"Is a directory"}, [&] { MappedFile::open(folder.path()); });
  expect_error(ErrorCode::not_found, {"No such file"}, [&] { MappedFile::open(folder / "none"); });
}

size_t resident_bytes() {
  size_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

TEST(MappedFile, DroppedPagesLeaveMemoryAndComeBack) {
  const ScratchFolder folder;
  constexpr size_t kBytes = size_t{32} << 20;
  spit(folder / "a", pattern(kBytes));
  const auto file = MappedFile::open(folder / "a");
  const auto sum = [&] {
    uint64_t total = 0;
    for (size_t i = 0; i < kBytes; ++i) total = total * 31 + static_cast<uint64_t>(file->data()[i]);
    return total;
  };
  const uint64_t before = sum();
  const size_t full = resident_bytes();
  file->drop_pages(100, kBytes - 200);
  EXPECT_LT(resident_bytes() + kBytes * 9 / 10, full);
  EXPECT_EQ(sum(), before);
  file->drop_pages(kBytes + 5, 10);  // nothing there: nothing happens
  file->drop_pages(5, 10);
  file->prefetch(5, kBytes);
  file->prefetch(kBytes + 5, 10);
  EXPECT_EQ(sum(), before);
}

TEST(AtomicFile, AppearsOnlyWithCommit) {
  const ScratchFolder folder;
  const std::string content = pattern(300'000);
  AtomicFile file(folder / "a");
  file.write(content.substr(0, 7));
  file.write(content.substr(7));
  EXPECT_EQ(file.bytes_written(), content.size());
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
  file.commit();
  EXPECT_EQ(folder.names(), std::vector<std::string>{"a"});
  EXPECT_EQ(slurp(folder / "a"), content);
  expect_error(ErrorCode::internal, {"after commit"}, [&] { file.write("x"); });
}

TEST(AtomicFile, LeavesNothingBehindWithoutCommit) {
  const ScratchFolder folder;
  {
    AtomicFile file(folder / "a");
    file.write(pattern(1000));
    EXPECT_EQ(folder.names().size(), 1u);
  }
  EXPECT_TRUE(folder.names().empty());
}

TEST(AtomicFile, FailingOverwriteKeepsTheOldFile) {
  const ScratchFolder folder;
  spit(folder / "a", "old");
  {
    const test::FileSizeLimit limit(10'000);
    expect_error(ErrorCode::io, {folder / "a", "cannot write", "File too large", "ulimit"},
                 [&] { write_file(folder / "a", pattern(10'001)); });
  }
  EXPECT_EQ(folder.names(), std::vector<std::string>{"a"});
  EXPECT_EQ(slurp(folder / "a"), "old");
  write_file(folder / "a", "new");
  EXPECT_EQ(slurp(folder / "a"), "new");
}

TEST(AtomicFile, FullDiskIsAnErrorThatSaysSo) {
  expect_error(ErrorCode::io, {"/dev/full", "No space left on device", "free some space"},
               [] { write_file("/dev/full", "x"); });
  struct stat status {};
  ASSERT_EQ(::stat("/dev/full", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
}

TEST(AtomicFile, WritesDevicesDirectly) {
  write_file("/dev/null", "x");
  struct stat status {};
  ASSERT_EQ(::stat("/dev/null", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
}

TEST(AtomicFile, SaysWhyItCannotWrite) {
  const ScratchFolder folder;
  spit(folder / "file", "x");
  expect_error(ErrorCode::io, {"none/a", "No such file", "create it first"}, [&] { AtomicFile(folder / "none/a"); });
  expect_error(ErrorCode::io, {"file/a", "Not a directory"}, [&] { AtomicFile(folder / "file/a"); });
  expect_error(ErrorCode::io, {folder.path(), "Is a directory", "name a file in it"},
               [&] { AtomicFile(folder.path()); });
  ::chmod((folder / "file").c_str(), 0444);
  ::chmod(folder.path().c_str(), 0555);
  {
    const Unprivileged nobody;
    expect_error(ErrorCode::io, {folder / "a", "Permission denied", "who may write"},
                 [&] { AtomicFile(folder / "a"); });
    expect_error(ErrorCode::io, {folder / "file", "Permission denied"}, [&] { AtomicFile(folder / "file"); });
  }
  ::chmod(folder.path().c_str(), 0755);
  EXPECT_EQ(slurp(folder / "file"), "x");
}

TEST(AtomicFile, TakesTheLongestNameThereIs) {
  const ScratchFolder folder;
  const std::string name(255, 'n');
  write_file(folder / name, "x");
  EXPECT_EQ(folder.names(), std::vector<std::string>{name});
}

TEST(AtomicFile, WritesThroughLinksThatPointToNothingYet) {
  const ScratchFolder folder;
  std::filesystem::create_directory(folder / "real");
  std::filesystem::create_symlink("real/b", folder / "second");
  std::filesystem::create_symlink("second", folder / "first");
  write_file(folder / "first", "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "first"));
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "second"));
  EXPECT_EQ(slurp(folder / "real/b"), "new");
  std::filesystem::create_symlink("nowhere/c", folder / "lost");
  expect_error(ErrorCode::io, {folder / "lost", "create it first"}, [&] { write_file(folder / "lost", "x"); });
  std::filesystem::create_symlink("circle", folder / "circle");
  expect_error(ErrorCode::io, {folder / "circle", "Too many levels"}, [&] { write_file(folder / "circle", "x"); });
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "circle"));
}

TEST(AtomicFile, WritesThroughALink) {
  const ScratchFolder folder;
  create_directories(folder / "real");
  spit(folder / "real/a", "old");
  std::filesystem::create_symlink("real/a", folder / "link");
  write_file(folder / "link", "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(slurp(folder / "real/a"), "new");
}

TEST(AtomicFile, HasThePermissionsOfAnOrdinaryNewFile) {
  const ScratchFolder folder;
  const mode_t mask = ::umask(027);
  write_file(folder / "a", "x");
  ::umask(mask);
  struct stat status {};
  ASSERT_EQ(::stat((folder / "a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(AtomicFile, KeepsThePermissionsOfTheFileItReplaces) {
  const ScratchFolder folder;
  spit(folder / "a", "old");
  for (const mode_t mode : {mode_t{0600}, mode_t{0664}}) {
    ASSERT_EQ(::chmod((folder / "a").c_str(), mode), 0);
    write_file(folder / "a", "new");
    struct stat status {};
    ASSERT_EQ(::stat((folder / "a").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, mode);
  }
}

TEST(AtomicFile, FlushedIsNotYetThere) {
  const ScratchFolder folder;
  AtomicFile file(folder / "a");
  file.write("one");
  file.flush();
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
  file.write(" two");
  file.commit();
  EXPECT_EQ(slurp(folder / "a"), "one two");
  expect_error(ErrorCode::internal, {"after commit"}, [&] { file.flush(); });
}

TEST(CreateDirectories, MakesAllLevelsOrSaysWhyNot) {
  const ScratchFolder folder;
  create_directories(folder / "a/b/c");
  create_directories(folder / "a/b/c");
  EXPECT_TRUE(std::filesystem::is_directory(folder / "a/b/c"));
  spit(folder / "file", "x");
  expect_error(ErrorCode::io, {"file/d", "cannot create the folder"}, [&] { create_directories(folder / "file/d"); });
  expect_error(ErrorCode::io, {"cannot create the folder"}, [&] { create_directories(folder / "file"); });
}

}  // namespace
}  // namespace raedit
