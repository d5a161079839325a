#include "io/yaml_interpolation.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/check.h"
#include "core/text.h"
#include "io/yaml_limits.h"
#include "io/yaml_scalar.h"

namespace raedit::io {
namespace {

constexpr std::string_view kMissing = "???";

// A node of the tree and the way to it: relative interpolations count from where they stand.
struct Location {
  std::vector<const Json*> chain;  // from the root to the node
  std::vector<std::string> keys;   // one fewer

  const Json& node() const { return *chain.back(); }
  std::string path() const {
    std::string text;
    for (size_t i = 0; i < keys.size(); ++i)
      text += chain[i]->is_array() ? fmt::format("[{}]", keys[i]) : text.empty() ? keys[i] : "." + keys[i];
    return text.empty() ? "the top level" : text;
  }
  void enter(const Json& child, std::string key) {
    chain.push_back(&child);
    keys.push_back(std::move(key));
  }
  void leave() {
    chain.pop_back();
    keys.pop_back();
  }
};

// What an interpolation leads to: a place in the tree, or a string put together.
using Target = std::variant<Location, std::string>;

bool is_interpolation(const Json& value) {
  return value.is_string() && value.get_ref<const std::string&>().find("${") != std::string::npos;
}

// "..a[b].c" without its leading dots -> a, b, c
std::vector<std::string> split_key(std::string_view text) {
  std::vector<std::string> keys;
  while (!text.empty()) {
    const bool bracket = text.starts_with('[');
    if (bracket || text.starts_with('.')) text.remove_prefix(1);
    const size_t end = std::min(bracket ? text.find(']') : text.find_first_of(".["), text.size());
    keys.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + (bracket ? 1 : 0), text.size()));
  }
  return keys;
}

class Resolver {
 public:
  Resolver(const Json& tree, const std::string& where) : tree_(tree), where_(where) {}

  Json run() {
    Location root{{&tree_}, {}};
    return copy(root, 0);
  }

 private:
  // Marks an interpolation as being worked on, which finds circles.
  class Active {
   public:
    Active(Resolver& resolver, const Location& at) : resolver_(resolver) {
      auto& active = resolver_.active_;
      if (std::find(active.begin(), active.end(), &at.node()) != active.end())
        resolver_.fail(at, "an interpolation leads back to itself", at.node().get<std::string>());
      if (active.size() >= static_cast<size_t>(kMaxYamlDepth))
        resolver_.fail(at, "interpolations lead from one to the next too often", at.node().get<std::string>());
      active.push_back(&at.node());
    }
    ~Active() { resolver_.active_.pop_back(); }
    Active(const Active&) = delete;
    Active& operator=(const Active&) = delete;

   private:
    Resolver& resolver_;
  };

  std::string place(const Location& at) const { return where_ + ": " + at.path(); }

  [[noreturn]] void fail(const Location& at, std::string what, std::string_view found, std::string hint = {},
                         ErrorCode code = ErrorCode::format) const {
    raise({.code = code,
           .what = std::move(what),
           .where = place(at),
           .found = fmt::format("'{}'", found.substr(0, 200)),
           .hint = std::move(hint)});
  }

  Json copy(Location& at, size_t depth) {
    const Json& node = at.node();
    budget_.spend(1, node.is_string() ? node.get_ref<const std::string&>().size() : 0, where_);
    if (is_interpolation(node)) {
      const Active active(*this, at);
      Target target = evaluate(node.get_ref<const std::string&>(), at);
      if (auto* text = std::get_if<std::string>(&target)) return std::move(*text);
      return copy(std::get<Location>(target), depth);
    }
    if (!node.is_structured()) return node;
    check_yaml_depth(depth + 1, where_);
    if (node.is_array()) {
      Json list = Json::array();
      for (size_t i = 0; i < node.size(); ++i) {
        at.enter(node[i], std::to_string(i));
        list.push_back(copy(at, depth + 1));
        at.leave();
      }
      return list;
    }
    Json::object_t members;
    for (const auto& [key, value] : node.get_ref<const Json::object_t&>()) {
      budget_.spend(0, key.size(), where_);
      at.enter(value, key);
      members.emplace_back(key, copy(at, depth + 1));
      at.leave();
    }
    return Json(std::move(members));
  }

  // On until it is no interpolation any more.
  Target follow(const Location& at) {
    if (!is_interpolation(at.node())) return at;
    const Active active(*this, at);
    Target target = evaluate(at.node().get_ref<const std::string&>(), at);
    if (const auto* next = std::get_if<Location>(&target)) return follow(*next);
    return target;
  }

