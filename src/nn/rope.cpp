#include "nn/rope.h"

#include <cmath>

#include "ops/position.h"

namespace raedit::nn {
namespace {

// function(angle) of every token and channel, [side*side, head_width], in float32 as the reference computes it.
Tensor table(int64_t side, int64_t head_width, float (*function)(float)) {
  const int64_t half = head_width / 2;
  const Tensor out = Tensor::empty({side * side, head_width}, DType::float32);
  for (int64_t c = 0; c < half; ++c) {
    const float exponent = static_cast<float>(c / 2 * 2) / static_cast<float>(half);
    const float frequency = 1.0f / std::pow(10000.0f, exponent);
    for (int64_t position = 0; position < side; ++position) {
      // The reference divides by the side and multiplies again.
      const float scaled = static_cast<float>(position) / static_cast<float>(side) * static_cast<float>(side);
      const float value = function(scaled * frequency);
      for (int64_t other = 0; other < side; ++other) {
        out.data<float>()[(position * side + other) * head_width + c] = value;         // by row
        out.data<float>()[(other * side + position) * head_width + half + c] = value;  // by column
      }
    }
  }
  return out;
}

}  // namespace

Rope::Rope(int64_t side, int64_t head_width)
    : freqs_cos(Parameter::Role::buffer, {side * side, head_width}, false),
      freqs_sin(Parameter::Role::buffer, {side * side, head_width}, false),
      side_(side) {}

void Rope::complete() {
  // Sources too: diffusers wants them in the checkpoint.
  if (!freqs_cos.defined()) freqs_cos.value = freqs_cos.source = table(side_, freqs_cos.shape[1], std::cos);
  if (!freqs_sin.defined()) freqs_sin.value = freqs_sin.source = table(side_, freqs_sin.shape[1], std::sin);
}

Tensor Rope::forward(Context& ctx, const Tensor& x) const {
  return ops::rope(ctx, x, freqs_cos.value, freqs_sin.value);
}

}  // namespace raedit::nn
