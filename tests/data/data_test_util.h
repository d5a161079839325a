// Small pictures of random pixels, and tar archives made by hand: as tar writes them, and as it never would.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/io_test_util.h"
#include "raedit/image.h"

namespace raedit::test {

inline Image random_image(int width, int height, uint64_t seed) {
  std::mt19937_64 engine(seed);
  Image image{width, height, std::vector<uint8_t>(static_cast<size_t>(width) * static_cast<size_t>(height) * 3)};
  for (uint8_t& value : image.rgb) value = static_cast<uint8_t>(engine());
  return image;
}

inline std::string png_bytes(const Image& image) {
  const ScratchFolder scratch;
  save_png(image, scratch / "x.png");
  return slurp(scratch / "x.png");
}

struct TarEntry {
  char type = '0';
  std::string prefix = {};
  std::string magic = std::string("ustar\0", 6) + "00";
  std::string size = {};  // the field's 12 bytes, where they are not those of the content
};

// Whole blocks.
inline std::string padded(std::string content) {
  content.resize((content.size() + 511) / 512 * 512);
  return content;
}

inline std::string tar_header(const std::string& name, size_t size, const TarEntry& entry = {}) {
  std::string block(512, '\0');
  const auto put = [&](size_t at, std::string_view text) { block.replace(at, text.size(), text); };
  put(0, name.substr(0, 100));
  put(100, "0000644");
  put(108, "0001750");
  put(116, "0001750");
  put(124, entry.size.empty() ? fmt::format("{:011o}", size) : entry.size);
  put(136, "14000000000");
  put(148, "        ");
  block[156] = entry.type;
  put(257, entry.magic);
  put(345, entry.prefix);
  unsigned sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  put(148, fmt::format("{:06o}", sum) + std::string("\0 ", 2));
  return block;
}

inline std::string tar_member(const std::string& name, const std::string& content, const TarEntry& entry = {}) {
  return tar_header(name, content.size(), entry) + padded(content);
}

inline std::string tar_end() {
  return std::string(1024, '\0');
}

inline std::string pax_record(const std::string& key, const std::string& value) {
  const size_t rest = key.size() + value.size() + 3;
  size_t length = rest + 1;
  while (fmt::to_string(length).size() + rest != length) ++length;
  return fmt::format("{} {}={}\n", length, key, value);
}

}  // namespace raedit::test
