// What the tests of `raedit convert` share: command lines on the tiny upstream checkpoints of
// tests/parity/data/convert.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "cli_test.h"

namespace raedit::cli_test {

using Words = std::vector<std::string>;

inline Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// `more` behind `words`; an option that both have keeps its place and gets the value in `more`.
inline Words merged(Words words, const Words& more) {
  for (size_t i = 0; i < more.size(); ++i) {
    const auto at = std::find(words.begin(), words.end(), more[i]);
    if (more[i].starts_with("--") && at != words.end() && i + 1 < more.size())
      at[1] = more[++i];
    else
      words.push_back(more[i]);
  }
  return words;
}

inline std::string convert_data(const std::string& name) {
  return data_path("convert/" + name);
}

inline Words stage2_words(const Words& more = {}, const std::string& config = "configs/base.yaml") {
  return merged(
      {"convert", "stage2", "--repo_or_path", convert_data("stage2"), "--config_path", config, "--output_path", "out"},
      more);
}

inline Words rae_words(const Words& more = {}) {
  return merged({"convert", "rae", "--repo_or_path", convert_data("rae/repo"), "--encoder_type", "dinov2",
                 "--encoder_name_or_path", convert_data("rae/encoders/dinov2_bin"), "--variant", "tiny",
                 "--decoder_config_name", convert_data("rae/repo/configs/decoder/tiny/config.json"),
                 "--encoder_input_size", "28", "--patch_size", "2", "--output_path", "out"},
                more);
}

inline Words pipeline_words(const Words& more = {}) {
  return merged({"convert", "pipeline", "--repo_or_path", convert_data("pipeline"), "--encoder_name_or_path",
                 convert_data("rae/encoders/dinov2_bin"), "--output_path", "out"},
                more);
}

inline bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace raedit::cli_test
