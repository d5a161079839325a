#include "values.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>

#include "core/text.h"
#include "raedit/context.h"
#include "raedit/error.h"

namespace raedit::cli {
namespace {

template <class T>
bool parse_all(const std::string& text, T& value) {
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  return result.ec == std::errc() && result.ptr == end;
}

template <class T>
std::string describe_range(T min, T max) {
  const bool open = max == std::numeric_limits<T>::max() || max == std::numeric_limits<T>::infinity();
  return open ? fmt::format("must be {} or more", min) : fmt::format("must be from {} to {}", min, max);
}

// 1 or more; nothing where it is no size or does not fit.
std::optional<uint64_t> bytes_of(std::string_view text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, problem] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  if (problem != std::errc()) return std::nullopt;
  std::string unit;
  for (const char* c = rest; c != end; ++c)
    if (*c != ' ' || !unit.empty()) unit += static_cast<char>(std::toupper(static_cast<unsigned char>(*c)));
  if (unit.ends_with('B')) unit.pop_back();
  const double base = unit.ends_with('I') ? 1024 : 1000;
  if (unit.ends_with('I')) unit.pop_back();
  constexpr std::string_view kPrefixes = "KMGT";
  const size_t prefix = unit.empty() ? 0 : kPrefixes.find(unit) + 1;
  if (unit.size() > 1 || (!unit.empty() && prefix == 0) || (unit.empty() && base == 1024)) return std::nullopt;
  value *= std::pow(base, static_cast<double>(prefix));
  if (!(value >= 1 && value < 9e18)) return std::nullopt;
  return static_cast<uint64_t>(value);
}

}  // namespace

CLI::Validator whole_number(int64_t min, int64_t max) {
  return CLI::Validator(
      [min, max](std::string& text) {
        int64_t value = 0;
        if (!parse_all(text, value)) return fmt::format("must be a whole number (found '{}')", text);
        if (value < min || value > max) return fmt::format("{} (found {})", describe_range(min, max), text);
        return std::string();
      },
      "");
}

CLI::Validator number(double min, double max) {
  return CLI::Validator(
      [min, max](std::string& text) {
        double value = 0;
        if (!parse_all(text, value) || !std::isfinite(value)) return fmt::format("must be a number (found '{}')", text);
        if (value < min || value > max) return fmt::format("{} (found {})", describe_range(min, max), text);
        return std::string();
      },
      "");
}

CLI::Validator device_name() {
  return CLI::Validator(
      [](const std::string& text) -> std::string {
        try {
          (void)Device::from_name(text);
          return "";
        } catch (const Error&) {
          return fmt::format("must be cpu, cuda or cuda:N (found '{}')", text);
        }
      },
      "");
}

CLI::Validator one_of(std::vector<std::string> words) {
  return CLI::Validator(
      [words = std::move(words)](std::string& text) {
        for (const std::string& word : words)
          if (text == word) return std::string();
        return fmt::format("must be {} (found '{}')", join(words, " or "), text);
      },
      "");
}

uint64_t parse_bytes(std::string_view text) {
  return bytes_of(text).value_or(0);
}

CLI::Validator byte_count() {
  return CLI::Validator(
      [](std::string& text) {
        if (!bytes_of(text)) return fmt::format("must be a size such as 5GB, 500MiB or 1000000 (found '{}')", text);
        return std::string();
      },
      "");
}

std::string both_spellings(const std::string& name) {
  std::string dashed = name;
  std::replace(dashed.begin(), dashed.end(), '_', '-');
  return dashed == name ? "--" + name : "--" + name + ",--" + dashed;
}

std::string OneSpelling::make_option_name(const CLI::Option* option, bool is_positional) const {
  if (is_positional || option->get_lnames().empty()) return CLI::Formatter::make_option_name(option, is_positional);
  std::string names;
  for (const std::string& letter : option->get_snames()) names += "-" + letter + ",";
  return names + "--" + option->get_lnames().front();
}

void add_switch(CLI::App& app, const std::string& name, bool& on, const std::string& help) {
  app.add_flag(name, on, help)->disable_flag_override();
}

}  // namespace raedit::cli
