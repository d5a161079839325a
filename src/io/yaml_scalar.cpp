#include "io/yaml_scalar.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "core/check.h"

namespace raedit::io {
namespace {

constexpr std::string_view kDigits = "0123456789", kDigitsAndGaps = "0123456789_";

bool is_any_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

// Takes from the front what consists of `characters`.
std::string_view take(std::string_view& text, std::string_view characters) {
  const size_t length = std::min(text.find_first_not_of(characters), text.size());
  const std::string_view taken = text.substr(0, length);
  text.remove_prefix(length);
  return taken;
}

bool take_sign(std::string_view& text) {
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  return negative;
}

bool consists_of(std::string_view text, std::string_view characters) {
  return !text.empty() && text.find_first_not_of(characters) == text.npos;
}

// ":59" once or more, at the front.
bool take_sixtieths(std::string_view& text) {
  bool any = false;
  while (text.starts_with(':')) {
    std::string_view rest = text.substr(1);
    const std::string_view digits = take(rest, kDigits);
    if (digits.empty() || digits.size() > 2 || (digits.size() == 2 && digits[0] > '5')) return false;
    text = rest;
    any = true;
  }
  return any;
}

// 1, 1_000, but not 1__0 or 1_: OmegaConf's, where PyYAML is less strict.
bool well_grouped(std::string_view digits) {
  return !digits.ends_with('_') && digits.find("__") == digits.npos;
}

// [eE][-+]?[0-9]+ and nothing more.
bool is_exponent(std::string_view text, bool sign_needed) {
  if (!text.starts_with('e') && !text.starts_with('E')) return false;
  text.remove_prefix(1);
  const size_t before = text.size();
  take_sign(text);
  return (!sign_needed || text.size() < before) && consists_of(text, kDigits);
}

bool is_int(std::string_view text) {
  take_sign(text);
  if (text.starts_with("0b")) return consists_of(text.substr(2), "01_");
  if (text.starts_with("0x")) return consists_of(text.substr(2), "0123456789abcdefABCDEF_");
  if (text.starts_with('0')) return text == "0" || consists_of(text.substr(1), "01234567_");
  if (text.starts_with('_') || take(text, kDigitsAndGaps).empty()) return false;
  return text.empty() || (take_sixtieths(text) && text.empty());
}

bool is_float(std::string_view text) {
  if (is_any_of(text, {".nan", ".NaN", ".NAN"})) return true;
  if (text.starts_with('.') && text.size() > 1 && text[1] >= '0' && text[1] <= '9') {
    text.remove_prefix(1);
    take(text, kDigitsAndGaps);
    return text.empty() || is_exponent(text, true);
  }
  take_sign(text);
  if (is_any_of(text, {".inf", ".Inf", ".INF"})) return true;
  if (text.starts_with('_')) return false;
  const std::string_view whole = take(text, kDigitsAndGaps);
  if (whole.empty()) return false;
  if (text.starts_with(':')) {
    if (!take_sixtieths(text) || !text.starts_with('.')) return false;
    text.remove_prefix(1);
    take(text, kDigitsAndGaps);
    return text.empty();
  }
  if (!text.starts_with('.')) return well_grouped(whole) && is_exponent(text, false);
  text.remove_prefix(1);
  take(text, kDigitsAndGaps);
  return text.empty() || is_exponent(text, !well_grouped(whole));
}

[[noreturn]] void raise_number(const char* what, std::string_view text, const std::string& where) {
  raise({.code = ErrorCode::format,
         .what = what,
         .where = where,
         .found = fmt::format("'{}'", text.substr(0, 60)),
         .expected = "a number of 64 bits"});
}

std::string without_gaps(std::string_view text) {
  std::string digits(text);
  digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
  return digits;
}

// text: digits of `base`, or parts in base 60 between colons.
std::optional<uint64_t> magnitude(std::string_view text, int base) {
  uint64_t value = 0;
  do {
    const size_t length = std::min(text.find(':'), text.size());
    uint64_t part = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + length, part, base);
    if (error != std::errc() || end != text.data() + length) return std::nullopt;
    if (__builtin_mul_overflow(value, uint64_t{60}, &value) || __builtin_add_overflow(value, part, &value))
      return std::nullopt;
    text.remove_prefix(std::min(length + 1, text.size()));
  } while (!text.empty());
  return value;
}

Json to_int(std::string_view text, const std::string& where) {
  const std::string digits = without_gaps(text);
  std::string_view rest = digits;
  const bool negative = take_sign(rest);
  int base = 10;
  if (rest.starts_with("0b") || rest.starts_with("0x")) {
    base = rest[1] == 'b' ? 2 : 16;
    rest.remove_prefix(2);
  } else if (rest.starts_with('0') && rest.size() > 1) {
    base = 8;
  }
  const std::optional<uint64_t> value = magnitude(rest, base);
  constexpr uint64_t kLimit = uint64_t{1} << 63;
  if (!value || (negative && *value > kLimit)) raise_number("not an integer that fits", text, where);
  if (negative) return *value == kLimit ? std::numeric_limits<int64_t>::min() : -static_cast<int64_t>(*value);
  if (*value < kLimit) return static_cast<int64_t>(*value);
  return *value;
}

std::optional<double> decimal(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

Json to_float(std::string_view text, const std::string& where) {
  const std::string digits = without_gaps(text);
  std::string_view rest = digits;
  const double sign = take_sign(rest) ? -1.0 : 1.0;
  if (is_any_of(rest, {".inf", ".Inf", ".INF"})) return sign * std::numeric_limits<double>::infinity();
  if (is_any_of(rest, {".nan", ".NaN", ".NAN"})) return std::numeric_limits<double>::quiet_NaN();
  double value = 0;
  while (true) {
    const size_t length = std::min(rest.find(':'), rest.size());
    const std::optional<double> part = decimal(rest.substr(0, length));
    if (!part) raise_number("not a float that fits", text, where);
    value = value * 60.0 + *part;
    if (length == rest.size()) break;
    rest.remove_prefix(length + 1);
  }
  return sign * value;
}

bool is_null(std::string_view text) {
  return is_any_of(text, {"", "~", "null", "Null", "NULL"});
}

std::optional<bool> to_bool(std::string_view text) {
  if (is_any_of(text, {"yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})) return true;
  if (is_any_of(text, {"no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})) return false;
  return std::nullopt;
}

// repr() of a float: the shortest digits that read back as it, 1e-06 and 1e+16 with an exponent, 1.0 with its point.
std::string python_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 64> buffer;
  const auto scientific = std::to_chars(buffer.begin(), buffer.end(), value, std::chars_format::scientific);
  const std::string_view text(buffer.data(), static_cast<size_t>(scientific.ptr - buffer.data()));
  const size_t e = text.find('e');
  int exponent = 0;
  std::from_chars(text.data() + e + (text[e + 1] == '+' ? 2 : 1), text.data() + text.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(text);
  const auto fixed = std::to_chars(buffer.begin(), buffer.end(), value, std::chars_format::fixed);
  std::string plain(buffer.begin(), fixed.ptr);
  if (plain.find('.') == plain.npos) plain += ".0";
  return plain;
}

}  // namespace

Json plain_yaml_scalar(std::string_view text, const std::string& where) {
  if (is_null(text)) return nullptr;
  if (const std::optional<bool> value = to_bool(text)) return *value;
  if (is_int(text)) return to_int(text, where);
  if (is_float(text)) return to_float(text, where);
  return std::string(text);
}

Json tagged_yaml_scalar(std::string_view tag, std::string_view text, const std::string& where) {
  constexpr std::string_view kYaml = "tag:yaml.org,2002:";
  const std::string_view type = tag.starts_with(kYaml) ? tag.substr(kYaml.size()) : std::string_view();
  if (type == "str") return std::string(text);
  if (type == "null") return nullptr;
  if (type == "bool") {
    std::string lower(text);
    for (char& c : lower)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (const std::optional<bool> value = to_bool(lower)) return *value;
    raise({.code = ErrorCode::format, .what = "not a boolean", .where = where, .found = fmt::format("'{}'", text)});
  }
  if (type == "int" && is_int(text)) return to_int(text, where);
  if (type == "float" && (is_float(text) || is_int(text))) return to_float(text, where);
  if (type == "int" || type == "float") raise_number("not a number, though its tag says so", text, where);
  raise({.code = ErrorCode::unsupported,
         .what = fmt::format("YAML tag '{}' is not supported", tag.substr(0, 100)),
         .where = where,
         .expected = "!!str, !!int, !!float, !!bool, !!null, !!seq or !!map"});
}

std::string python_text(const Json& scalar) {
  if (scalar.is_null()) return "None";
  if (scalar.is_boolean()) return scalar.get<bool>() ? "True" : "False";
  if (scalar.is_string()) return scalar.get<std::string>();
  return scalar.is_number_float() ? python_float(scalar.get<double>()) : scalar.dump();
}

}  // namespace raedit::io
