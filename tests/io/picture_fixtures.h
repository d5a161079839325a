// The pictures of tests/io/data/pictures and what Pillow makes of them (tools/make_image_fixtures.py).
#pragma once

#include <fmt/format.h>

#include <filesystem>

#include "io/picture_codec.h"
#include "io/safetensors.h"
#include "io_test_util.h"

namespace raedit::test {

inline std::string picture_path(const std::string& name) {
  return std::string(RAEDIT_SOURCE_DIR "/tests/io/data/pictures/") + name;
}

// Names, by the ending.
inline std::vector<std::string> pictures(const std::string& ending) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(picture_path("")))
    if (entry.path().extension() == ending) found.push_back(entry.path().filename().string());
  std::sort(found.begin(), found.end());
  return found;
}

// By Pillow.
inline Image expected_picture(const std::string& name) {
  const Tensor pixels = SafetensorsFile::open(picture_path("expected.safetensors")).tensor(name);
  const auto* bytes = reinterpret_cast<const uint8_t*>(pixels.raw());
  return {static_cast<int>(pixels.dim(1)), static_cast<int>(pixels.dim(0)), {bytes, bytes + pixels.nbytes()}};
}

// Byte for byte.
inline void expect_as_pillow(const std::string& name) {
  const Image found = load_image(picture_path(name)), expected = expected_picture(name);
  ASSERT_EQ(found.width, expected.width);
  ASSERT_EQ(found.height, expected.height);
  ASSERT_EQ(found.rgb.size(), expected.rgb.size());
  for (size_t i = 0; i < found.rgb.size(); ++i)
    ASSERT_EQ(found.rgb[i], expected.rgb[i])
        << "channel " << i % 3 << " at " << i / 3 % static_cast<size_t>(found.width) << ", "
        << i / 3 / static_cast<size_t>(found.width);
}

inline void expect_every_truncation_refused(const std::string& name) {
  const std::string whole = slurp(picture_path(name));
  for (size_t length = 0; length < whole.size(); ++length) {
    SCOPED_TRACE(fmt::format("{} cut to {} of {} bytes", name, length, whole.size()));
    // A copy of its own, so that a sanitizer sees who reads behind the end.
    const std::vector<char> part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    expect_error(ErrorCode::format, {"shard.tar: cat"}, [&] { decode_image({part.data(), length}, "shard.tar: cat"); });
  }
}

// Every byte replaced, twice: a picture of a size that is allowed, or an Error of a damaged or unknown file.
inline void expect_any_byte_handled(const std::string& name) {
  const std::string whole = slurp(picture_path(name));
  constexpr int64_t kMaxPixels = 1 << 16;
  size_t refused = 0;
  for (size_t at = 0; at < whole.size(); ++at)
    for (const int flip : {0xff, 0x01}) {
      std::string bad = whole;
      bad[at] = static_cast<char>(bad[at] ^ flip);
      try {
        const Image image = decode_image(bad, "cat", kMaxPixels);
        ASSERT_GT(image.width, 0);
        ASSERT_GT(image.height, 0);
        ASSERT_EQ(image.rgb.size(), static_cast<size_t>(image.width) * static_cast<size_t>(image.height) * 3);
        ASSERT_LE(image.rgb.size() / 3, static_cast<size_t>(kMaxPixels));
      } catch (const Error& error) {
        ASSERT_TRUE(error.code() == ErrorCode::format || error.code() == ErrorCode::unsupported) << error.what();
        ASSERT_TRUE(std::string(error.what()).starts_with("cat: ")) << error.what();
        ++refused;
      }
    }
  EXPECT_GT(refused, 0u);
}

}  // namespace raedit::test
