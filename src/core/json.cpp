// The parser drives nlohmann's lexer through its SAX interface: the library's own ordered object looks every key up in
// a list, which is quadratic in the header of a large checkpoint, and lets duplicate keys pass.
#include "core/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "core/check.h"
#include "core/text.h"

namespace raedit {

namespace {

class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(const std::string& where) : where_(where) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // JSON text has none

  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override {
    open_.pop_back();
    return true;
  }
  bool key(string_t& name) override {
    // push_back of the underlying vector: no look-up
    auto& members = open_.back()->get_ref<Json::object_t&>();
    members.emplace_back(std::move(name), nullptr);
    value_ = &members.back().second;
    return true;
  }
  bool end_object() override {
    check_duplicates(open_.back()->get_ref<const Json::object_t&>());
    open_.pop_back();
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..." -> "..."
    std::string_view message = error.what();
    if (const size_t start = message.find("] "); start != std::string_view::npos) message.remove_prefix(start + 2);
    raise({.code = ErrorCode::format,
           .what = fmt::format("not valid JSON at byte {}", position),
           .where = where_,
           .found = std::string(message.substr(0, 200))});
  }

 private:
  template <class T>
  bool add(T&& value) {
    place(Json(std::forward<T>(value)));
    return true;
  }

  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      auto& items = open_.back()->get_ref<Json::array_t&>();
      items.push_back(std::move(value));
      return &items.back();
    }
    *value_ = std::move(value);
    return value_;
  }

  bool open(Json value) {
    RAEDIT_CHECK(open_.size() < static_cast<size_t>(kMaxJsonDepth),
                 {.code = ErrorCode::format,
                  .what = "JSON is nested too deeply",
                  .where = where_,
                  .expected = fmt::format("at most {} levels", kMaxJsonDepth)});
    open_.push_back(place(std::move(value)));
    return true;
  }

  void check_duplicates(const Json::object_t& members) const {
    std::unordered_set<std::string_view> names;
    names.reserve(members.size());
    for (const auto& member : members)
      RAEDIT_CHECK(names.insert(member.first).second, {.code = ErrorCode::format,
                                                       .what = "JSON object has a key twice",
                                                       .where = where_,
                                                       .found = fmt::format("'{}'", member.first)});
  }

  const std::string& where_;
  Json root_;
  std::vector<Json*> open_;  // parents of the value to come; none of their lists grows while a child is open
  Json* value_ = nullptr;    // where the member whose key was just read belongs
};

constexpr size_t kLongest = 60;

