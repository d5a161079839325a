// RAEDiT2DModel against tensors that diffusers wrote, variant by variant: block by block, then whole, then every
// gradient.
#include <gtest/gtest.h>

#include <map>

#include "backend/kernels.h"
#include "io/safetensors.h"
#include "models/checkpoint.h"
#include "models/rae_dit_transformer.h"
#include "ops/elementwise.h"
#include "ops/tape.h"
#include "parity/agreement.h"
#include "raedit/rae_dit_transformer.h"
#include "test_device.h"

namespace raedit {
namespace {

using testing::agreement;
using testing::expect_agrees;

constexpr double kFloat32 = 1e-5;
constexpr double kGradient = 1e-4;

std::string folder_of(const std::string& variant) {
  return std::string(RAEDIT_TEST_DATA) + "/transformer/" + variant;
}

class Transformer : public ::testing::TestWithParam<std::string> {
 protected:
  SafetensorsFile io = SafetensorsFile::open(folder_of(GetParam()) + "/io.safetensors");
  Context ctx = test::test_context();

  Tensor forward(const RAEDiT2DModel& model, std::map<std::string, Tensor>* seen = nullptr,
                 const Tensor& conditioning = {}) {
    const auto observe = [&](const std::string& name, const Tensor& value) {
      if (seen != nullptr) (*seen)[name] = value;
    };
    return model.forward(ctx, io.tensor("hidden_states"), io.tensor("timestep"), io.tensor("class_labels"),
                         conditioning, observe);
  }
};

TEST_P(Transformer, AgreesInFloat32) {
  const auto model = RAEDiT2DModel::from_pretrained(folder_of(GetParam()), test::load_options());
  std::map<std::string, Tensor> seen;
  const Tensor sample = forward(model, &seen);
  int blocks = 0;
  for (const std::string& name : io.names()) {
    if (name.starts_with("block.") || name == "timestep_embedding" || name == "conditioning_hidden_states")
      expect_agrees(name, seen[name], io.tensor(name), kFloat32);
    blocks += name.starts_with("block.") ? 1 : 0;
  }
  EXPECT_EQ(blocks, model.config().depth[0]);
  expect_agrees("sample", sample, io.tensor("sample"), kFloat32);
}

TEST_P(Transformer, PrecomputedConditioningGivesTheSameSample) {
  const auto model = RAEDiT2DModel::from_pretrained(folder_of(GetParam()), test::load_options());
  std::map<std::string, Tensor> seen;
  const Tensor sample = forward(model, &seen);
  const Tensor again = forward(model, nullptr, seen["conditioning_hidden_states"]);
  EXPECT_EQ(sample.to_vector<float>(), again.to_vector<float>());
}

TEST_P(Transformer, TheStreamsOneByOneGiveTheSameSample) {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    const auto model = RAEDiT2DModel::from_pretrained(folder_of(GetParam()), test::load_options(dtype));
    const Tensor x = io.tensor("hidden_states"), time = io.tensor("timestep");
    int64_t blocks = 0;
    const auto count = [&](const std::string& name, const Tensor&) { blocks += name.starts_with("block.") ? 1 : 0; };
    const auto conditioning = model.condition(ctx, time, io.tensor("class_labels"));
    const Tensor tokens = model.encoder_stream(ctx, x, conditioning, count);
    EXPECT_EQ(blocks, model.config().depth[0]);
    blocks = 0;
    const Tensor sample = model.decoder_stream(ctx, x, tokens, time, count);
    EXPECT_EQ(blocks, model.config().depth[1]);
    EXPECT_EQ(sample.to_vector<float>(), forward(model).to_vector<float>()) << name_of(dtype);
  }
}

// bfloat16 has 8 bits; the reference rounds in other places (the time before its Fourier features, for one), so both
// are compared with the float32 sample: ours may not be further away than twice the reference's own distance.
TEST_P(Transformer, Bfloat16IsAsGoodAsTheReference) {
  const auto model = RAEDiT2DModel::from_pretrained(folder_of(GetParam()), test::load_options(DType::bfloat16));
  const Tensor sample = forward(model);
  ASSERT_EQ(sample.dtype(), DType::bfloat16);
  const double theirs = agreement(io.tensor("sample_bfloat16"), io.tensor("sample")).mean_absolute;
  const double ours = agreement(sample, io.tensor("sample")).mean_absolute;
  EXPECT_GT(ours, 0.0);
  EXPECT_LE(ours, 2.0 * theirs);
}

// loss = mean((sample - target)^2), so d loss / d sample = 2 (sample - target) / n.
TEST_P(Transformer, EveryGradientAgrees) {
  const std::string folder = folder_of(GetParam());
  const auto config =
      models::parse_rae_dit_config(models::read_config(folder, "RAEDiT2DModel"), folder + "/config.json");
  const auto weights = SafetensorsSet::open(folder);
  models::RaeDitTransformer model(config);
  const auto parameters = models::named_parameters(model);
  models::load_parameters(parameters, weights, DType::float32, ctx.kernels());
  model.complete();

  Tape tape;
  for (const auto& [name, parameter] : parameters) {
    if (!parameter->trained()) continue;
    nn::make_trainable(*parameter, ctx.kernels());
    tape.watch(parameter->value);
  }
  const Tensor hidden_states = test::on_device(ctx, io.tensor("hidden_states").clone());
  tape.watch(hidden_states);
  ctx.set_tape(&tape);
  const Tensor sample = model.forward(ctx, hidden_states, io.tensor("timestep"), io.tensor("class_labels"), {}, {});
  ctx.set_tape(nullptr);
  const Tensor difference = ops::sub(ctx, sample, io.tensor("target"));
  ctx.set_tape(&tape);
  tape.backward(ctx, sample, ops::scale(ctx, difference, 2.0f / static_cast<float>(sample.numel())));

  // A gradient that is all but zero (the keys' bias, which softmax cancels) is rounding noise: the bound is relative to
  // the largest gradient of the model there.
  double largest = 0;
  for (const std::string& name : io.names())
    if (name.starts_with("grad."))
      largest = std::max(largest, agreement(io.tensor(name), io.tensor(name)).largest_value);
  size_t checked = 0;
  const auto check = [&](const std::string& name, const Tensor& value) {
    if (!io.contains("grad." + name)) return;
    const Tensor expected = io.tensor("grad." + name);
    const auto found = agreement(tape.grad(ctx, value).reshape(expected.shape()), expected);
    EXPECT_LE(found.max_absolute, kGradient * std::max(found.largest_value, 1e-3 * largest)) << name;
    ++checked;
  };
  for (const auto& [name, parameter] : parameters)
    if (parameter->trained()) check(name, parameter->value);
  check("hidden_states", hidden_states);
  size_t in_file = 0;
  for (const std::string& name : io.names()) in_file += name.starts_with("grad.") ? 1 : 0;
  EXPECT_EQ(checked, in_file);
  EXPECT_GT(checked, 0u);
}

std::vector<std::string> variants() {
  return {"base",          "gelu",         "grid_16", "grid_32",   "head_72_128", "layernorm", "layernorm_qknorm",
          "no_null_class", "no_pos_embed", "no_rope", "odd_inner", "patch_1_2",   "patch_2",   "patch_2_1",
          "qknorm",        "same_width",   "wo_shift"};
}

INSTANTIATE_TEST_SUITE_P(Variants, Transformer, ::testing::ValuesIn(variants()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace raedit
