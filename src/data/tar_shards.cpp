#include "data/tar_shards.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>

#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "data/fingerprint.h"
#include "data/tar_reader.h"
#include "io/files.h"
#include "io/picture_codec.h"

namespace raedit::data {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMaxShards = 100'000;
constexpr size_t kMaxClassBytes = size_t{1} << 20;
// Without classes.txt a name is made for each number up to the highest.
constexpr int64_t kMaxClass = 1'000'000;

constexpr std::array<std::string_view, 4> kPictureEndings = {"jpg", "jpeg", "png", "webp"};

struct Picture {
  uint32_t shard = 0;
  TarMember member;
  int64_t class_id = 0;
};

class TarSet : public PictureSet {
 public:
  TarSet(std::vector<std::string> shards, std::vector<Picture> pictures, std::vector<std::string> classes)
      : shards_(std::move(shards)), pictures_(std::move(pictures)), classes_(std::move(classes)) {}

  int64_t size() const override { return static_cast<int64_t>(pictures_.size()); }
  const std::vector<std::string>& classes() const override { return classes_; }
  int64_t class_id(int64_t index) const override { return at(index).class_id; }
  std::string name(int64_t index) const override { return shard(index) + ": " + at(index).member.name; }
  std::string bytes(int64_t index) const override {
    const TarMember& member = at(index).member;
    RAEDIT_CHECK(member.size <= kMaxImageFileBytes, {.code = ErrorCode::format,
                                                     .what = "picture is too large",
                                                     .where = name(index),
                                                     .found = human_bytes(member.size),
                                                     .expected = "at most " + human_bytes(kMaxImageFileBytes)});
    return read_range(shard(index), member.offset, member.size);
  }
  std::string fingerprint() const override {
    Fingerprint fingerprint;
    for (const Picture& picture : pictures_)
      fingerprint.add(fs::path(shards_[picture.shard]).filename().string() + "/" + picture.member.name,
                      picture.class_id, picture.member.size);
    return fingerprint.hex();
  }

 private:
  const Picture& at(int64_t index) const { return pictures_[static_cast<size_t>(index)]; }
  const std::string& shard(int64_t index) const { return shards_[at(index).shard]; }

  std::vector<std::string> shards_;
  std::vector<Picture> pictures_;
  std::vector<std::string> classes_;
};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = std::min(text.find_first_not_of(kSpace), text.size());
  const size_t end = text.find_last_not_of(kSpace) + 1;
  return begin < end ? text.substr(begin, end - begin) : std::string_view();
}

// The name up to the first dot of its last part, and what follows in small letters; nothing for "a", ".a", "a/.b".
std::optional<std::pair<std::string, std::string>> split(const std::string& name) {
  const size_t slash = name.rfind('/');
  const size_t base = slash == name.npos ? 0 : slash + 1;
  const size_t dot = name.find('.', base);
  if (dot == name.npos || dot == base) return std::nullopt;
  std::string ending = name.substr(dot + 1);
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  return std::pair(name.substr(0, dot), std::move(ending));
}

// Puts the samples of shards together, member by member.
class Samples {
 public:
  explicit Samples(std::vector<std::string> classes) : classes_(std::move(classes)) {}

  void read_shard(const std::string& path, uint32_t shard) {
    TarReader reader(path);
    path_ = &path;
    TarMember member;
    while (reader.next(member)) {
      auto parts = split(member.name);
      if (!parts) continue;
      if (parts->first != key_) finish(shard);
      key_ = std::move(parts->first);
      add(reader, member, parts->second);
    }
    finish(shard);
  }

  std::shared_ptr<const PictureSet> take(const std::vector<std::string>& shards) {
    RAEDIT_CHECK(!pictures_.empty(), {.code = ErrorCode::format,
                                      .what = "there are no samples in the shards",
                                      .where = join_some(shards),
                                      .expected = "members NAME.jpg (or png, webp) and NAME.cls"});
    if (classes_.empty())
      for (int64_t id = 0; id <= highest_; ++id) classes_.push_back(fmt::to_string(id));
    return std::make_shared<TarSet>(shards, std::move(pictures_), std::move(classes_));
  }

 private:
  static std::string join_some(const std::vector<std::string>& shards) {
    return shards.size() == 1 ? shards[0] : fmt::format("{} and {} more", shards[0], shards.size() - 1);
  }

  void add(const TarReader& reader, const TarMember& member, const std::string& ending) {
    const bool is_picture = std::find(kPictureEndings.begin(), kPictureEndings.end(), ending) != kPictureEndings.end();
    if (is_picture) {
      if (picture_) fail("has two pictures", "'" + picture_->name + "' and '" + member.name + "'");
      picture_ = member;
    } else if (ending == "cls") {
      const std::string text = reader.read(member, kMaxClassBytes);
      const auto number = number_of<int64_t>(trimmed(text));
      if (!number) fail("has a class that is not a number", "'" + std::string(trimmed(text).substr(0, 40)) + "'");
      class_id_ = number;
      has_cls_ = true;
    } else if (ending == "json" && !has_cls_) {
      const std::string where = *path_ + ": " + member.name;
      const Json json = parse_json(reader.read(member, kMaxClassBytes), where);
      JsonReader values(json, where);
      for (const char* key : {"label", "cls"})
        if (!class_id_ && values.has(key)) class_id_ = values.int64(key);
    }
  }

