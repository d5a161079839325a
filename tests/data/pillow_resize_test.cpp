// Resizing and cropping against Pillow's and torchvision's own results. Pictures 0, 1 and 2 are those of
// tests/parity/data/resize; the others are filled by a linear congruential generator. Expected is the FNV-1a hash of
// every byte, so that many sizes and filters fit: what Pillow 11.3 and 12.2 with torchvision 0.29 make of them, and for
// the centre crop bytetriper/RAE's center_crop_arr (a4d18c4).
#include "data/pillow_resize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <climits>

#include "data/picture_transform.h"
#include "io/safetensors.h"
#include "unit/expect_error.h"

namespace raedit::data {
namespace {

uint64_t hash_of(const Image& image) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const uint8_t byte : image.rgb) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

void expect_picture(const Image& found, int width, int height, uint64_t hash) {
  EXPECT_EQ(found.width, width);
  EXPECT_EQ(found.height, height);
  ASSERT_EQ(found.rgb.size(), static_cast<size_t>(width) * static_cast<size_t>(height) * 3);
  EXPECT_EQ(hash_of(found), hash);
}

Image noise(int width, int height) {
  Image image{width, height, std::vector<uint8_t>(static_cast<size_t>(width) * static_cast<size_t>(height) * 3)};
  uint32_t state = static_cast<uint32_t>(width * 1000 + height);
  for (uint8_t& byte : image.rgb) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(state >> 24);
  }
  return image;
}

Image fixture(int index) {
  const auto file = SafetensorsFile::open(RAEDIT_TEST_DATA "/resize/resize.safetensors");
  const Tensor pixels = file.tensor(std::to_string(index) + ".input");  // [H,W,3]
  const uint8_t* data = pixels.data<uint8_t>();
  return {static_cast<int>(pixels.dim(1)), static_cast<int>(pixels.dim(0)), {data, data + pixels.numel()}};
}

struct FixtureCase {
  int index;
  int width, height;
  PillowFilter filter;
  uint64_t hash;
};

constexpr FixtureCase kFixtureCases[] = {
    {0, 48, 48, PillowFilter::bicubic, 0x9e880cb1d1a3d8a2},  {0, 96, 31, PillowFilter::bicubic, 0x039aac1e248670e5},
    {0, 40, 40, PillowFilter::bilinear, 0x19ca983291a061b9}, {0, 20, 20, PillowFilter::box, 0x388787e83e5bd544},
    {0, 64, 64, PillowFilter::lanczos, 0xc7e771f901e1d972},  {1, 48, 48, PillowFilter::bicubic, 0x5af45e46082574bb},
    {1, 96, 31, PillowFilter::bicubic, 0x4aa051eed21d41ae},  {1, 40, 40, PillowFilter::bilinear, 0x584a35ab724ebe41},
    {1, 20, 20, PillowFilter::box, 0x9f00bc1a0737fbb1},      {1, 64, 64, PillowFilter::lanczos, 0x0de358146a052ac3},
    {2, 48, 48, PillowFilter::bicubic, 0x798128ed23281bac},  {2, 96, 31, PillowFilter::bicubic, 0x2761c877cf55c7d4},
    {2, 40, 40, PillowFilter::bilinear, 0xb4228f3c76c8d3f7}, {2, 20, 20, PillowFilter::box, 0x181a121bb4d05704},
    {2, 64, 64, PillowFilter::lanczos, 0xde11ffbafaa3fa2a},
};

TEST(PillowResize, IsPillows) {
  for (const FixtureCase& c : kFixtureCases) {
    SCOPED_TRACE(::testing::Message() << c.index << " to " << c.width << " x " << c.height);
    expect_picture(pillow_resize(fixture(c.index), c.width, c.height, c.filter), c.width, c.height, c.hash);
  }
}

struct SizeCase {
  int from_width, from_height;
  int width, height;
  PillowFilter filter;
  uint64_t hash;
};

