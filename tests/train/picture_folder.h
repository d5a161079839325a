// A data set for tests: class folders of noise.
#pragma once

#include <filesystem>
#include <random>
#include <string>

#include "io/io_test_util.h"
#include "raedit/image.h"

namespace raedit::test {

inline Image noise_image(int width, int height, unsigned seed) {
  std::mt19937 engine(seed);
  Image image{width, height, std::vector<uint8_t>(static_cast<size_t>(width) * static_cast<size_t>(height) * 3)};
  for (uint8_t& value : image.rgb) value = static_cast<uint8_t>(engine() & 0xff);
  return image;
}

class PictureFolder {
 public:
  // `pictures` of them in the classes "a" and "b", more in the first; each of another size.
  explicit PictureFolder(int pictures) {
    for (int i = 0; i < pictures; ++i) {
      const bool first = i < (pictures + 1) / 2;
      std::filesystem::create_directories(scratch_ / (first ? "a" : "b"));
      save_png(noise_image(66 + 3 * i, 90 - 4 * i, static_cast<unsigned>(100 + i)), file(first ? "a" : "b", i));
    }
  }
  const std::string& path() const { return scratch_.path(); }
  std::string file(const std::string& label, int i) const {
    return scratch_ / (label + "/" + std::to_string(100 + i) + ".png");
  }

 private:
  ScratchFolder scratch_;
};

}  // namespace raedit::test
