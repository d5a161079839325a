#include "values.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <utility>

#include "core/text.h"

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

CLI::Validator one_of(std::vector<std::string> words) {
  return CLI::Validator(
      [words = std::move(words)](std::string& text) {
        for (const std::string& word : words)
          if (text == word) return std::string();
        return fmt::format("must be {} (found '{}')", join(words, " or "), text);
      },
      "");
}

void add_switch(CLI::App& app, const std::string& name, bool& on, const std::string& help) {
  app.add_flag(name, on, help)->disable_flag_override();
}

}  // namespace raedit::cli
