// Small helpers for messages: closest names for "did you mean", joined lists, sizes for people.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace raedit {

// Edits (insert, delete, replace, swap of neighbours) from `a` to `b`; `limit + 1` as soon as it must be more than
// `limit`.
size_t edit_distance(std::string_view a, std::string_view b, size_t limit);

// Up to `max` candidates that could be a misspelling of `name`, closest first, ties in the order given.
std::vector<std::string> nearest(std::string_view name, std::span<const std::string> candidates, size_t max = 3);

// "did you mean 'a' or 'b'?", or "" when nothing is near: the hint of an error.
std::string did_you_mean(std::string_view name, std::span<const std::string> candidates);

// The number that the whole text is, or nothing: "12" but not "12 ", "+1" or "".
template <class T>
std::optional<T> number_of(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

std::string join(std::span<const std::string> items, std::string_view separator = ", ");

// "17 B", "1.50 MiB"
std::string human_bytes(uint64_t bytes);

}  // namespace raedit
