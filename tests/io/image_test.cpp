// PNG in every colour type, damaged PNG, texts, and the way to tensors and grids.
#include "raedit/image.h"

#include <png.h>
#include <sys/wait.h>

#include <cmath>
#include <csetjmp>
#include <limits>

#include "io_test_util.h"

namespace raedit {
namespace {

using test::expect_error;
using test::ScratchFolder;
using test::slurp;
using test::spit;

Image random_image(int width, int height, uint64_t seed) {
  std::mt19937_64 engine(seed);
  Image image{width, height, std::vector<uint8_t>(static_cast<size_t>(width) * static_cast<size_t>(height) * 3)};
  for (uint8_t& byte : image.rgb) byte = static_cast<uint8_t>(engine());
  return image;
}

// A PNG of any kind, made by libpng: `samples` are the raw values, row by row, each below 2^bit_depth.
struct PngKind {
  const char* name;
  int colour_type;
  int bit_depth;
  int channels;
  bool interlaced = false;
  bool transparent = false;  // a tRNS chunk
};

void PrintTo(const PngKind& kind, std::ostream* out) {
  *out << kind.name;
}

constexpr int kWidth = 13, kHeight = 9;

std::vector<std::vector<uint8_t>> pack(const std::vector<int>& samples, const PngKind& kind) {
  std::vector<std::vector<uint8_t>> rows;
  const size_t per_row = static_cast<size_t>(kWidth * kind.channels), depth = static_cast<size_t>(kind.bit_depth);
  for (size_t y = 0; y < kHeight; ++y) {
    std::vector<uint8_t> row((per_row * depth + 7) / 8);
    for (size_t i = 0; i < per_row; ++i)
      for (size_t bit = 0; bit < depth; ++bit) {
        const size_t at = i * depth + bit;
        const int value = samples[y * per_row + i] >> (depth - 1 - bit) & 1;
        row[at / 8] = static_cast<uint8_t>(row[at / 8] | value << (7 - at % 8));
      }
    rows.push_back(row);
  }
  return rows;
}

// A palette whose entries differ in all three channels.
png_color palette_entry(int i) {
  return {static_cast<png_byte>(i * 7), static_cast<png_byte>(255 - i), static_cast<png_byte>(i * 31 + 3)};
}

void make_png(const std::string& path, const PngKind& kind, const std::vector<int>& samples) {
  FILE* file = std::fopen(path.c_str(), "wb");
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  auto rows = pack(samples, kind);
  std::vector<png_bytep> pointers;
  for (auto& row : rows) pointers.push_back(row.data());
  std::vector<png_color> palette;
  for (int i = 0; i < 1 << std::min(kind.bit_depth, 8); ++i) palette.push_back(palette_entry(i));
  png_byte alpha[2] = {0, 128};
  png_color_16 transparent{1, 1, 1, 1, 1};

  ASSERT_EQ(setjmp(png_jmpbuf(png)), 0) << "libpng refused the test's image";
  png_init_io(png, file);
  png_set_IHDR(png, info, kWidth, kHeight, kind.bit_depth, kind.colour_type,
               kind.interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  if (kind.colour_type == PNG_COLOR_TYPE_PALETTE)
    png_set_PLTE(png, info, palette.data(), static_cast<int>(palette.size()));
  if (kind.transparent) png_set_tRNS(png, info, alpha, 2, &transparent);
  png_set_rows(png, info, pointers.data());
  png_write_png(png, info, PNG_TRANSFORM_IDENTITY, nullptr);
  png_destroy_write_struct(&png, &info);
  std::fclose(file);
}

// From the PNG specification, not from libpng: what each pixel is in 8-bit RGB without alpha.
Image expected_rgb(const PngKind& kind, const std::vector<int>& samples) {
  Image image{kWidth, kHeight, {}};
  const bool gray = kind.colour_type == PNG_COLOR_TYPE_GRAY || kind.colour_type == PNG_COLOR_TYPE_GRAY_ALPHA;
  const auto to_8_bit = [&](int value) {
    return static_cast<uint8_t>(kind.bit_depth == 16 ? value >> 8 : value * 255 / ((1 << kind.bit_depth) - 1));
  };
  for (size_t pixel = 0; pixel < kWidth * kHeight; ++pixel) {
    const int* sample = &samples[pixel * static_cast<size_t>(kind.channels)];
    if (kind.colour_type == PNG_COLOR_TYPE_PALETTE) {
      const png_color colour = palette_entry(*sample);
      image.rgb.insert(image.rgb.end(), {colour.red, colour.green, colour.blue});
    } else {
      for (int c = 0; c < 3; ++c) image.rgb.push_back(to_8_bit(sample[gray ? 0 : c]));
    }
  }
  return image;
}

class EveryPng : public testing::TestWithParam<PngKind> {};

TEST_P(EveryPng, BecomesRgb) {
  const ScratchFolder folder;
  const PngKind& kind = GetParam();
  std::mt19937 engine(5);
  std::vector<int> samples(static_cast<size_t>(kWidth * kHeight * kind.channels));
  for (int& sample : samples) sample = static_cast<int>(engine() & ((1u << kind.bit_depth) - 1));
  make_png(folder / "a.png", kind, samples);
  EXPECT_EQ(load_png(folder / "a.png"), expected_rgb(kind, samples));
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, EveryPng,
    testing::Values(
        PngKind{"Gray1", PNG_COLOR_TYPE_GRAY, 1, 1}, PngKind{"Gray2", PNG_COLOR_TYPE_GRAY, 2, 1},
        PngKind{"Gray4", PNG_COLOR_TYPE_GRAY, 4, 1}, PngKind{"Gray8", PNG_COLOR_TYPE_GRAY, 8, 1},
        PngKind{"Gray16", PNG_COLOR_TYPE_GRAY, 16, 1},
        PngKind{"Gray4Transparent", PNG_COLOR_TYPE_GRAY, 4, 1, false, true},
        PngKind{"GrayAlpha8", PNG_COLOR_TYPE_GRAY_ALPHA, 8, 2},
        PngKind{"GrayAlpha16", PNG_COLOR_TYPE_GRAY_ALPHA, 16, 2}, PngKind{"Palette1", PNG_COLOR_TYPE_PALETTE, 1, 1},
        PngKind{"Palette2", PNG_COLOR_TYPE_PALETTE, 2, 1}, PngKind{"Palette4", PNG_COLOR_TYPE_PALETTE, 4, 1},
        PngKind{"Palette8", PNG_COLOR_TYPE_PALETTE, 8, 1},
        PngKind{"Palette8Transparent", PNG_COLOR_TYPE_PALETTE, 8, 1, false, true},
        PngKind{"Rgb8", PNG_COLOR_TYPE_RGB, 8, 3}, PngKind{"Rgb16", PNG_COLOR_TYPE_RGB, 16, 3},
        PngKind{"Rgb8Transparent", PNG_COLOR_TYPE_RGB, 8, 3, false, true},
        PngKind{"Rgba8", PNG_COLOR_TYPE_RGB_ALPHA, 8, 4}, PngKind{"Rgba16", PNG_COLOR_TYPE_RGB_ALPHA, 16, 4},
        PngKind{"Rgb8Interlaced", PNG_COLOR_TYPE_RGB, 8, 3, true},
        PngKind{"Palette4Interlaced", PNG_COLOR_TYPE_PALETTE, 4, 1, true}),
    [](const auto& info) { return info.param.name; });

TEST(Png, RoundTripsAndIsDeterministic) {
  const ScratchFolder folder;
  for (const auto& [width, height] : {std::pair{1, 1}, {3, 2}, {257, 64}}) {
    const Image image = random_image(width, height, 3);
    save_png(image, folder / "a.png");
    save_png(image, folder / "b.png");
    EXPECT_EQ(load_png(folder / "a.png"), image);
    EXPECT_EQ(slurp(folder / "a.png"), slurp(folder / "b.png"));
  }
  EXPECT_EQ(folder.names().size(), 2u);
}

TEST(Png, CarriesTexts) {
  const ScratchFolder folder;
  const PngText text = {{"Software", "raedit"}, {"parameters", "line 1\nline 2"}, {"Title", "\xc3\xa4 \xe2\x82\xac"}};
  const Image image = random_image(4, 4, 1);
  save_png(image, folder / "a.png", text);
  EXPECT_EQ(load_png_text(folder / "a.png"), text);
  EXPECT_EQ(load_png(folder / "a.png"), image);
  const std::string bytes = slurp(folder / "a.png");
  EXPECT_NE(bytes.find("tEXtSoftware"), bytes.npos);
  EXPECT_NE(bytes.find("iTXtTitle"), bytes.npos);
}

// A PNG with `count` zTXt chunks of 6 MiB each, a few KiB as long as they are packed.
void make_text_bomb(const std::string& path, int count) {
  const auto text = std::string(size_t{6} << 20, 'x');
  std::vector<png_text> items(static_cast<size_t>(count));
  for (png_text& item : items) {
    item.compression = PNG_TEXT_COMPRESSION_zTXt;
    item.key = const_cast<char*>("Comment");
    item.text = const_cast<char*>(text.c_str());
    item.text_length = text.size();
  }
  const Image image = random_image(4, 4, 1);
  FILE* file = std::fopen(path.c_str(), "wb");
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_init_io(png, file);
  png_set_IHDR(png, info, 4, 4, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  for (png_text& item : items) png_set_text(png, info, &item, 1);
  png_write_info(png, info);
  for (png_size_t row = 0; row < 4; ++row) png_write_row(png, image.rgb.data() + row * 12);
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  std::fclose(file);
}

int64_t peak_memory_mib() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss >> 10;
}

TEST(Png, UnpacksNoTextsThatNobodyAskedFor) {
  const ScratchFolder folder;
  constexpr int kCount = 100;
  // The texts are written in another process: libpng's copies of them are the peak otherwise.
  const pid_t writer = ::fork();
  if (writer == 0) {
    make_text_bomb(folder / "bomb.png", kCount);
    ::_exit(0);
  }
  int status = 1;
  ASSERT_EQ(::waitpid(writer, &status, 0), writer);
  ASSERT_EQ(status, 0);
  const int64_t before = peak_memory_mib();
  EXPECT_EQ(load_png(folder / "bomb.png"), random_image(4, 4, 1));
  EXPECT_LT(peak_memory_mib() - before, 50) << "600 MiB of text were unpacked";
  EXPECT_LE(load_png_text(folder / "bomb.png").size(), 32u);
  EXPECT_LT(peak_memory_mib() - before, 500);
}

TEST(Png, RefusesTextsThatDoNotFit) {
  const ScratchFolder folder;
  const Image image = random_image(2, 2, 1);
  const auto save = [&](const std::string& key, const std::string& value) {
    save_png(image, folder / "a.png", {{key, value}});
  };
  for (const std::string key : {"", " a", "a ", "a  b", "\xc3\xa4", "a\n"})
    expect_error(ErrorCode::invalid_argument, {"does not fit into a PNG", "'" + key + "'"}, [&] { save(key, "x"); });
  expect_error(ErrorCode::invalid_argument, {"1 to 79"}, [&] { save(std::string(80, 'k'), "x"); });
  expect_error(ErrorCode::invalid_argument, {"without NUL"}, [&] { save("a", std::string("x\0y", 3)); });
  expect_error(ErrorCode::invalid_argument, {"not UTF-8"}, [&] { save("a", "\xff"); });
  EXPECT_TRUE(folder.names().empty());
}

TEST(Png, RefusesImagesThatAreNone) {
  for (const Image& image : {Image{}, Image{2, 2, std::vector<uint8_t>(11)}, Image{-1, -1, std::vector<uint8_t>(3)}})
    expect_error(ErrorCode::invalid_argument, {"three bytes for each pixel"}, [&] { save_png(image, "/dev/null"); });
}

TEST(Png, FailingWriteIsAnError) {
  expect_error(ErrorCode::io, {"/dev/full", "No space left"}, [] { save_png(random_image(2, 2, 1), "/dev/full"); });
  expect_error(ErrorCode::io, {"/nowhere/a.png"}, [] { save_png(random_image(2, 2, 1), "/nowhere/a.png"); });
}

TEST(Png, EveryTruncationIsAnError) {
  const ScratchFolder folder;
  save_png(random_image(9, 7, 2), folder / "a.png", {{"Software", "raedit"}});
  const std::string good = slurp(folder / "a.png");
  for (size_t length = 0; length < good.size(); ++length) {
    spit(folder / "b.png", good.substr(0, length));
    expect_error(ErrorCode::format, {folder / "b.png"}, [&] { load_png(folder / "b.png"); });
  }
}

// Every byte in a chunk that matters is under a checksum; what still loads was a chunk that may be skipped.
TEST(Png, EveryFlippedByteIsAnErrorOrHarmless) {
  const ScratchFolder folder;
  const Image image = random_image(9, 7, 2);
  save_png(image, folder / "a.png", {{"Software", "raedit"}});
  const std::string good = slurp(folder / "a.png");
  const size_t text_begin = good.find("tEXt") - 4,
               text_end = text_begin + 12 + std::string("Software\0raedit").size() + 7;
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x55);
    spit(folder / "b.png", bad);
    if (at >= text_begin && at < text_end) {
      try {
        EXPECT_EQ(load_png(folder / "b.png"), image) << at;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::format) << error.what();
      }
    } else {
      expect_error(ErrorCode::format, {folder / "b.png"}, [&] { load_png(folder / "b.png"); });
    }
  }
}