constexpr SizeCase kSizeCases[] = {
    {1, 1, 7, 5, PillowFilter::box, 0x03cb89d271f74fa8},
    {1, 1, 7, 5, PillowFilter::bilinear, 0x03cb89d271f74fa8},
    {1, 1, 7, 5, PillowFilter::bicubic, 0x03cb89d271f74fa8},
    {1, 1, 7, 5, PillowFilter::lanczos, 0x03cb89d271f74fa8},
    {1, 1, 1, 9, PillowFilter::box, 0x472d0971b777a73e},
    {1, 1, 1, 9, PillowFilter::bilinear, 0x472d0971b777a73e},
    {1, 1, 1, 9, PillowFilter::bicubic, 0x472d0971b777a73e},
    {1, 1, 1, 9, PillowFilter::lanczos, 0x472d0971b777a73e},
    {1, 40, 1, 3, PillowFilter::box, 0x95bb7b9d6eb750ff},
    {1, 40, 1, 3, PillowFilter::bilinear, 0x4e3ba7a2a2e4bc84},
    {1, 40, 1, 3, PillowFilter::bicubic, 0x1ff3725b8da45f3f},
    {1, 40, 1, 3, PillowFilter::lanczos, 0x7a3916aa82b32ba3},
    {1, 40, 13, 3, PillowFilter::box, 0x1df480d9abf5a3ef},
    {1, 40, 13, 3, PillowFilter::bilinear, 0x4a768b9e3656f178},
    {1, 40, 13, 3, PillowFilter::bicubic, 0xb6daa8178c8db94f},
    {1, 40, 13, 3, PillowFilter::lanczos, 0xc348125cd44ff2ab},
    {40, 1, 3, 17, PillowFilter::box, 0xc3bc3e3fe423570e},
    {40, 1, 3, 17, PillowFilter::bilinear, 0xf4566863d8cf6141},
    {40, 1, 3, 17, PillowFilter::bicubic, 0x25f68848043079a1},
    {40, 1, 3, 17, PillowFilter::lanczos, 0x8064e86cd94955ee},
    {2, 3, 301, 211, PillowFilter::box, 0x7dcee18ae8360bee},
    {2, 3, 301, 211, PillowFilter::bilinear, 0x4235202a72893f40},
    {2, 3, 301, 211, PillowFilter::bicubic, 0xeea82d459545d692},
    {2, 3, 301, 211, PillowFilter::lanczos, 0xbdd7e8d922bb5e8b},
    {301, 211, 2, 3, PillowFilter::box, 0xbad83b52ae90d925},
    {301, 211, 2, 3, PillowFilter::bilinear, 0x6428dca20bf88d74},
    {301, 211, 2, 3, PillowFilter::bicubic, 0x7a9d34ee3e6ccbf5},
    {301, 211, 2, 3, PillowFilter::lanczos, 0x53ea17c91abb0641},
    {97, 31, 97, 8, PillowFilter::box, 0x47fab1bf900436fd},
    {97, 31, 97, 8, PillowFilter::bilinear, 0x3d15c43f5c695dd6},
    {97, 31, 97, 8, PillowFilter::bicubic, 0x32e364f0df4ea2f4},
    {97, 31, 97, 8, PillowFilter::lanczos, 0x5eed478dae24cd3c},
    {97, 31, 8, 31, PillowFilter::box, 0x7b914aebc0d4f2e1},
    {97, 31, 8, 31, PillowFilter::bilinear, 0x3c273c1e8d8bb5cd},
    {97, 31, 8, 31, PillowFilter::bicubic, 0xf4a6d7bbc2253d71},
    {97, 31, 8, 31, PillowFilter::lanczos, 0x0164bac2bd01fef8},
    {64, 48, 32, 24, PillowFilter::box, 0x322d1c5f3c7eeb20},
    {64, 48, 32, 24, PillowFilter::bilinear, 0xf60084377e7f288e},
    {64, 48, 32, 24, PillowFilter::bicubic, 0xc71347cb628d0e5f},
    {64, 48, 32, 24, PillowFilter::lanczos, 0xeada927c0dfc440e},
    {33, 77, 34, 76, PillowFilter::box, 0x3f35ef0cf5828f00},
    {33, 77, 34, 76, PillowFilter::bilinear, 0xe225c52a9c00265d},
    {33, 77, 34, 76, PillowFilter::bicubic, 0x187d7a0e419a131c},
    {33, 77, 34, 76, PillowFilter::lanczos, 0x04f00c1dd8b03431},
    {5, 5, 5, 5, PillowFilter::box, 0x0af363a0474f9e65},
    {5, 5, 5, 5, PillowFilter::bilinear, 0x0af363a0474f9e65},
    {5, 5, 5, 5, PillowFilter::bicubic, 0x0af363a0474f9e65},
    {5, 5, 5, 5, PillowFilter::lanczos, 0x0af363a0474f9e65},
};

TEST(PillowResize, OddSizesAreTooAndOneAxisAlone) {
  for (const SizeCase& c : kSizeCases) {
    SCOPED_TRACE(::testing::Message() << c.from_width << " x " << c.from_height << " to " << c.width << " x "
                                      << c.height << " with filter " << static_cast<int>(c.filter));
    expect_picture(pillow_resize(noise(c.from_width, c.from_height), c.width, c.height, c.filter), c.width, c.height,
                   c.hash);
  }
}

