// yaml-cpp's events, built into JSON as they come: memory is spent only within the limits of yaml_limits.h, which a
// tree of yaml-cpp's own nodes would have exceeded before anybody could look at it.
#include "io/yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <istream>
#include <iterator>
#include <map>
#include <optional>
#include <streambuf>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/check.h"
#include "io/files.h"
#include "io/yaml_interpolation.h"
#include "io/yaml_limits.h"
#include "io/yaml_scalar.h"

namespace raedit {
namespace {

using io::check_yaml_depth;

std::string place_of(const std::string& where, const YAML::Mark& mark) {
  return mark.is_null() ? where : fmt::format("{}: line {}, column {}", where, mark.line + 1, mark.column + 1);
}

struct Size {
  size_t nodes = 1, bytes = 0, depth = 0;
};

Size measure(const Json& value) {
  Size size;
  if (value.is_string()) size.bytes = value.get_ref<const std::string&>().size();
  if (!value.is_structured()) return size;
  for (const auto& [key, item] : value.items()) {
    const Size inner = measure(item);
    size.nodes += inner.nodes;
    size.bytes += inner.bytes + (value.is_object() ? key.size() : 0);
    size.depth = std::max(size.depth, inner.depth);
  }
  ++size.depth;
  return size;
}

// yaml-cpp turns the escapes \N and \_ into the bytes 0x85 and 0xa0 alone; in UTF-8, which all else is, 0xc2 precedes
// them.
std::string with_whole_characters(const std::string& text) {
  std::string whole;
  size_t rest = 0;  // of a character begun
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (rest > 0)
      --rest;
    else if (byte == 0x85 || byte == 0xa0)
      whole += '\xc2';
    else
      rest = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : byte >= 0xc0 ? 1 : 0;
    whole += c;
  }
  return whole;
}

using Members = std::vector<std::pair<std::string, Json>>;

class Builder : public YAML::EventHandler {
 public:
  explicit Builder(const std::string& where) : where_(where) {}