TEST(Png, SaysWhatIsWrong) {
  const ScratchFolder folder;
  spit(folder / "a.png", "GIF89a, not a PNG at all");
  expect_error(ErrorCode::format, {folder / "a.png", "is not a PNG"}, [&] { load_png(folder / "a.png"); });
  expect_error(ErrorCode::not_found, {"No such file"}, [&] { load_png(folder / "b.png"); });
  save_png(random_image(2, 2, 1), folder / "a.png");
  const std::string good = slurp(folder / "a.png");
  spit(folder / "a.png", good.substr(0, good.size() - 20));
  expect_error(ErrorCode::format, {"PNG image is damaged", "ends too early"}, [&] { load_png(folder / "a.png"); });
}

TEST(Png, HugeSizeIsRefusedBeforeMemoryIsTaken) {
  const ScratchFolder folder;
  save_png(random_image(2, 2, 1), folder / "a.png");
  std::string bytes = slurp(folder / "a.png");
  const auto big_endian = [&](size_t at, uint32_t value) {
    for (size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<char>(value >> (24 - 8 * i));
  };
  for (const auto& [width, height] : {std::pair{32769u, 1u}, {32768u, 32768u}, {0x7fffffffu, 0x7fffffffu}}) {
    big_endian(16, width);
    big_endian(20, height);
    // IHDR's own checksum: CRC-32 of type and content, bit by bit.
    uint32_t crc = 0xffffffff;
    for (size_t i = 12; i < 29; ++i) {
      crc ^= static_cast<uint8_t>(bytes[i]);
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
    }
    big_endian(29, ~crc);
    spit(folder / "b.png", bytes);
    expect_error(ErrorCode::unsupported, {"too large", std::to_string(width) + " x " + std::to_string(height)},
                 [&] { load_png(folder / "b.png"); });
  }
}

TEST(ToImage, RoundsHalfToEvenAndClamps) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  // 0.5 and 2.5 of 255 go to even; what is outside [0, 1] is clamped.
  const std::vector<float> values = {0.5f / 255, 1.5f / 255, 2.5f / 255, -0.1f, 1.1f,  nan,
                                     inf,        -inf,       0.0f,       1.0f,  0.25f, 0.999f};
  const Image image = to_image(Tensor::from(values, {3, 2, 2}));
  std::vector<uint8_t> planes;
  for (const float value : values) {
    const float scaled = std::isnan(value) ? 0.0f : std::min(std::max(value, 0.0f), 1.0f) * 255.0f;
    const float below = std::floor(scaled);
    const float rest = scaled - below;
    const bool up = rest > 0.5f || (rest == 0.5f && std::fmod(below, 2.0f) == 1.0f);
    planes.push_back(static_cast<uint8_t>(below + (up ? 1 : 0)));
  }
  ASSERT_EQ(image.width, 2);
  ASSERT_EQ(image.height, 2);
  for (size_t c = 0; c < 3; ++c)
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(image.rgb[i * 3 + c], planes[c * 4 + i]) << values[c * 4 + i];
  EXPECT_EQ(to_image(Tensor::full({3, 1, 1}, 0.5f)).rgb[0], 128);  // 127.5
}