  void finish(uint32_t shard) {
    if (key_.empty()) return;
    if (!picture_) fail("has no picture", "", "a member ending in .jpg, .jpeg, .png or .webp");
    if (!class_id_) fail("has no class", "", "a member .cls (a number) or .json with the integer \"label\" or \"cls\"");
    const int64_t count = classes_.empty() ? kMaxClass : static_cast<int64_t>(classes_.size());
    if (*class_id_ < 0 || *class_id_ >= count)
      fail("has an impossible class", fmt::to_string(*class_id_),
           fmt::format("0 to {}{}", count - 1, classes_.empty() ? "" : ", the lines of classes.txt"));
    highest_ = std::max(highest_, *class_id_);
    pictures_.push_back({shard, std::move(*picture_), *class_id_});
    key_.clear();
    picture_.reset();
    class_id_.reset();
    has_cls_ = false;
  }

  [[noreturn]] void fail(const std::string& what, std::string found = "", std::string expected = "") const {
    raise({.code = ErrorCode::format,
           .what = "a sample " + what,
           .where = *path_ + ": " + key_,
           .found = std::move(found),
           .expected = std::move(expected),
           .hint = "a sample is the members in a row whose names are the same up to the first dot"});
  }

  std::vector<std::string> classes_;
  std::vector<Picture> pictures_;
  int64_t highest_ = 0;
  const std::string* path_ = nullptr;
  // The sample that is being read.
  std::string key_;
  std::optional<TarMember> picture_;
  std::optional<int64_t> class_id_;
  bool has_cls_ = false;
};

std::vector<std::string> class_names(const std::string& shard) {
  const std::string path = (fs::path(shard).parent_path() / "classes.txt").string();
  std::vector<std::string> names;
  if (!is_file(path)) return names;
  const std::string content = read_file(path);
  const std::string_view text = content;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    names.emplace_back(trimmed(text.substr(at, end - at)));
    at = end + 1;
  }
  while (!names.empty() && names.back().empty()) names.pop_back();
  RAEDIT_CHECK(!names.empty() && std::find(names.begin(), names.end(), "") == names.end(),
               {.code = ErrorCode::format,
                .what = "a class has no name",
                .where = path,
                .expected = "one name in each line, the first one of class 0"});
  return names;
}

// "000..012" or "a,b"; nothing for other texts.
std::vector<std::string> expand_list(std::string_view list) {
  std::vector<std::string> items;
  if (list.find('{') != list.npos) return items;
  if (const size_t dots = list.find(".."); dots != list.npos) {
    const std::string_view first = list.substr(0, dots), last = list.substr(dots + 2);
    const auto begin = number_of<uint32_t>(first), end = number_of<uint32_t>(last);
    if (!begin || !end || *begin > *end || *end - *begin >= kMaxShards) return items;
    const bool padded = (first.size() > 1 && first[0] == '0') || (last.size() > 1 && last[0] == '0');
    const size_t width = padded ? std::max(first.size(), last.size()) : 0;
    for (uint64_t i = *begin; i <= *end; ++i) items.push_back(fmt::format("{:0{}}", i, width));
  } else if (list.find(',') != list.npos) {
    for (size_t at = 0; at <= list.size();) {
      const size_t end = std::min(list.find(',', at), list.size());
      items.emplace_back(list.substr(at, end - at));
      at = end + 1;
    }
  }
  return items;
}

}  // namespace

std::vector<std::string> expand_braces(const std::string& pattern) {
  const auto check = [&](bool ok, const char* what) {
    RAEDIT_CHECK(ok, {.code = ErrorCode::invalid_argument,
                      .what = what,
                      .where = pattern,
                      .expected = fmt::format("{{000..127}} or {{a,b}}, {} shards at most", kMaxShards)});
  };
  std::vector<std::string> names = {""};
  size_t at = 0;
  while (at < pattern.size()) {
    const size_t open = std::min(pattern.find('{', at), pattern.size());
    for (std::string& name : names) name.append(pattern, at, open - at);
    if (open == pattern.size()) break;
    const size_t close = pattern.find('}', open);
    check(close != pattern.npos, "a brace is not closed");
    const std::vector<std::string> items = expand_list(std::string_view(pattern).substr(open + 1, close - open - 1));
    check(!items.empty() && names.size() * items.size() <= kMaxShards, "a brace list is wrong");
    std::vector<std::string> longer;
    for (const std::string& name : names)
      for (const std::string& item : items) longer.push_back(name + item);
    names = std::move(longer);
    at = close + 1;
  }
  return names;
}

std::shared_ptr<const PictureSet> open_tar_shards(const std::vector<std::string>& shards) {
  RAEDIT_CHECK(!shards.empty() && shards.size() <= kMaxShards, {.code = ErrorCode::invalid_argument,
                                                                .what = "number of shards is wrong",
                                                                .found = fmt::to_string(shards.size()),
                                                                .expected = fmt::format("1 to {}", kMaxShards)});
  Samples samples(class_names(shards[0]));
  for (size_t i = 0; i < shards.size(); ++i) samples.read_shard(shards[i], static_cast<uint32_t>(i));
  return samples.take(shards);
}

}  // namespace raedit::data