  Json take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0)
      raise({.code = ErrorCode::format,
             .what = "a second YAML document",
             .where = place_of(where_, mark),
             .expected = "one document"});
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { scalar(mark, anchor, nullptr, false); }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& escaped) override {
    const std::string text = with_whole_characters(escaped);
    budget_.spend(0, text.size(), where_);
    if (tag == "?" || tag.empty()) return scalar(mark, anchor, resolve(mark, text), text == "<<");
    scalar(mark, anchor, tag == "!" ? Json(text) : io::tagged_yaml_scalar(tag, text, place_of(where_, mark)), false);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    RAEDIT_CHECK(found != anchors_.end(), {.code = ErrorCode::format,
                                           .what = "a YAML alias inside the value it stands for",
                                           .where = place_of(where_, mark)});
    const Size& size = found->second.second;
    budget_.spend(size.nodes, size.bytes, place_of(where_, mark));
    check_yaml_depth(open_.size() + size.depth, place_of(where_, mark));
    add(mark, Json(found->second.first), false);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, "tag:yaml.org,2002:seq", anchor, Json::array());
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, "tag:yaml.org,2002:map", anchor, Json::object());
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    YAML::Mark mark;
    YAML::anchor_t anchor;
    Json value;
    // Of a mapping: the key whose value comes next, what is there already, and what << brings.
    std::optional<std::string> key;
    bool merges = false;
    std::unordered_set<std::string> keys;
    Members merged;
  };

  Json resolve(const YAML::Mark& mark, const std::string& text) const {
    // Only what could be a number needs its place written out.
    const bool plain_text = text.find_first_of("0123456789") == text.npos;
    return io::plain_yaml_scalar(text, plain_text ? where_ : place_of(where_, mark));
  }

  void scalar(const YAML::Mark& mark, YAML::anchor_t anchor, Json value, bool merge_key) {
    budget_.spend(1, 0, place_of(where_, mark));
    remember(anchor, value, mark);
    add(mark, std::move(value), merge_key);
  }

  void remember(YAML::anchor_t anchor, const Json& value, const YAML::Mark& mark) {
    if (anchor == YAML::NullAnchor) return;
    const Size size = measure(value);
    budget_.spend(size.nodes, size.bytes, place_of(where_, mark));
    anchors_[anchor] = {value, size};
  }

  void open(const YAML::Mark& mark, const std::string& tag, const std::string& usual, YAML::anchor_t anchor,
            Json empty) {
    RAEDIT_CHECK(tag.empty() || tag == "?" || tag == "!" || tag == usual,
                 {.code = ErrorCode::unsupported,
                  .what = fmt::format("YAML tag '{}' is not supported", tag.substr(0, 100)),
                  .where = place_of(where_, mark),
                  .expected = "!!str, !!int, !!float, !!bool, !!null, !!seq or !!map"});
    if (wants_key()) refuse_key(mark, "a list or an object");
    budget_.spend(1, 0, place_of(where_, mark));
    check_yaml_depth(open_.size() + 1, place_of(where_, mark));
    open_.push_back({mark, anchor, std::move(empty), std::nullopt, false, {}, {}});
  }

  void close() {
    Frame frame = std::move(open_.back());
    open_.pop_back();
    if (!frame.merged.empty()) frame.value = with_merged(frame);
    remember(frame.anchor, frame.value, frame.mark);
    add(frame.mark, std::move(frame.value), false);
  }

  bool wants_key() const {
    return !open_.empty() && open_.back().value.is_object() && !open_.back().key && !open_.back().merges;
  }

  [[noreturn]] void refuse_key(const YAML::Mark& mark, const char* found) const {
    raise({.code = ErrorCode::unsupported,
           .what = "a YAML key that is no text",
           .where = place_of(where_, mark),
           .found = found,
           .expected = "a string or a number"});
  }

  // A finished value goes where it belongs: to the root, a list, or an object as key or value.
  void add(const YAML::Mark& mark, Json value, bool merge_key) {
    if (open_.empty()) {
      root_ = std::move(value);
      return;
    }
    Frame& parent = open_.back();
    if (parent.value.is_array()) return parent.value.push_back(std::move(value));
    if (wants_key()) return add_key(mark, value, merge_key);
    if (parent.merges) {
      parent.merges = false;
      return merge(mark, std::move(value));
    }
    // The underlying vector: no look-up, the key is known to be new.
    parent.value.get_ref<Json::object_t&>().emplace_back(*std::exchange(parent.key, std::nullopt), std::move(value));
  }

  void add_key(const YAML::Mark& mark, const Json& value, bool merge_key) {
    Frame& parent = open_.back();
    if (merge_key) {
      parent.merges = true;
      return;
    }
    if (value.is_null() || value.is_structured()) refuse_key(mark, value.is_null() ? "null" : "a list or an object");
    // As Python's json writes keys: true, but 1e-06.
    std::string key = value.is_boolean() ? value.dump() : io::python_text(value);
    RAEDIT_CHECK(key.size() <= io::kMaxYamlKeyBytes, {.code = ErrorCode::format,
                                                      .what = "a YAML key is too long",
                                                      .where = place_of(where_, mark),
                                                      .found = fmt::format("{} bytes", key.size()),
                                                      .expected = fmt::format("at most {}", io::kMaxYamlKeyBytes)});
    RAEDIT_CHECK(parent.keys.insert(key).second, {.code = ErrorCode::format,
                                                  .what = "a YAML mapping has a key twice",
                                                  .where = place_of(where_, mark),
                                                  .found = fmt::format("'{}'", key.substr(0, 100))});
    parent.key = std::move(key);
  }

  // << takes a mapping, or a list of mappings of which the first that has a key decides.
  void merge(const YAML::Mark& mark, Json value) {
    Members& merged = open_.back().merged;
    const auto append = [&](const Json& source) {
      RAEDIT_CHECK(source.is_object(), {.code = ErrorCode::format,
                                        .what = "'<<' merges something that is no mapping",
                                        .where = place_of(where_, mark),
                                        .found = source.type_name(),
                                        .expected = "a mapping or a list of mappings"});
      for (const auto& [key, item] : source.items()) merged.emplace_back(key, item);
    };
    if (!value.is_array()) return append(value);
    for (size_t i = value.size(); i-- > 0;) append(value[i]);
  }

  // The order of Python's dict: a key stays where it first came, with the value that came last.
  static Json with_merged(Frame& frame) {
    Json::object_t members;
    std::unordered_map<std::string, size_t> places;
    const auto put = [&](const std::string& key, Json& value) {
      const auto [place, added] = places.emplace(key, members.size());
      if (added)
        members.emplace_back(key, std::move(value));
      else
        std::next(members.begin(), static_cast<std::ptrdiff_t>(place->second))->second = std::move(value);
    };
    for (auto& [key, value] : frame.merged) put(key, value);
    for (auto& [key, value] : frame.value.get_ref<Json::object_t&>()) put(key, value);
    return Json(std::move(members));
  }

  const std::string& where_;
  io::YamlBudget budget_;
  Json root_;
  std::vector<Frame> open_;
  std::map<YAML::anchor_t, std::pair<Json, Size>> anchors_;
  int documents_ = 0;
};