TEST(ToImage, InvertsToTensorForEveryByteAndTakesViews) {
  Image image{256, 1, {}};
  for (int i = 0; i < 256; ++i)
    for (const int value : {i, 255 - i, i ^ 0x55}) image.rgb.push_back(static_cast<uint8_t>(value));
  const Tensor tensor = to_tensor(image);
  EXPECT_EQ(tensor.shape(), (Shape{3, 1, 256}));
  EXPECT_EQ(tensor.dtype(), DType::float32);
  EXPECT_EQ(tensor.data<float>()[256 + 7], 248.0f / 255.0f);
  EXPECT_EQ(to_image(tensor), image);
  EXPECT_EQ(to_image(tensor.to(DType::float64)), image);
  Image turned = to_image(tensor.transpose(1, 2));
  EXPECT_EQ(turned.height, 256);
  EXPECT_EQ(turned.rgb, image.rgb);
}

TEST(ToImage, RefusesOtherShapes) {
  for (const Shape& shape : {Shape{1, 2, 2}, Shape{1, 3, 2, 2}, Shape{3, 2}, Shape{3, 0, 2}, Shape{3, 1, 32769}})
    expect_error(ErrorCode::invalid_argument, {"image", "found"},
                 [&] { to_image(Tensor::zeros(shape, DType::float32)); });
  expect_error(ErrorCode::invalid_argument, {"uint8"}, [] { to_image(Tensor::zeros({3, 2, 2}, DType::uint8)); });
  expect_error(ErrorCode::invalid_argument, {"nothing"}, [] { to_image(Tensor()); });
}

