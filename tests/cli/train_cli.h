// What the tests of `raedit train stage2` share: pictures of random colours, and a transformer that is as small as can
// be on the tiny reference autoencoder.
#pragma once

#include <filesystem>
#include <random>

#include "convert_cli.h"
#include "io/png_codec.h"

namespace raedit::cli_test {

// Two classes, `each` pictures in each.
inline void make_pictures(const std::string& folder, int each, unsigned seed) {
  std::mt19937 random(seed);
  for (const std::string name : {"cat", "dog"}) {
    std::filesystem::create_directories(folder + "/" + name);
    for (int i = 0; i < each; ++i) {
      Image image{40, 36, std::vector<uint8_t>(40 * 36 * 3)};
      for (uint8_t& byte : image.rgb) byte = static_cast<uint8_t>(random());
      write_png_file(image, folder + "/" + name + "/" + std::to_string(i) + ".png", {});
    }
  }
}

inline Words small_training(const std::string& pictures) {
  return Words{"train", "stage2"} + Words{"--train-data-dir", pictures} +
         Words{"--pretrained-rae-model-name-or-path", data_path("pipeline")} + Words{"--center-crop"} +
         Words{"--encoder-hidden-size", "32"} + Words{"--decoder-hidden-size", "48"} +
         Words{"--encoder-num-layers", "1"} + Words{"--decoder-num-layers", "1"} +
         Words{"--encoder-num-attention-heads", "4"} + Words{"--decoder-num-attention-heads", "4"} +
         Words{"--threads", "1"} + Words{"--seed", "3"};
}

}  // namespace raedit::cli_test