// At least the first kLongest bytes of value.dump(), and not much more: a file may hold a list of millions.
void append_start(const Json& value, std::string& text) {
  const auto append_text = [&](const std::string& part) {
    text += Json(part.substr(0, kLongest + 4)).dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  if (value.is_string()) return append_text(value.get_ref<const std::string&>());
  if (!value.is_structured()) {
    text += value.dump();
    return;
  }
  text += value.is_object() ? '{' : '[';
  bool first = true;
  for (const auto& [key, item] : value.items()) {
    if (text.size() > kLongest) return;
    if (!first) text += ',';
    first = false;
    if (value.is_object()) {
      append_text(key);
      text += ':';
    }
    append_start(item, text);
  }
  text += value.is_object() ? '}' : ']';
}

std::string describe(const Json& value) {
  std::string text;
  append_start(value, text);
  if (text.size() > kLongest) {
    size_t end = kLongest;
    while ((static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // not inside a character
    text = text.substr(0, end) + "...";
  }
  return fmt::format("{} {}", value.is_number_integer() ? "integer" : value.type_name(), text);
}

// Exact integers only: 2^63 and above do not fit, 1.0 is not an integer, true is not 1.
std::optional<int64_t> as_int64(const Json& value) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  if (!value.is_number_integer()) return std::nullopt;
  return value.get<int64_t>();
}

std::optional<std::vector<int64_t>> as_int_list(const Json& value) {
  if (!value.is_array()) return std::nullopt;
  std::vector<int64_t> list;
  for (const Json& item : value) {
    const std::optional<int64_t> element = as_int64(item);
    if (!element) return std::nullopt;
    list.push_back(*element);
  }
  return list;
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  // The lexer takes a zero byte for the end and would leave what follows unread.
  const size_t zero = text.find('\0');
  RAEDIT_CHECK(zero == std::string_view::npos, {.code = ErrorCode::format,
                                                .what = fmt::format("not valid JSON at byte {}", zero + 1),
                                                .where = where,
                                                .found = "a zero byte"});
  Builder builder(where);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

JsonReader::JsonReader(const Json& object, std::string where) : object_(&object), where_(std::move(where)) {
  RAEDIT_CHECK(object.is_object(), {.code = ErrorCode::format,
                                    .what = "not a JSON object",
                                    .where = where_,
                                    .found = describe(object),
                                    .expected = "an object"});
}

bool JsonReader::has(std::string_view key) const {
  return object_->find(key) != object_->end();
}

const Json* JsonReader::raw(std::string_view key) {
  if (std::find(asked_.begin(), asked_.end(), key) == asked_.end()) asked_.emplace_back(key);
  const auto found = object_->find(key);
  return found == object_->end() ? nullptr : &*found;
}

const Json& JsonReader::require(std::string_view key) {
  const Json* value = raw(key);
  RAEDIT_CHECK(value != nullptr,
               {.code = ErrorCode::format, .what = fmt::format("'{}' is missing", key), .where = where_});
  return *value;
}

void JsonReader::fail(std::string_view key, std::string expected) const {
  const auto value = object_->find(key);
  raise({.code = ErrorCode::format,
         .what = fmt::format("'{}' is wrong", key),
         .where = where_,
         .found = value == object_->end() ? "nothing" : describe(*value),
         .expected = std::move(expected)});
}

int64_t JsonReader::int64(std::string_view key) {
  const std::optional<int64_t> value = as_int64(require(key));
  if (!value) fail(key, "an integer");
  return *value;
}
int64_t JsonReader::int64(std::string_view key, int64_t fallback) {
  return raw(key) == nullptr ? fallback : int64(key);
}

double JsonReader::number(std::string_view key) {
  const Json& value = require(key);
  if (!value.is_number()) fail(key, "a number");
  return value.get<double>();
}
double JsonReader::number(std::string_view key, double fallback) {
  return raw(key) == nullptr ? fallback : number(key);
}

bool JsonReader::boolean(std::string_view key) {
  const Json& value = require(key);
  if (!value.is_boolean()) fail(key, "true or false");
  return value.get<bool>();
}
bool JsonReader::boolean(std::string_view key, bool fallback) {
  return raw(key) == nullptr ? fallback : boolean(key);
}

std::string JsonReader::string(std::string_view key) {
  const Json& value = require(key);
  if (!value.is_string()) fail(key, "a string");
  return value.get<std::string>();
}
std::string JsonReader::string(std::string_view key, std::string_view fallback) {
  return raw(key) == nullptr ? std::string(fallback) : string(key);
}

std::array<int64_t, 2> JsonReader::int_pair(std::string_view key) {
  const Json& value = require(key);
  if (const std::optional<int64_t> both = as_int64(value)) return {*both, *both};
  const std::optional<std::vector<int64_t>> list = as_int_list(value);
  if (!list || list->size() != 2) fail(key, "an integer or a list of two");
  return {(*list)[0], (*list)[1]};
}
std::array<int64_t, 2> JsonReader::int_pair(std::string_view key, std::array<int64_t, 2> fallback) {
  return raw(key) == nullptr ? fallback : int_pair(key);
}

namespace {

bool absent(const Json* value) {
  return value == nullptr || value->is_null();
}

}  // namespace

std::optional<int64_t> JsonReader::optional_int64(std::string_view key) {
  return absent(raw(key)) ? std::nullopt : std::optional(int64(key));
}
std::optional<double> JsonReader::optional_number(std::string_view key) {
  return absent(raw(key)) ? std::nullopt : std::optional(number(key));
}

void JsonReader::finish() const {
  for (const auto& [key, value] : object_->items()) {
    if (key.starts_with('_') || std::find(asked_.begin(), asked_.end(), key) != asked_.end()) continue;
    std::string hint = did_you_mean(key, asked_);
    raise({.code = ErrorCode::format,
           .what = fmt::format("unknown key '{}'", key),
           .where = where_,
           .hint = hint.empty() ? fmt::format("known keys: {}", join(asked_)) : std::move(hint)});
  }
}

}  // namespace raedit
