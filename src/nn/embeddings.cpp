#include "nn/embeddings.h"

#include <cmath>

#include "ops/activation.h"
#include "ops/moving.h"
#include "ops/position.h"

namespace raedit::nn {

PatchEmbed::PatchEmbed(int64_t channels, int64_t width, int64_t patch)
    : patch_size(patch), proj(channels * patch * patch, width) {
  proj.weight.shape = {width, channels, patch, patch};
}

Tensor PatchEmbed::forward(Context& ctx, const Tensor& x) const {
  return proj.forward(ctx, ops::patchify(ctx, x, patch_size));
}

GaussianFourierEmbedding::GaussianFourierEmbedding(int64_t width)
    : w(Parameter::Role::buffer, {kFrequencies}), mlp0(2 * kFrequencies, width), mlp2(width, width) {}

Tensor GaussianFourierEmbedding::forward(Context& ctx, const Tensor& t, DType dtype) const {
  const Tensor features = ops::cast(ctx, ops::fourier_features(ctx, t, w.value), dtype);
  return mlp2.forward(ctx, mlp0.forward(ctx, features, Activation::silu));
}

LabelEmbedder::LabelEmbedder(int64_t num_classes, int64_t width, bool with_null_class)
    : table(Parameter::Role::table, {num_classes + (with_null_class ? 1 : 0), width}) {}

Tensor LabelEmbedder::forward(Context& ctx, const Tensor& labels, DType dtype) const {
  return ops::embedding(ctx, table.value, labels, dtype);
}

Tensor sincos_pos_embed_2d(int64_t width, int64_t side, bool class_token, int64_t base_size) {
  const int64_t quarter = width / 4;
  const int64_t first = class_token ? 1 : 0;
  const Tensor table = Tensor::zeros({side * side + first, width}, DType::float32);
  // float32 coordinate, float64 angle, as the reference.
  const auto spread = static_cast<float>(static_cast<double>(side) / static_cast<double>(base_size));
  for (int64_t k = 0; k < quarter; ++k) {
    const double frequency = 1.0 / std::pow(10000.0, static_cast<double>(k) / static_cast<double>(quarter));
    for (int64_t position = 0; position < side; ++position) {
      const double angle = static_cast<double>(static_cast<float>(position) / spread) * frequency;
      const auto sine = static_cast<float>(std::sin(angle));
      const auto cosine = static_cast<float>(std::cos(angle));
      for (int64_t other = 0; other < side; ++other) {
        float* as_column = table.data<float>() + (first + other * side + position) * width;
        as_column[k] = sine;
        as_column[quarter + k] = cosine;
        float* as_row = table.data<float>() + (first + position * side + other) * width;
        as_row[2 * quarter + k] = sine;
        as_row[3 * quarter + k] = cosine;
      }
    }
  }
  return table;
}

}  // namespace raedit::nn
