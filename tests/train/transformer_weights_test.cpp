// A fresh model says 0 and has the spread that torch's defaults have; one with more classes is the same model for the
// old ones.
#include "train/transformer_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "models/checkpoint.h"
#include "raedit/generator.h"

namespace raedit::train {
namespace {

RAEDiT2DModelConfig small_config() {
  RAEDiT2DModelConfig config;
  config.sample_size = 4;
  config.in_channels = 8;
  config.hidden_size = {32, 64};
  config.depth = {2, 1};
  config.num_heads = {4, 4};
  config.num_classes = 5;
  return config;
}

Tensor say(Context& ctx, const models::ModelSource& source, int64_t label) {
  const RAEDiT2DModel model = RAEDiT2DModel::from_source(source, {});
  Generator generator(1);
  const Tensor latents = generator.randn({1, 8, 4, 4});
  const Tensor time = Tensor::full({1}, 0.5f), labels = Tensor::from(std::vector<int64_t>{label}, {1});
  return model.forward(ctx, latents, time, labels).clone();
}

models::ModelSource source_of(const models::RaeDitTransformer& model, bool perturb) {
  models::RaeDitTransformer copy = model;
  std::vector<std::string> names;
  std::vector<Tensor> values;
  Generator generator(3);
  for (const auto& [name, parameter] : models::named_parameters(copy)) {
    if (!parameter->trained()) continue;
    Tensor value = parameter->source.clone();
    if (perturb) {
      const Tensor noise = generator.randn(value.shape());
      for (int64_t i = 0; i < value.numel(); ++i) value.data<float>()[i] += 0.05f * noise.data<float>()[i];
    }
    names.push_back(name);
    values.push_back(value);
  }
  return trained_source(model, names, values);
}

TEST(FreshTransformer, SaysZero) {
  Context ctx;
  const auto model = fresh_transformer(small_config(), 1, DType::float32, ctx.kernels());
  const Tensor said = say(ctx, source_of(*model, false), 2);
  for (int64_t i = 0; i < said.numel(); ++i) EXPECT_EQ(said.data<float>()[i], 0.0f);
  const Tensor other = say(ctx, source_of(*model, true), 2);
  EXPECT_GT(std::abs(other.data<float>()[0]), 1e-6f);
}

struct Spread {
  double mean = 0, deviation = 0, largest = 0;
};

Spread spread_of(const Tensor& tensor) {
  Spread spread;
  const float* at = tensor.data<float>();
  const auto count = static_cast<double>(tensor.numel());
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    spread.mean += at[i] / count;
    spread.deviation += double{at[i]} * at[i] / count;
    spread.largest = std::max(spread.largest, std::abs(double{at[i]}));
  }
  spread.deviation = std::sqrt(spread.deviation);
  return spread;
}

TEST(FreshTransformer, HasTheSpreadOfTorchsDefaults) {
  Context ctx;
  RAEDiT2DModelConfig config = small_config();
  config.num_classes = 200;
  const auto model = fresh_transformer(config, 2, DType::float32, ctx.kernels());
  std::map<std::string, Tensor> values;
  for (const auto& [name, parameter] : models::named_parameters(*model)) values[name] = parameter->source;

  const auto is_uniform = [&](const std::string& name, double bound) {
    const Spread spread = spread_of(values.at(name));
    EXPECT_LE(spread.largest, bound) << name;
    EXPECT_NEAR(spread.deviation, bound / std::sqrt(3.0), 0.1 * bound) << name;
    EXPECT_NEAR(spread.mean, 0, 0.2 * bound) << name;
  };
  is_uniform("blocks.0.attn.to_q.weight", 1 / std::sqrt(32.0));
  is_uniform("blocks.2.mlp.net.0.proj.weight", 1 / std::sqrt(64.0));
  is_uniform("blocks.2.mlp.net.0.proj.bias", 1 / std::sqrt(64.0));
  is_uniform("s_projector.weight", 1 / std::sqrt(32.0));
  is_uniform("x_embedder.proj.weight", std::sqrt(6.0 / (8 + 64)));
  for (const char* name : {"y_embedder.embedding_table.weight", "t_embedder.mlp.0.weight", "t_embedder.mlp.2.weight"})
    EXPECT_NEAR(spread_of(values.at(name)).deviation, 0.02, 0.002) << name;
  for (const char* name :
       {"blocks.1.adaLN_modulation.1.weight", "blocks.1.adaLN_modulation.1.bias", "final_layer.linear.weight",
        "final_layer.adaLN_modulation.1.weight", "s_embedder.proj.bias"})
    EXPECT_EQ(spread_of(values.at(name)).largest, 0) << name;
  EXPECT_EQ(spread_of(values.at("blocks.0.norm1.weight")).mean, 1);
  EXPECT_NEAR(spread_of(values.at("t_embedder.W")).deviation, 1, 0.4);
}

TEST(FreshTransformer, TheSeedDecides) {
  Context ctx;
  const auto numbers = [&](uint64_t seed) {
    const auto model = fresh_transformer(small_config(), seed, DType::float32, ctx.kernels());
    return model->blocks[0].attn.to_q.weight.source.to_vector<float>();
  };
  EXPECT_EQ(numbers(4), numbers(4));
  EXPECT_NE(numbers(4), numbers(5));
}

TEST(MoreClasses, LeaveTheOldOnesAlone) {
  Context ctx;
  for (const double dropout : {0.1, 0.0}) {
    RAEDiT2DModelConfig config = small_config();
    config.class_dropout_prob = dropout;
    const auto model = fresh_transformer(config, 6, DType::float32, ctx.kernels());
    const models::ModelSource source = source_of(*model, true), grown = with_more_classes(source, config, 2);
    EXPECT_EQ(grown.config["num_classes"], 7);
    for (int64_t label = 0; label < 5; ++label)
      EXPECT_EQ(say(ctx, source, label).to_vector<float>(), say(ctx, grown, label).to_vector<float>());
    if (dropout == 0.0) continue;
    const auto none = say(ctx, source, 5).to_vector<float>();
    for (int64_t label = 5; label < 8; ++label) EXPECT_EQ(none, say(ctx, grown, label).to_vector<float>());
  }
}

}  // namespace
}  // namespace raedit::train