TEST(PillowResize, GivesTheseBytes) {
  const std::vector<uint8_t> expected = {118, 151, 99, 102, 112, 102, 135, 105, 124};
  EXPECT_EQ(pillow_resize(noise(1, 40), 1, 3, PillowFilter::bicubic).rgb, expected);
}

TEST(PillowResize, RefusesImpossibleSizes) {
  const Image image = noise(4, 3);
  for (const auto& [width, height] : {std::pair{0, 3}, {4, 0}, {-1, 3}, {4, INT_MIN}, {INT_MAX, INT_MAX}})
    EXPECT_RAEDIT_ERROR(pillow_resize(image, width, height, PillowFilter::box), ErrorCode::invalid_argument,
                        "cannot be resized", std::to_string(width), "4 x 3");
  EXPECT_RAEDIT_ERROR(pillow_resize(image, 2, 2, static_cast<PillowFilter>(9)), ErrorCode::invalid_argument,
                      "filter is unknown");
}

TEST(PillowResize, RefusesWhatIsNoPicture) {
  Image cut_off = noise(4, 3);
  cut_off.rgb.pop_back();
  for (const Image& image : {Image{}, Image{-1, -3, {1, 2, 3, 4, 5, 6, 7, 8, 9}}, cut_off}) {
    EXPECT_RAEDIT_ERROR(pillow_resize(image, 2, 2, PillowFilter::box), ErrorCode::invalid_argument, "three bytes");
    EXPECT_RAEDIT_ERROR(adm_center_crop(image, 2), ErrorCode::invalid_argument, "three bytes");
    EXPECT_RAEDIT_ERROR(horizontal_flip(image), ErrorCode::invalid_argument, "three bytes");
    EXPECT_RAEDIT_ERROR(crop(image, 0, 0, 1, 1), ErrorCode::invalid_argument, "three bytes");
  }
}

struct TransformCase {
  int from_width, from_height;
  int size;
  int width, height;
  uint64_t hash;
};

template <size_t N>
void expect_all(const TransformCase (&cases)[N], Image (*transform)(const Image&, int)) {
  for (const TransformCase& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.from_width << " x " << c.from_height << ", " << c.size);
    expect_picture(transform(noise(c.from_width, c.from_height), c.size), c.width, c.height, c.hash);
  }
}

constexpr TransformCase kShorterSideCases[] = {
    {53, 37, 20, 28, 20, 0x5d8929c3daf6376b},  {37, 53, 20, 20, 28, 0xd08c69765383b977},
    {100, 99, 33, 33, 33, 0xfac01c6b81d4e301}, {40, 40, 40, 40, 40, 0xc81af1f1cd8ffc15},
    {7, 90, 16, 16, 205, 0x8557d64a74eb2525},  {333, 250, 96, 127, 96, 0x35a64d3dfd1fb4e0},
};
constexpr TransformCase kCenterCropCases[] = {
    {21, 18, 16, 16, 16, 0x972b188151d7804f}, {19, 23, 16, 16, 16, 0x90a2c9a59a9c0127},
    {16, 17, 16, 16, 16, 0x9ec51c25eb1cc6d0}, {16, 16, 16, 16, 16, 0x0e52faa21dbfcf85},
    {9, 30, 16, 16, 16, 0xbecb44e3ab549192},  {11, 12, 16, 16, 16, 0xd751077c8cc7adae},
    {30, 13, 16, 16, 16, 0x293c4502bed98573},
};
constexpr TransformCase kAdmCases[] = {
    {53, 37, 16, 16, 16, 0x6c3e35c93427922d},  {37, 53, 16, 16, 16, 0x2ebe63d49e26db84},
    {33, 200, 16, 16, 16, 0x3e6255f3f7bd4fb8}, {20, 31, 16, 16, 16, 0xd6ce7789d766338f},
    {5, 9, 16, 16, 16, 0xcac30e2b5e034b8c},    {131, 129, 16, 16, 16, 0x32894bd8c42fe2b9},
    {64, 65, 16, 16, 16, 0x25ab4a8f1f19a5eb},  {1, 3, 4, 4, 4, 0x2195dc4fa5b12b35},
};
constexpr uint64_t kAdmOfFixtures[] = {
    0x139642ec62d20f55,
    0x6ab0bd560cfddcbc,
    0x62ce13538ef20030,
};

