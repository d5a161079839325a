#include "nn/rope.h"

#include <cmath>

#include "ops/position.h"

namespace raedit::nn {
namespace {

// The angle of every token and channel in float32, as the reference computes it.
std::vector<float> angles(int64_t side, int64_t head_width) {
  const int64_t half = head_width / 2;
  std::vector<float> out;
  for (int64_t row = 0; row < side; ++row) {
    for (int64_t column = 0; column < side; ++column) {
      for (int64_t c = 0; c < head_width; ++c) {
        const int64_t position = c < half ? row : column;
        const auto exponent = static_cast<float>(c % half / 2 * 2) / static_cast<float>(half);
        const float frequency = 1.0f / std::pow(10000.0f, exponent);
        // The reference divides by the side and multiplies again, in float32.
        const float scaled = static_cast<float>(position) / static_cast<float>(side) * static_cast<float>(side);
        out.push_back(scaled * frequency);
      }
    }
  }
  return out;
}

Tensor table(const std::vector<float>& angle, const Shape& shape, float (*function)(float)) {
  std::vector<float> values;
  for (const float a : angle) values.push_back(function(a));
  return Tensor::from(values, shape);
}

}  // namespace

Rope::Rope(int64_t side, int64_t head_width)
    : freqs_cos(Parameter::Role::buffer, {side * side, head_width}, false),
      freqs_sin(Parameter::Role::buffer, {side * side, head_width}, false),
      side_(side) {}

void Rope::complete() {
  if (freqs_cos.defined() && freqs_sin.defined()) return;
  const std::vector<float> angle = angles(side_, freqs_cos.shape[1]);
  // Sources too: diffusers wants them in the checkpoint.
  if (!freqs_cos.defined()) freqs_cos.value = freqs_cos.source = table(angle, freqs_cos.shape, std::cos);
  if (!freqs_sin.defined()) freqs_sin.value = freqs_sin.source = table(angle, freqs_sin.shape, std::sin);
}

Tensor Rope::forward(Context& ctx, const Tensor& x) const {
  return ops::rope(ctx, x, freqs_cos.value, freqs_sin.value);
}

}  // namespace raedit::nn
