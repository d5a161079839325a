// What is known of each picture of a request, and the texts and names that tell of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "raedit/image.h"

namespace raedit::cli {

struct Picture {
  int64_t class_id = 0;
  std::string label;  // empty when the model has no name for the class
  uint64_t seed = 0;
};

// What all pictures of a request share, for the files' texts.
struct RequestInfo {
  std::string model;
  std::string latents;  // the file that the noise came from; empty when it was drawn from seeds
  std::string rng = "torch-cpu";
  int64_t steps = 0;
  double guidance = 1;
  double guidance_start = 0;
  double guidance_end = 1;
  std::string encoder_reuse = "1";
  std::string dtype;
};

// Files hold UTF-8 alone, and the name of a model's folder can be any bytes: what is not UTF-8 becomes U+FFFD.
std::string as_utf8(const std::string& text);

// Text chunks of a PNG with these pictures: one value when all share it, else one per picture, in order.
PngText png_text(const RequestInfo& info, const std::vector<Picture>& pictures);
// The same for safetensors.
std::map<std::string, std::string> file_metadata(const RequestInfo& info, const std::vector<Picture>& pictures);

// "007_cat-face_seed49.png": unique by its index, of letters that every file system takes.
std::string picture_file_name(const RequestInfo& info, const Picture& picture, size_t index, size_t count);

}  // namespace raedit::cli
