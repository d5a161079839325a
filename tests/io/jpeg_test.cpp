// JPEG of every kind against Pillow's pixels, damaged JPEG, and kinds of picture that are told apart by their bytes.
#include "picture_fixtures.h"

namespace raedit {
namespace {

using namespace test;

class EveryJpeg : public testing::TestWithParam<std::string> {};

TEST_P(EveryJpeg, IsAsPillowReadsIt) {
  expect_as_pillow(GetParam());
}

TEST_P(EveryJpeg, IsRefusedWhenCut) {
  expect_every_truncation_refused(GetParam());
}

TEST_P(EveryJpeg, WithAnyByteBadIsAPictureOrAnError) {
  expect_any_byte_handled(GetParam());
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  return info.param.substr(0, info.param.find('.'));
}

INSTANTIATE_TEST_SUITE_P(Jpeg, EveryJpeg, testing::ValuesIn(pictures(".jpg")), test_name);

// Where the first segment with this marker begins, 0xFF and marker included.
size_t segment(const std::string& bytes, uint8_t marker) {
  size_t at = 2;
  while (static_cast<uint8_t>(bytes.at(at + 1)) != marker)
    at += 2 + static_cast<uint8_t>(bytes[at + 2]) * 256u + static_cast<uint8_t>(bytes[at + 3]);
  return at;
}

constexpr uint8_t kFrame = 0xc0, kScan = 0xda, kTables = 0xdb;

std::string good() {
  return slurp(picture_path("420.jpg"));
}

TEST(Jpeg, AllFixturesAreThere) {
  EXPECT_EQ(pictures(".jpg").size(), 19u);
  EXPECT_EQ(pictures(".webp").size(), 8u);
}

// As cameras and programs write it; no warning of libjpeg may become an error, or a line on stderr.
TEST(Jpeg, HarmlessOdditiesAreRead) {
  const Image expected = expected_picture("420.jpg");
  const std::string bytes = good();
  testing::internal::CaptureStderr();
  EXPECT_EQ(decode_image(bytes + std::string(1000, '\xff'), "behind the end"), expected);
  EXPECT_EQ(decode_image(bytes + bytes, "two pictures"), expected);
  std::string filled = bytes;
  filled.insert(segment(bytes, kTables), std::string(3, '\0'));
  EXPECT_EQ(decode_image(filled, "bytes between segments"), expected);
  filled = bytes;
  filled.insert(segment(bytes, kTables), "\xff\xff\xff", 3);
  EXPECT_EQ(decode_image(filled, "fill bytes"), expected);
  filled = bytes;
  filled[segment(bytes, 0xe0) + 9] = 9;
  EXPECT_EQ(decode_image(filled, "JFIF 9"), expected);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Jpeg, DamageIsNamed) {
  const std::string bytes = good();
  testing::internal::CaptureStderr();
  const auto refuse = [](const std::string& bad, const std::string& part) {
    expect_error(ErrorCode::format, {"a/b.jpg: JPEG image is damaged", part}, [&] { decode_image(bad, "a/b.jpg"); });
  };
  refuse(bytes.substr(0, bytes.size() - 2), "Premature end of JPEG file");
  refuse(bytes.substr(0, bytes.size() / 2), "Premature end of JPEG file");
  std::string bad = bytes;
  const size_t pixels = segment(bytes, kScan) + 14;
  bad.replace(pixels + 40, 200, std::string(200, '\x7f'));
  refuse(bad, "bad Huffman code");
  bad = bytes;
  bad.replace(pixels + 40, 2, "\xff\xd9");
  refuse(bad, "premature end of data segment");
  bad = bytes;
  bad.erase(segment(bytes, kTables), 69);
  refuse(bad, "Quantization table");
  refuse(bytes.substr(0, 2) + bytes.substr(segment(bytes, kScan)), "SOS before SOF");
  bad = bytes;
  bad.replace(segment(bytes, kFrame) + 5, 2, 2, '\0');
  refuse(bad, "Empty JPEG image");
  bad = slurp(picture_path("420_restarts.jpg"));
  bad[bad.find("\xff\xd1") + 1] = '\xd5';
  refuse(bad, "Corrupt JPEG data");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Jpeg, RefusesWhatIsNot8BitDct) {
  std::string bytes = good();
  const size_t frame = segment(bytes, kFrame);
  bytes[frame + 4] = 12;
  expect_error(ErrorCode::unsupported, {"a.jpg", "precision 12"}, [&] { decode_image(bytes, "a.jpg"); });
  bytes = good();
  bytes[frame + 1] = '\xc3';  // lossless
  expect_error(ErrorCode::unsupported, {"a.jpg", "SOF type 0xc3"}, [&] { decode_image(bytes, "a.jpg"); });
  bytes = good();  // two of the three components, in frame and scan
  bytes.erase(frame + 16, 3);
  bytes[frame + 3] = 14;
  bytes[frame + 9] = 2;
  const size_t scan = segment(bytes, kScan);
  bytes.erase(scan + 9, 2);
  bytes[scan + 3] = 10;
  bytes[scan + 4] = 2;
  expect_error(ErrorCode::unsupported, {"a.jpg", "2 components"}, [&] { decode_image(bytes, "a.jpg"); });
}

TEST(Jpeg, HugeSizeIsRefusedBeforeMemoryIsTaken) {
  for (const auto& [width, height] : {std::pair{32769, 1}, {1, 32769}, {32768, 32768}, {65000, 65000}}) {
    std::string bytes = good();
    const size_t frame = segment(bytes, kFrame);
    for (const auto& [at, value] : {std::pair{frame + 5, height}, {frame + 7, width}}) {
      bytes[at] = static_cast<char>(value >> 8);
      bytes[at + 1] = static_cast<char>(value);
    }
    expect_error(ErrorCode::unsupported, {"a.jpg", "too large", fmt::format("{} x {}", width, height)},
                 [&] { decode_image(bytes, "a.jpg"); });
  }
  EXPECT_EQ(decode_image(good(), "a.jpg", 37 * 21), expected_picture("420.jpg"));
  expect_error(ErrorCode::unsupported, {"37 x 21", "776 pixels"}, [] { decode_image(good(), "a.jpg", 37 * 21 - 1); });
}

// Each scan goes over the whole picture again.
TEST(Jpeg, EndlessScansAreRefused) {
  std::string bytes = slurp(picture_path("gray_progressive.jpg"));
  const size_t first = segment(bytes, kScan), next = bytes.find("\xff\xc4", first);
  bytes[first + 9] = 0;  // all bits of the mean at once: may come any number of times
  const std::string scan = bytes.substr(first, next - first);
  const auto repeated = [&](int times) {
    std::string file = bytes.substr(0, first);
    for (int i = 0; i < times; ++i) file += scan;
    return file + "\xff\xd9";
  };
  EXPECT_EQ(decode_image(repeated(400), "a.jpg"), decode_image(repeated(1), "a.jpg"));
  expect_error(ErrorCode::format, {"a.jpg", "more than 500 scans"}, [&] { decode_image(repeated(600), "a.jpg"); });
}

TEST(LoadImage, KindIsToldByTheBytes) {
  const ScratchFolder folder;
  const Image image = expected_picture("420.jpg");
  save_png(image, folder / "a.png");
  std::filesystem::rename(folder / "a.png", folder / "png.jpg");
  EXPECT_EQ(load_image(folder / "png.jpg"), image);
  spit(folder / "jpeg", good());
  EXPECT_EQ(load_image(folder / "jpeg"), image);
  spit(folder / "webp.png", slurp(picture_path("lossless.webp")));
  EXPECT_EQ(load_image(folder / "webp.png"), expected_picture("lossless.webp"));
  expect_error(ErrorCode::not_found, {folder / "none.jpg", "No such file"}, [&] { load_image(folder / "none.jpg"); });
  spit(folder / "half.png", slurp(folder / "png.jpg").substr(0, 200));
  expect_error(ErrorCode::format, {folder / "half.png", "PNG image is damaged"},
               [&] { load_image(folder / "half.png"); });
}

TEST(LoadImage, NamesOtherKinds) {
  const std::string zeros(20, '\0');
  const std::vector<std::pair<std::string, std::string>> kinds = {
      {"GIF89a" + zeros, "a GIF file"},
      {"GIF87a" + zeros, "a GIF file"},
      {"BM" + zeros, "a BMP file"},
      {std::string("II*\0", 4) + zeros, "a TIFF file"},
      {std::string("MM\0*", 4) + zeros, "a TIFF file"},
      {std::string("\0\0\0\x1c", 4) + "ftypavif", "an AVIF file"},
      {std::string("\0\0\0\x1c", 4) + "ftypheic", "a HEIC file"},
      {"P4\n1 1\n", "a PBM file"},
      {"P2\n1 1\n", "a PGM file"},
      {"P6\n1 1\n255\n", "a PPM file"},
      {"P6 # by hand", "a PPM file"},
      {std::string("RIFF\x10\0\0\0WAVE", 12) + zeros, "a RIFF file that is not WebP"},
      {"PK\3\4picture", "a file that begins with 50 4b 03 04 70 69 63 74"},
      {"x", "a file that begins with 78"},
  };
  for (const auto& [bytes, name] : kinds)
    expect_error(ErrorCode::unsupported, {"cats/1.jpg: ", "found " + name, "expected PNG, JPEG or WebP"},
                 [&bytes = bytes] { decode_image(bytes, "cats/1.jpg"); });
  expect_error(ErrorCode::format, {"cats/1.jpg", "is empty"}, [] { decode_image("", "cats/1.jpg"); });
  expect_error(ErrorCode::format, {"truncated", "2 bytes"}, [] { decode_image("\xff\xd8", "cats/1.jpg"); });
}

}  // namespace
}  // namespace raedit
