// AutoencoderRAE against tensors that diffusers wrote, encoder by encoder: encode and decode at the encoder's own size
// and from another, grids unlike that of the position table, and every gradient of the decoder.
#include <gtest/gtest.h>

#include <cmath>

#include "backend/kernels.h"
#include "models/autoencoder_rae.h"
#include "models/checkpoint.h"
#include "ops/elementwise.h"
#include "ops/tape.h"
#include "parity/agreement.h"
#include "test_device.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

using test::ModelFolder;
using test::Weights;
using testing::agreement;
using testing::expect_agrees;
using testing::expect_same_rows;

constexpr double kFloat32 = 1e-5;
constexpr double kGradient = 1e-4;

class Autoencoder : public ::testing::TestWithParam<std::string> {
 protected:
  std::string folder = std::string(RAEDIT_TEST_DATA) + "/autoencoder/" + GetParam();
  SafetensorsFile io = SafetensorsFile::open(folder + "/io.safetensors");
  Context ctx = test::test_context();
};

TEST_P(Autoencoder, EncodeAndDecodeAgree) {
  const auto vae = AutoencoderRAE::from_pretrained(folder, test::load_options());
  for (const std::string size : {"native", "resized"}) {
    expect_agrees(size + ".latent", vae.encode(ctx, io.tensor(size + ".pixels")), io.tensor(size + ".latent"),
                  kFloat32);
    expect_agrees(size + ".sample", vae.decode(ctx, io.tensor(size + ".latent")), io.tensor(size + ".sample"),
                  kFloat32);
    expect_agrees(size + ".reconstruct", vae.reconstruct(ctx, io.tensor(size + ".pixels")), io.tensor(size + ".sample"),
                  2 * kFloat32);
  }
}

TEST_P(Autoencoder, SlicingChangesNothing) {
  auto vae = AutoencoderRAE::from_pretrained(folder, test::load_options());
  const Tensor pixels = io.tensor("native.pixels");
  const Tensor whole = vae.reconstruct(ctx, pixels);
  vae.enable_slicing();
  expect_same_rows("reconstruct", vae.reconstruct(ctx, pixels), whole);
}

