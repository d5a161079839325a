// What is a name of the hub, and what is kept away from the disk.
#include "hub/names.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "hub/fake_hub.h"
#include "raedit/hub.h"

namespace raedit::hub {
namespace {

TEST(HubNames, ReadsNameAndRevision) {
  const auto plain = parse_model_name("nyu-visionx/RAE_v1.0");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->repo, "nyu-visionx/RAE_v1.0");
  EXPECT_EQ(plain->revision, "main");
  const auto pinned = parse_model_name("org/name@refs/pr/1");
  ASSERT_TRUE(pinned);
  EXPECT_EQ(pinned->repo, "org/name");
  EXPECT_EQ(pinned->revision, "refs/pr/1");
  EXPECT_EQ(parse_model_name("gpt2@v1.0@x")->revision, "v1.0@x");
}

TEST(HubNames, RefusesWhatIsNone) {
  for (const char* text : {"",
                           "/",
                           "org/",
                           "/name",
                           "org//name",
                           "org/name/more",
                           "./name",
                           "../name",
                           "~/name",
                           "/etc/passwd",
                           "org/..",
                           "..",
                           ".",
                           "org/na..me",
                           "org/na--me",
                           "org/name.git",
                           "-org/name",
                           "org/-name",
                           "org/name-",
                           "org/name.",
                           "org/na me",
                           "org/na:me",
                           "org/n\xc3\xa4me",
                           "org\\name",
                           "org/name@",
                           "org/name@../main",
                           "org/name@/main",
                           "org/name@a//b",
                           "org/name@-x",
                           "org/name@a b",
                           "org/name@a..b",
                           "org/name@a/",
                           "org/name@a\nb"})
    EXPECT_FALSE(parse_model_name(text)) << text;
  EXPECT_TRUE(parse_model_name("org/" + std::string(96, 'n')));
  EXPECT_FALSE(parse_model_name("org/" + std::string(97, 'n')));
}

TEST(HubNames, KnowsPathsThatStayInside) {
  for (const char* path : {"a", "a/b.json", "..a", "a..", ".hidden/x", "with space/\xc3\xa4"})
    EXPECT_TRUE(is_safe_path(path)) << path;
  for (const char* path : {"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "./a", "a/./b", "a\\b",
                           "a\nb", "a\x7f", "a\x1b[2J"})
    EXPECT_FALSE(is_safe_path(path)) << path;
  EXPECT_FALSE(is_safe_path(std::string("a\0b", 3)));
  EXPECT_FALSE(is_safe_path(std::string(2000, 'a')));
}

TEST(HubNames, KnowsEtagsThatAreFileNames) {
  for (const char* etag : {"d41d8cd98f00b204e9800998ecf8427e-12", "5f3-abc:gzip", "A_b"})
    EXPECT_TRUE(is_safe_etag(etag)) << etag;
  for (const char* etag : {"", ".", "..", "a/b", "../x", "a.incomplete", "a b", "a\\b", "a\n", "\"a\""})
    EXPECT_FALSE(is_safe_etag(etag)) << etag;
  EXPECT_FALSE(is_safe_etag(std::string(129, 'a')));
  EXPECT_EQ(clean_etag("W/\"abc\""), "abc");
  EXPECT_EQ(clean_etag("\"abc\""), "abc");
  EXPECT_EQ(clean_etag("abc"), "abc");
  EXPECT_EQ(clean_etag("\""), "");
}

TEST(HubNames, AModelNameHasOneSlashAndIsNoPathHere) {
  const test::ScratchFolder scratch;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(scratch.path());
  std::filesystem::create_directories("models/emoji");
  test::spit("models/file", "x");
  EXPECT_FALSE(is_model_name("models/emoji"));
  EXPECT_FALSE(is_model_name("models/emoji@main"));
  EXPECT_FALSE(is_model_name("models/file"));
  EXPECT_FALSE(is_model_name("models/emoji/"));
  EXPECT_TRUE(is_model_name("models/other"));
  EXPECT_TRUE(is_model_name("models/other@v1"));
  EXPECT_FALSE(is_model_name("other"));
  EXPECT_FALSE(is_model_name("./other"));
  EXPECT_FALSE(is_model_name("/models/other"));
  std::filesystem::current_path(before);
}

}  // namespace
}  // namespace raedit::hub
