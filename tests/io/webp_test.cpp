// WebP of every kind against Pillow's pixels, and damaged WebP.
#include "picture_fixtures.h"

namespace raedit {
namespace {

using namespace test;

class EveryWebP : public testing::TestWithParam<std::string> {};

TEST_P(EveryWebP, IsAsPillowReadsIt) {
  expect_as_pillow(GetParam());
}

TEST_P(EveryWebP, IsRefusedWhenCut) {
  expect_every_truncation_refused(GetParam());
}

TEST_P(EveryWebP, WithAnyByteBadIsAPictureOrAnError) {
  expect_any_byte_handled(GetParam());
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  return info.param.substr(0, info.param.find('.'));
}

INSTANTIATE_TEST_SUITE_P(WebP, EveryWebP, testing::ValuesIn(pictures(".webp")), test_name);

void put(std::string& bytes, size_t at, uint32_t value, size_t count) {
  for (size_t i = 0; i < count; ++i) bytes[at + i] = static_cast<char>(value >> (8 * i));
}

TEST(WebP, DamageIsNamed) {
  const auto refuse = [](const std::string& bad, const std::string& part) {
    expect_error(ErrorCode::format, {"a/b.webp: WebP image is damaged", part}, [&] { decode_image(bad, "a/b.webp"); });
  };
  const std::string lossy = slurp(picture_path("lossy.webp"));
  refuse(lossy.substr(0, lossy.size() - 1), "the file ends too early");
  // The container is whole, its pixels are not.
  std::string bad = lossy.substr(0, 200);
  put(bad, 4, 192, 4);
  put(bad, 16, 180, 4);
  refuse(bad, "its pixels");
  bad = slurp(picture_path("lossless.webp"));
  bad[20] = 'x';  // the signature of the pixels
  refuse(bad, "");
  bad = slurp(picture_path("animation.webp"));
  put(bad, bad.find("ANMF") + 8, 100, 3);  // to the right of the canvas
  refuse(bad, "contradict");
  bad = slurp(picture_path("lossy_alpha.webp"));
  put(bad, bad.find("VP8X") + 12, 40, 3);  // a canvas that is not the picture's
  refuse(bad, "contradict");
}

TEST(WebP, WhatIsBehindTheEndIsNotRead) {
  EXPECT_EQ(decode_image(slurp(picture_path("lossy.webp")) + "more", "a.webp"), expected_picture("lossy.webp"));
}

TEST(WebP, HugeSizeIsRefusedBeforeMemoryIsTaken) {
  std::string bytes = slurp(picture_path("lossless.webp"));
  put(bytes, 21, 0x0fffffff, 4);  // 14 bits of each side, less one
  expect_error(ErrorCode::unsupported, {"a.webp", "too large", "16384 x 16384"},
               [&] { decode_image(bytes, "a.webp"); });
  bytes = slurp(picture_path("animation.webp"));
  put(bytes, bytes.find("VP8X") + 12, 32768, 3);
  expect_error(ErrorCode::unsupported, {"a.webp", "too large", "32769 x 25"}, [&] { decode_image(bytes, "a.webp"); });
  bytes = slurp(picture_path("lossy.webp"));
  expect_error(ErrorCode::unsupported, {"37 x 21", "776 pixels"}, [&] { decode_image(bytes, "a.webp", 776); });
}

}  // namespace
}  // namespace raedit
