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
  std::vector<float> values(static_cast<size_t>(class_token ? width : 0), 0.0f);
  for (int64_t row = 0; row < side; ++row) {
    for (int64_t column = 0; column < side; ++column) {
      for (int64_t c = 0; c < width; ++c) {
        // float32 coordinate, float64 angle, as the reference.
        const auto index = static_cast<float>(c < 2 * quarter ? column : row);
        const auto spread = static_cast<float>(static_cast<double>(side) / static_cast<double>(base_size));
        const double frequency =
            1.0 / std::pow(10000.0, static_cast<double>(c % quarter) / static_cast<double>(quarter));
        const double angle = static_cast<double>(index / spread) * frequency;
        values.push_back(static_cast<float>(c / quarter % 2 == 0 ? std::sin(angle) : std::cos(angle)));
      }
    }
  }
  return Tensor::from(values, {side * side + (class_token ? 1 : 0), width});
}

}  // namespace raedit::nn
