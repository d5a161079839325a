// JSON in: a parser for files of strangers, and a strict reader of configuration objects.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace raedit {

using Json = nlohmann::ordered_json;

// Deep enough for any file we know, shallow enough for recursion over the result.
inline constexpr int kMaxJsonDepth = 64;

// Throws Error(format) naming `where` and the byte: for text that is not JSON, duplicate keys, and deeper nesting than
// kMaxJsonDepth. Linear in the size of the text.
Json parse_json(std::string_view text, const std::string& where);

// Reads the keys of one object, each by name and type, and then insists that nothing was left over:
//
//   JsonReader config(json, "transformer/config.json");
//   hidden_size = config.int64("hidden_size", 1152);
//   ...
//   config.finish();
//
// A missing key yields the fallback; without a fallback it is an error. A value of the wrong type is always an error:
// nothing is rounded, truncated or read as something else, only an integer may stand where a float is meant.
class JsonReader {
 public:
  // `object` must outlive the reader. Throws Error(format) when it is not an object.
  JsonReader(const Json& object, std::string where);
  JsonReader(Json&& object, std::string where) = delete;

  bool has(std::string_view key) const;  // does not count as asking

  int64_t int64(std::string_view key);
  int64_t int64(std::string_view key, int64_t fallback);
  double number(std::string_view key);
  double number(std::string_view key, double fallback);
  bool boolean(std::string_view key);
  bool boolean(std::string_view key, bool fallback);
  std::string string(std::string_view key);
  std::string string(std::string_view key, std::string_view fallback);
  // An integer, standing for both, or a list of two.
  std::array<int64_t, 2> int_pair(std::string_view key);
  std::array<int64_t, 2> int_pair(std::string_view key, std::array<int64_t, 2> fallback);

  // null and a missing key are nullopt.
  std::optional<int64_t> optional_int64(std::string_view key);
  std::optional<double> optional_number(std::string_view key);

  // The value as it stands, or nullptr: for what has no getter, such as nested lists.
  const Json* raw(std::string_view key);

  // Throws Error(format) for a key that nobody asked for, naming the nearest that somebody did. Keys that start with
  // '_' (diffusers' _class_name and the like) are let through.
  void finish() const;

  const std::string& where() const { return where_; }
  // For checks on values by the caller: Error(format) in the reader's own words.
  [[noreturn]] void fail(std::string_view key, std::string expected) const;

 private:
  const Json& require(std::string_view key);

  const Json* object_;
  std::string where_;
  std::vector<std::string> asked_;
};

}  // namespace raedit