// loss = mean |decode(native.latent) - target|, so d loss / d sample = sign(sample - target) / n.
TEST_P(Autoencoder, LossAndDecoderGradientsAgree) {
  const auto source = models::open_model(folder, "AutoencoderRAE", {});
  models::AutoencoderRae model(models::parse_autoencoder_rae_config(source.config, source.where), source.config,
                               source.weights, test::load_options());
  Tape tape;
  const models::NamedParameters parameters = models::named_parameters(model.parameters.decoder);
  for (const auto& [name, parameter] : parameters) {
    if (!parameter->trained()) continue;
    nn::make_trainable(*parameter, ctx.kernels());
    tape.watch(parameter->value);
  }
  ctx.set_tape(&tape);
  const Tensor sample = model.decode(ctx, io.tensor("native.latent"));
  ctx.set_tape(nullptr);

  const Tensor slope = ops::sub(ctx, sample, io.tensor("target")).clone();
  const auto n = static_cast<float>(slope.numel());
  double loss = 0;
  for (float *at = slope.data<float>(), *end = at + slope.numel(); at != end; ++at) {
    loss += static_cast<double>(std::abs(*at) / n);
    *at = std::copysign(1.0f / n, *at);
  }
  expect_agrees("l1_loss", Tensor::full({1}, static_cast<float>(loss)), io.tensor("l1_loss"), kFloat32);
  ctx.set_tape(&tape);
  tape.backward(ctx, sample, slope);

  // A gradient that is all but zero (the keys' bias, which softmax cancels) is rounding noise.
  double largest = 0;
  for (const std::string& name : io.names())
    if (name.starts_with("grad."))
      largest = std::max(largest, agreement(io.tensor(name), io.tensor(name)).largest_value);
  for (const auto& [name, parameter] : parameters) {
    if (!parameter->trained()) continue;
    const Tensor expected = io.tensor("grad." + name);
    const auto found = agreement(tape.grad(ctx, parameter->value).reshape(expected.shape()), expected);
    EXPECT_LE(found.max_absolute, kGradient * std::max(found.largest_value, 1e-3 * largest)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Encoders, Autoencoder, ::testing::Values("dinov2", "dinov2_tokens", "mae", "siglip2"),
                         [](const auto& info) { return info.param; });

// The fixtures of these two encoders hold more (tools/dump_reference.py --encoder).
class EncoderWithTable : public Autoencoder {};

// "own" is the grid that the position table belongs to, where it is used as it is; "larger" stretches it. The native
// size of the fixture, above, shrinks it.
TEST_P(EncoderWithTable, AgreesOnOtherGrids) {
  const Json cases = parse_json(io.metadata().at("cases"), "cases");
  for (const std::string grid : {"own", "larger"}) {
    const ModelFolder changed("autoencoder/" + GetParam());
    changed.change_config([&](Json& config) { config.update(cases[grid]["config"]); });
    const auto vae = AutoencoderRAE::from_pretrained(changed.path(), test::load_options());
    expect_agrees(grid, vae.encode(ctx, io.tensor(grid + ".pixels")), io.tensor(grid + ".latent"), kFloat32);
  }
}

TEST_P(EncoderWithTable, Bfloat16IsAsGoodAsTheReference) {
  const auto vae = AutoencoderRAE::from_pretrained(folder, test::load_options(DType::bfloat16));
  const Tensor expected = io.tensor("native.latent");
  const double theirs = agreement(io.tensor("native.latent_bfloat16"), expected).mean_absolute;
  const double ours = agreement(vae.encode(ctx, io.tensor("native.pixels")), expected).mean_absolute;
  EXPECT_GT(ours, 0.0);
  EXPECT_LE(ours, 2.0 * theirs);
}

INSTANTIATE_TEST_SUITE_P(Encoders, EncoderWithTable, ::testing::Values("mae", "siglip2"),
                         [](const auto& info) { return info.param; });

using Renames = std::vector<std::pair<std::string, std::string>>;  // part of a name, and what stands there instead

void rename_parts(const ModelFolder& folder, const Renames& renames) {
  folder.change_weights([&](Weights& weights) {
    Weights renamed;
    for (const auto& [name, tensor] : weights) {
      std::string other = name;
      for (const auto& [from, to] : renames)
        if (const size_t at = other.find(from); at != std::string::npos && other.starts_with("encoder."))
          other.replace(at, from.size(), to);
      renamed[other] = tensor;
    }
    weights = renamed;
  });
}

// transformers 4 and 5 name the same tensors differently, and checkpoints of both are about.
TEST(EncoderNames, OfEveryTransformersVersionAreReadAndKept) {
  const std::map<std::string, Renames> other_spelling = {{"mae",
                                                          {{"encoder.layers.", "encoder.encoder.layer."},
                                                           {".attention.q_proj.", ".attention.attention.query."},
                                                           {".attention.k_proj.", ".attention.attention.key."},
                                                           {".attention.v_proj.", ".attention.attention.value."},
                                                           {".attention.o_proj.", ".attention.output.dense."},
                                                           {".mlp.fc1.", ".intermediate.dense."},
                                                           {".mlp.fc2.", ".output.dense."}}},
                                                         {"siglip2", {{"encoder.vision_model.", "encoder."}}},
                                                         {"dinov2",
                                                          {{".attention.attention.query.", ".attention.q_proj."},
                                                           {".attention.attention.key.", ".attention.k_proj."},
                                                           {".attention.attention.value.", ".attention.v_proj."},
                                                           {".attention.output.dense.", ".attention.o_proj."}}}};
  for (const auto& [encoder, renames] : other_spelling) {
    SCOPED_TRACE(encoder);
    const ModelFolder folder("autoencoder/" + encoder);
    const auto io = SafetensorsFile::open(folder / "io.safetensors");
    rename_parts(folder, renames);
    const auto vae = AutoencoderRAE::from_pretrained(folder.path(), test::load_options());
    Context ctx = test::test_context();
    expect_agrees("latent", vae.encode(ctx, io.tensor("native.pixels")), io.tensor("native.latent"), kFloat32);

    const Weights original = test::read_weights(test::test_data("autoencoder/" + encoder));
    const Weights expected = test::read_weights(folder.path());
    vae.save_pretrained(folder / "saved");
    const Weights saved = test::read_weights(folder / "saved");
    ASSERT_EQ(saved.size(), original.size());
    for (const auto& [name, tensor] : expected) EXPECT_TRUE(saved.contains(name)) << name;
  }
}

TEST(EncoderNames, OfAnotherEncoderAreRefused) {
  const std::map<std::string, std::string> sign = {{"dinov2", "encoder.embeddings.register_tokens"},
                                                   {"mae", "encoder.layers.0.layernorm_before"},
                                                   {"siglip2", "embeddings.position_embedding.weight"}};
  for (const auto& [weights, name] : sign)
    for (const auto& [config, other] : sign) {
      if (config == weights) continue;
      const ModelFolder folder("autoencoder/" + weights);
      folder.change_config([&, config = config](Json& json) { json["encoder_type"] = config; });
      test::expect_error(ErrorCode::format,
                         {"another encoder", name, folder / "diffusion_pytorch_model.safetensors", weights, config},
                         [&] { AutoencoderRAE::from_pretrained(folder.path()); });
    }
}

}  // namespace
}  // namespace raedit