TEST(MakeGrid, PlacesPicturesRowByRow) {
  std::vector<Image> images;
  for (uint64_t i = 0; i < 5; ++i) images.push_back(random_image(3, 2, i));
  const auto pixel = [](const Image& image, int x, int y) {
    const auto at = static_cast<size_t>((y * image.width + x) * 3);
    return std::vector<uint8_t>(image.rgb.begin() + static_cast<long>(at),
                                image.rgb.begin() + static_cast<long>(at) + 3);
  };
  const Image grid = make_grid(images, 2, 1);
  EXPECT_EQ(grid.width, 7);
  EXPECT_EQ(grid.height, 8);
  for (int y = 0; y < 8; ++y)
    for (int x = 0; x < 7; ++x) {
      const int k = y / 3 * 2 + x / 4;
      const bool inside = x % 4 < 3 && y % 3 < 2 && k < 5;
      const auto expected = inside ? pixel(images[static_cast<size_t>(k)], x % 4, y % 3) : std::vector<uint8_t>(3, 0);
      EXPECT_EQ(pixel(grid, x, y), expected) << x << ", " << y;
    }
  EXPECT_EQ(make_grid(images).width, 9);  // 3 x 2 for five
  EXPECT_EQ(make_grid(images).height, 4);
  EXPECT_EQ(make_grid({images[0]}, 8), images[0]);
}

TEST(MakeGrid, RefusesWhatMakesNoGrid) {
  const Image image = random_image(3, 2, 1);
  expect_error(ErrorCode::invalid_argument, {"0 images"}, [] { make_grid({}); });
  expect_error(ErrorCode::invalid_argument, {"-1 columns"}, [&] { make_grid({image}, -1); });
  expect_error(ErrorCode::invalid_argument, {"differ in size", "2 x 3", "3 x 2"}, [&] {
    make_grid({image, random_image(2, 3, 1)});
  });
  expect_error(ErrorCode::invalid_argument, {"too large"}, [&] { make_grid({image, image}, 2, 40'000); });
}

}  // namespace
}  // namespace raedit
