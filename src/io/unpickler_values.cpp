// The pickle opcodes that stand for one number or one piece of text.
#include <fmt/format.h>

#include <bit>
#include <charconv>
#include <cmath>

#include "io/unpickler.h"

namespace raedit {
namespace {

// Of the sequence that begins at `text`, by the Unicode standard's table 3-7; 0 where there is none.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto follows = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const unsigned lead = byte(0), next = byte(1);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4 || !follows(1)) return 0;
  if (lead < 0xe0) return 2;
  if (lead < 0xf0) return follows(2) && !(lead == 0xe0 && next < 0xa0) && !(lead == 0xed && next >= 0xa0) ? 3 : 0;
  return follows(2) && follows(3) && !(lead == 0xf0 && next < 0x90) && !(lead == 0xf4 && next >= 0x90) ? 4 : 0;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

void append_utf8(std::string& text, uint32_t point) {
  const auto add = [&](uint32_t byte) { text += static_cast<char>(byte); };
  if (point < 0x80) {
    add(point);
  } else if (point < 0x800) {
    add(0xc0 | point >> 6);
    add(0x80 | (point & 0x3f));
  } else if (point < 0x10000) {
    add(0xe0 | point >> 12);
    add(0x80 | (point >> 6 & 0x3f));
    add(0x80 | (point & 0x3f));
  } else {
    add(0xf0 | (point >> 18 & 7));
    add(0x80 | (point >> 12 & 0x3f));
    add(0x80 | (point >> 6 & 0x3f));
    add(0x80 | (point & 0x3f));
  }
}

// Up to `most` digits from the front; nothing is taken where fewer than `least` are there.
std::optional<uint32_t> take_digits(std::string_view& text, size_t least, size_t most, int base) {
  uint32_t value = 0;
  const char* end = text.data() + std::min(most, text.size());
  const auto [after, error] = std::from_chars(text.data(), end, value, base);
  const auto used = static_cast<size_t>(after - text.data());
  if (error != std::errc() || used < least) return std::nullopt;
  text.remove_prefix(used);
  return value;
}

// Undoes Python's repr(); false where it cannot have been one.
bool unescape(std::string_view text, std::string& out) {
  while (!text.empty()) {
    const char c = text.front();
    text.remove_prefix(1);
    if (c != '\\') {
      out += c;
      continue;
    }
    if (text.empty()) return false;
    const char escape = text.front();
    constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
    if (const size_t i = kFrom.find(escape); i != kFrom.npos) {
      out += kTo[i];
      text.remove_prefix(1);
      continue;
    }
    const bool hex = escape == 'x';
    if (hex) text.remove_prefix(1);
    const auto value = hex ? take_digits(text, 2, 2, 16) : take_digits(text, 1, 3, 8);
    if (!value || *value > 0xff) return false;
    out += static_cast<char>(*value);
  }
  return true;
}

}  // namespace

int64_t Unpickler::decimal() {
  const std::string_view digits = line();
  int64_t value = 0;
  const auto [after, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || after != digits.data() + digits.size() || value < 0) fail("a memo's number is none");
  return value;
}

void Unpickler::push_text(PickleKind kind, std::string_view text) {
  push(graph_->add_text(kind, text));
}

void Unpickler::unicode(std::string_view text) {
  if (!is_utf8(text)) fail("a string is not UTF-8");
  push_text(PickleKind::string, text);
}

// What Python 2 called a string is text more often than not.
void Unpickler::bytes_or_string(std::string_view text) {
  push_text(is_utf8(text) ? PickleKind::string : PickleKind::bytes, text);
}

void Unpickler::old_string() {
  std::string_view quoted = line();
  while (!quoted.empty() && (quoted.back() == '\r' || quoted.back() == ' ')) quoted.remove_suffix(1);
  const bool whole = quoted.size() >= 2 && quoted.front() == quoted.back() && (quoted[0] == '\'' || quoted[0] == '"');
  std::string plain;
  if (!whole || !unescape(quoted.substr(1, quoted.size() - 2), plain)) fail("a quoted string is damaged");
  bytes_or_string(plain);
}

// Latin-1 with \u and \U.
void Unpickler::old_unicode() {
  std::string_view raw = line();
  std::string out;
  while (!raw.empty()) {
    const auto c = static_cast<unsigned char>(raw.front());
    raw.remove_prefix(1);
    if (c != '\\' || raw.empty() || (raw.front() != 'u' && raw.front() != 'U')) {
      append_utf8(out, c);
      continue;
    }
    const size_t digits = raw.front() == 'u' ? 4 : 8;
    raw.remove_prefix(1);
    const auto point = take_digits(raw, digits, digits, 16);
    if (!point || *point > 0x10ffff) fail("an escape in a string is damaged");
    append_utf8(out, *point);
  }
  unicode(out);  // refuses surrogates
}

bool Unpickler::text(char opcode) {
  switch (opcode) {
    case 'S': old_string(); return true;
    case 'V': old_unicode(); return true;
    case 'U': bytes_or_string(take(little_endian(1))); return true;
    case 'T': bytes_or_string(take(little_endian(4))); return true;
    case '\x8c': unicode(take(little_endian(1))); return true;
    case 'X': unicode(take(little_endian(4))); return true;
    case '\x8d': unicode(take(little_endian(8))); return true;
    case 'C': push_text(PickleKind::bytes, take(little_endian(1))); return true;
    case 'B': push_text(PickleKind::bytes, take(little_endian(4))); return true;
    case '\x8e':
    case '\x96': push_text(PickleKind::bytes, take(little_endian(8))); return true;
    default: return false;
  }
}

// Two's complement, little-endian.
void Unpickler::long_integer(std::string_view bytes) {
  if (bytes.size() <= sizeof(int64_t)) {
    uint64_t value = !bytes.empty() && (bytes.back() & 0x80) != 0 ? ~uint64_t{0} : 0;
    for (size_t i = bytes.size(); i > 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[i - 1]);
    push(graph_->add({.kind = PickleKind::integer, .value = static_cast<int64_t>(value)}));
    return;
  }
  constexpr size_t kShown = 16;
  if (bytes.size() > kShown) return push(graph_->add_other("an integer beyond 128 bits"));
  std::string hex = "the integer 0x";
  for (size_t i = bytes.size(); i > 0; --i) hex += fmt::format("{:02x}", static_cast<unsigned char>(bytes[i - 1]));
  push(graph_->add_other(hex));
}

// "123L"; "00" and "01" of the opcode INT are bools.
void Unpickler::long_decimal(std::string_view digits) {
  if (digits.ends_with('L')) digits.remove_suffix(1);
  int64_t value = 0;
  const auto [after, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (after != digits.data() + digits.size() || error == std::errc::invalid_argument) fail("an integer is damaged");
  if (error == std::errc())
    push(graph_->add({.kind = PickleKind::integer, .value = value}));
  else
    push(graph_->add_other(digits.size() <= 40 ? fmt::format("the integer {}", digits) : "an integer beyond 128 bits"));
}

bool Unpickler::number(char opcode) {
  const auto add = [this](PickleKind kind, int64_t value) { push(graph_->add({.kind = kind, .value = value})); };
  switch (opcode) {
    case 'N': add(PickleKind::none, 0); return true;
    case '\x88': add(PickleKind::boolean, 1); return true;
    case '\x89': add(PickleKind::boolean, 0); return true;
    case 'J': add(PickleKind::integer, static_cast<int32_t>(little_endian(4))); return true;
    case 'K': add(PickleKind::integer, static_cast<int64_t>(little_endian(1))); return true;
    case 'M': add(PickleKind::integer, static_cast<int64_t>(little_endian(2))); return true;
    case '\x8a': long_integer(take(little_endian(1))); return true;
    case '\x8b': long_integer(take(little_endian(4))); return true;
    case 'L': long_decimal(line()); return true;
    case 'I': {
      const std::string_view digits = line();
      if (digits == "00" || digits == "01")
        add(PickleKind::boolean, digits == "01");
      else
        long_decimal(digits);
      return true;
    }
    case 'F': {
      const std::string_view digits = line();
      double value = 0;
      const auto [after, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
      // Out of range leaves the value alone: Python would say inf or 0, and no state dict asks.
      if (error == std::errc::invalid_argument || after != digits.data() + digits.size()) fail("a float is damaged");
      add(PickleKind::real, std::bit_cast<int64_t>(value));
      return true;
    }
    case 'G': {
      const std::string_view bytes = take(8);
      uint64_t value = 0;
      for (const char byte : bytes) value = value << 8 | static_cast<unsigned char>(byte);
      add(PickleKind::real, static_cast<int64_t>(value));
      return true;
    }
    default: return false;
  }
}

}  // namespace raedit