// The length of the character at the front of `text`, 0 when it is not UTF-8 or not one that YAML allows.
size_t character_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return first == '\t' || first == '\n' || first == '\r' || (first >= 0x20 && first < 0x7f) ? 1 : 0;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  uint32_t code = first & (0x7fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3f);
  }
  const bool too_long = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  const bool control = code < 0xa0 && code != 0x85;
  return too_long || surrogate || control || code > 0x10ffff || code == 0xfffe || code == 0xffff ? 0 : length;
}

// yaml-cpp would take byte 4 for the end of the file, and guesses at UTF-16.
void check_characters(std::string_view text, const std::string& where) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = character_length(text.substr(i));
    RAEDIT_CHECK(length > 0, {.code = ErrorCode::format,
                              .what = fmt::format("not valid YAML at byte {}", i),
                              .where = where,
                              .found = fmt::format("byte 0x{:02x}", static_cast<unsigned char>(text[i])),
                              .expected = "UTF-8 text without control characters"});
    i += length;
  }
}

// A view to read from, without a copy.
class ViewBuffer : public std::streambuf {
 public:
  explicit ViewBuffer(std::string_view text) {
    char* begin = const_cast<char*>(text.data());  // the get area is never written to
    setg(begin, begin, begin + text.size());
  }
};

}  // namespace

Json parse_yaml(std::string_view text, const std::string& where) {
  RAEDIT_CHECK(text.size() <= io::kMaxYamlBytes, {.code = ErrorCode::format,
                                                  .what = "too long for YAML",
                                                  .where = where,
                                                  .found = fmt::format("{} bytes", text.size()),
                                                  .expected = fmt::format("at most {} bytes", io::kMaxYamlBytes)});
  check_characters(text, where);
  Builder builder(where);
  try {
    ViewBuffer buffer(text);
    std::istream stream(&buffer);
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    raise({.code = ErrorCode::format,
           .what = "not valid YAML",
           .where = place_of(where, error.mark),
           .found = error.msg.substr(0, 200)});
  }
  return io::resolve_interpolations(builder.take(), where);
}

Json read_yaml(const std::string& path) {
  Json json = parse_yaml(read_file(path, io::kMaxYamlBytes), path);
  RAEDIT_CHECK(json.is_object(), {.code = ErrorCode::format,
                                  .what = "not a YAML mapping",
                                  .where = path,
                                  .found = json.type_name(),
                                  .expected = "a mapping"});
  return json;
}

}  // namespace raedit