TEST(PictureTransform, ShorterSideIsTorchvisions) {
  expect_all(kShorterSideCases, [](const Image& image, int size) { return resize_shorter_side(image, size); });
}

TEST(PictureTransform, CenterCropIsTorchvisions) {
  expect_all(kCenterCropCases, center_crop);
}

TEST(PictureTransform, AdmCenterCropIsUpstreams) {
  expect_all(kAdmCases, adm_center_crop);
  for (int i = 0; i < 3; ++i) expect_picture(adm_center_crop(fixture(i), 32), 32, 32, kAdmOfFixtures[i]);
}

struct DrawCase {
  int from_width, from_height;
  bool resized;
  uint64_t hash;
};

constexpr DrawCase kDrawCases[] = {
    {53, 37, true, 0xc118c621463fb3e3},  {37, 53, true, 0x8087b5aac46fac2a},  {16, 16, true, 0x008c0f59f2acb67e},
    {12, 13, true, 0xdfb6f0cc3f99f245},  {90, 20, true, 0x2e5cd60d678ea662},  {12, 12, false, 0x1f17fa3aaab2337e},
    {12, 20, false, 0x3227fa6a934cb51a}, {20, 12, false, 0x240fdc314202c26a}, {30, 31, false, 0xc575d428ae8ac510},
};

// One generator for all, so that every draw has to be in its place.
TEST(PictureTransform, RandomCropsAndFlipsAreTorchvisions) {
  Generator generator(7);
  for (const DrawCase& c : kDrawCases) {
    SCOPED_TRACE(::testing::Message() << c.from_width << " x " << c.from_height);
    Image image = noise(c.from_width, c.from_height);
    if (c.resized) image = resize_shorter_side(image, 16);
    expect_picture(random_horizontal_flip(random_crop(image, 12, generator), generator), 12, 12, c.hash);
  }
  EXPECT_EQ(generator.rand({1}).data<float>()[0], 0.593231201171875f);
}

TEST(PictureTransform, CropAndFlipTakeThePixelsNamed) {
  const Image image = noise(5, 4);
  const auto pixel = [](const Image& of, int x, int y) {
    const auto at = of.rgb.begin() + (y * of.width + x) * 3;
    return std::vector<uint8_t>(at, at + 3);
  };
  const Image part = crop(image, 2, 1, 3, 2), mirrored = horizontal_flip(image);
  for (int y = 0; y < 2; ++y)
    for (int x = 0; x < 3; ++x) EXPECT_EQ(pixel(part, x, y), pixel(image, x + 2, y + 1));
  for (int y = 0; y < 4; ++y)
    for (int x = 0; x < 5; ++x) EXPECT_EQ(pixel(mirrored, x, y), pixel(image, 4 - x, y));
}

TEST(PictureTransform, RefusesWhatDoesNotFit) {
  const Image image = noise(5, 4);
  Generator generator(1);
  for (const int size : {0, -1, INT_MIN, INT_MAX}) {
    EXPECT_RAEDIT_ERROR(resize_shorter_side(image, size), ErrorCode::invalid_argument, std::to_string(size));
    EXPECT_RAEDIT_ERROR(center_crop(image, size), ErrorCode::invalid_argument, std::to_string(size));
    EXPECT_RAEDIT_ERROR(random_crop(image, size, generator), ErrorCode::invalid_argument, std::to_string(size));
    EXPECT_RAEDIT_ERROR(adm_center_crop(image, size), ErrorCode::invalid_argument, std::to_string(size));
  }
  EXPECT_RAEDIT_ERROR(random_crop(image, 5, generator), ErrorCode::invalid_argument, "5 x 4", "sides of 5");
  EXPECT_RAEDIT_ERROR(crop(image, 3, 0, 3, 1), ErrorCode::invalid_argument, "not within");
  EXPECT_RAEDIT_ERROR(crop(image, 0, INT_MAX, 1, 1), ErrorCode::invalid_argument, "not within");
  EXPECT_RAEDIT_ERROR(crop(image, -1, 0, 2, 1), ErrorCode::invalid_argument, "not within");
  EXPECT_RAEDIT_ERROR(crop(image, 0, 0, 0, 1), ErrorCode::invalid_argument, "not within");
  EXPECT_RAEDIT_ERROR(random_horizontal_flip(image, generator, 1.5), ErrorCode::invalid_argument, "probability");
  EXPECT_RAEDIT_ERROR(resize_shorter_side(noise(1, 9000), 30000), ErrorCode::invalid_argument, "too long");
}

}  // namespace
}  // namespace raedit::data