  // Text with at least one "${" in it. A backslash before it takes its meaning away, two are one.
  Target evaluate(const std::string& text, const Location& at) {
    std::string result;
    size_t position = 0;
    while (true) {
      const size_t open = text.find("${", position);
      if (open == text.npos) break;
      size_t backslashes = 0;
      while (open - backslashes > position && text[open - backslashes - 1] == '\\') ++backslashes;
      result.append(text, position, open - backslashes - position).append(backslashes / 2, '\\');
      if (backslashes % 2 == 1) {
        result += "${";
        position = open + 2;
        continue;
      }
      size_t end = open + 2;
      const Location target = reference(text, end, at, 0);
      if (open == 0 && end == text.size()) return target;
      result += scalar_text(target, text, at);
      position = end;
      budget_.spend(1, result.size(), where_);
    }
    return result.append(text, position);
  }

  // The value of an interpolation inside a string or a key.
  std::string scalar_text(const Location& location, const std::string& text, const Location& at) {
    const Target target = follow(location);
    if (const auto* made = std::get_if<std::string>(&target)) return *made;
    const Json& value = std::get<Location>(target).node();
    if (value == kMissing) fail(at, "an interpolation leads to a missing value: ???", text);
    if (value.is_structured())
      fail(at, "a list or an object inside a string is not supported", text, {}, ErrorCode::unsupported);
    return python_text(value);
  }

  // What stands between "${", before `position`, and "}"; `position` ends behind that.
  Location reference(const std::string& text, size_t& position, const Location& at, int depth) {
    budget_.spend(1, 0, where_);
    check_yaml_depth(static_cast<size_t>(depth), place(at));
    const auto skip_blanks = [&] { position = std::min(text.find_first_not_of(" \t", position), text.size()); };
    skip_blanks();
    std::string key;
    const size_t start = position;
    while (position < text.size() && std::string_view("} \t:").find(text[position]) == std::string_view::npos) {
      if (text.compare(position, 2, "${") == 0) {
        position += 2;
        key += scalar_text(reference(text, position, at, depth + 1), text, at);
        continue;
      }
      if (std::string_view("\\{()'\"").find(text[position]) != std::string_view::npos)
        fail(at, fmt::format("'{}' in an interpolation", text[position]), text);
      key += text[position++];
    }
    skip_blanks();
    if (position < text.size() && text[position] == ':')
      fail(at,
           fmt::format("the resolver '{}' of an interpolation is not supported", text.substr(start, position - start)),
           text, "write the value itself", ErrorCode::unsupported);
    if (position == text.size() || text[position] != '}') fail(at, "an interpolation has no end", text);
    ++position;
    return find(key, text, at);
  }

  // The leading dots of `key` say where to begin: one is the object that holds `at`, every other one level up.
  Location find(std::string_view key, const std::string& text, const Location& at) {
    const size_t dots = std::min(key.find_first_not_of('.'), key.size());
    const std::vector<std::string> names = split_key(key.substr(dots));
    if (names.empty() || std::count(names.begin(), names.end(), "") > 0)
      fail(at, "an interpolation without a name, or with an empty one", text);
    if (dots >= at.chain.size()) fail(at, "an interpolation leads above the top level", text);
    Location place = at;
    const size_t levels = dots == 0 ? at.keys.size() : dots;
    for (size_t i = 0; i < levels; ++i) place.leave();
    for (const std::string& name : names) {
      Target target = follow(place);
      if (!std::holds_alternative<Location>(target))
        fail(at, fmt::format("an interpolation leads nowhere: '{}' is no list and no object", place.path()), text);
      place = std::get<Location>(std::move(target));
      step(place, name, text, at);
    }
    if (place.node() == kMissing) fail(at, "an interpolation leads to a missing value: ???", text);
    return place;
  }

  void step(Location& place, const std::string& name, const std::string& text, const Location& at) const {
    const Json& node = place.node();
    if (node.is_object()) {
      const auto found = node.find(name);
      if (found != node.end()) return place.enter(*found, name);
      std::vector<std::string> known;
      for (const auto& [key, value] : node.items()) known.push_back(key);
      constexpr size_t kLongestName = 200;  // comparing takes the square of the length
      fail(at, fmt::format("an interpolation leads nowhere: no '{}' in {}", name.substr(0, kLongestName), place.path()),
           text, name.size() <= kLongestName ? did_you_mean(name, known) : "");
    }
    if (!node.is_array())
      fail(at, fmt::format("an interpolation leads nowhere: '{}' is no list and no object", place.path()), text);
    const std::optional<int64_t> found = number_of<int64_t>(name);
    const auto size = static_cast<int64_t>(node.size());
    if (!found || *found < -size || *found >= size)
      fail(at, fmt::format("an interpolation leads nowhere: no element '{}' in {}", name, place.path()), text);
    const int64_t index = *found < 0 ? *found + size : *found;
    place.enter(node[static_cast<size_t>(index)], std::to_string(index));
  }

  const Json& tree_;
  const std::string& where_;
  YamlBudget budget_;
  std::vector<const Json*> active_;
};

}  // namespace

Json resolve_interpolations(const Json& tree, const std::string& where) {
  return Resolver(tree, where).run();
}

}  // namespace raedit::io
