// EncoderReuse: when the encoder stream is computed.
#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "raedit/rae_dit_pipeline.h"

namespace raedit {

bool EncoderReuse::computes(int64_t step) const {
  return steps.empty() ? step % every == 0 : std::binary_search(steps.begin(), steps.end(), step);
}

void EncoderReuse::check(int64_t num_inference_steps) const {
  const auto wrong = [](const char* what, const std::string& found, const std::string& expected) {
    raise({.code = ErrorCode::invalid_argument, .what = what, .found = found, .expected = expected});
  };
  if (every < 1) wrong("encoder_reuse is out of range", fmt::to_string(every), "1 (compute in every step) or more");
  if (steps.empty()) return;
  if (every > 1)
    wrong("encoder_reuse has both a distance and a list", fmt::format("every {} and {} steps", every, steps.size()),
          "one of them");
  if (steps.front() != 0)
    wrong("the first step of encoder_reuse must be 0, since nothing can be reused there", fmt::to_string(steps.front()),
          "0");
  for (size_t i = 1; i < steps.size(); ++i)
    if (steps[i] <= steps[i - 1])
      wrong("the steps of encoder_reuse must ascend", fmt::format("{} after {}", steps[i], steps[i - 1]), "");
  if (steps.back() >= num_inference_steps)
    wrong("encoder_reuse names a step that sampling does not have", fmt::to_string(steps.back()),
          fmt::format("0 to {}", num_inference_steps - 1));
}

}  // namespace raedit
