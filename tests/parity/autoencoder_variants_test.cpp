// AutoencoderRAE under options that the committed models do not have: statistics of every shape, scaling factor,
// slicing, inputs and latents of other sizes. tests/parity/data/extra/autoencoder.safetensors holds what diffusers made
// of them with the weights of autoencoder/dinov2; tools/dump_reference.py says how. The file's case noise_tau is about
// training, where encode() adds noise, and waits for the trainer.
#include <gtest/gtest.h>

#include <set>

#include "parity/agreement.h"
#include "raedit/autoencoder_rae.h"
#include "test_device.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

using testing::expect_agrees;

constexpr double kFloat32 = 1e-5;

const SafetensorsFile& reference() {
  static const auto file = SafetensorsFile::open(test::test_data("extra/autoencoder.safetensors"));
  return file;
}

Json cases() {
  return parse_json(reference().metadata().at("cases"), "cases");
}

// The model of autoencoder/dinov2 with the case's configuration and statistics.
AutoencoderRAE variant(const std::string& name) {
  const Json how = cases()[name];
  const std::string statistics = how.value("statistics", name);
  const test::ModelFolder folder("autoencoder/dinov2");
  folder.change_config([&](Json& config) {
    for (const auto& [key, value] : how["config"].items()) config[key] = value;
  });
  for (const std::string which : {"latents_mean", "latents_std"}) {
    if (!reference().contains(statistics + "." + which)) continue;
    const Tensor values = reference().tensor(statistics + "." + which);
    folder.change_config([&](Json& config) { config[which] = test::nested_lists(values); });
    folder.change_weights([&](test::Weights& weights) { weights["_" + which] = values; });
  }
  AutoencoderRAE vae = AutoencoderRAE::from_pretrained(folder.path(), test::load_options());
  if (how.value("slicing", false)) vae.enable_slicing();
  return vae;  // the weights stay mapped when the folder goes
}

class AutoencoderVariant : public ::testing::TestWithParam<std::string> {
 protected:
  Context ctx = test::test_context();
  bool has(const std::string& what) const { return reference().contains(GetParam() + what); }
  Tensor tensor(const std::string& what) const { return reference().tensor(GetParam() + what); }
};

TEST_P(AutoencoderVariant, EncodesAndDecodesAsTheReference) {
  const AutoencoderRAE vae = variant(GetParam());
  const Tensor latent = tensor(".latent");
  if (!GetParam().starts_with("grid_")) {  // there the latent is an input
    const Tensor pixels = has(".pixels") ? tensor(".pixels") : reference().tensor("pixels").slice(0, 0, latent.dim(0));
    expect_agrees("latent", vae.encode(ctx, pixels), latent, kFloat32);
  }
  if (has(".sample")) expect_agrees("sample", vae.decode(ctx, latent), tensor(".sample"), kFloat32);
}

const std::vector<std::string>& names() {
  static const std::vector<std::string> list = {
      "scalar",     "per_channel", "per_channel_4d", "scaling_factor", "scaling_factor_scalar",
      "sliced",     "norm",        "size_40x40",     "size_48x80",     "size_112x64",
      "size_56x57", "grid_3",      "grid_6"};
  return list;
}

INSTANTIATE_TEST_SUITE_P(Extra, AutoencoderVariant, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

TEST(AutoencoderVariants, AreAllThatTheFileHas) {
  std::set<std::string> expected(names().begin(), names().end());
  expected.insert("noise_tau");
  std::set<std::string> found;
  const Json all = cases();
  for (const auto& [name, how] : all.items()) found.insert(name);
  EXPECT_EQ(found, expected);
}

// One number in config.json is a tensor without dimensions in the checkpoint.
TEST(AutoencoderVariants, AStatisticMayBeANumber) {
  const test::ModelFolder folder("autoencoder/dinov2");
  folder.change_config([](Json& config) { config["latents_mean"] = 0.25, config["latents_std"] = 1.5; });
  folder.change_weights([](test::Weights& weights) {
    weights["_latents_mean"] = Tensor::full({}, 0.25f);
    weights["_latents_std"] = Tensor::full({}, 1.5f);
  });
  const auto vae = AutoencoderRAE::from_pretrained(folder.path(), test::load_options());
  Context ctx = test::test_context();
  expect_agrees("latent", vae.encode(ctx, reference().tensor("pixels")), reference().tensor("scalar.latent"), kFloat32);
  expect_agrees("sample", vae.decode(ctx, reference().tensor("scalar.latent")), reference().tensor("scalar.sample"),
                kFloat32);
}

// Tokens instead of maps have the same numbers.
TEST(AutoencoderVariants, TokensAreTheMapTransposed) {
  const test::ModelFolder folder("autoencoder/dinov2");
  folder.change_config([](Json& config) { config["latents_mean"] = config["latents_std"] = Json::array({0.5}); });
  folder.change_weights(
      [](test::Weights& weights) { weights["_latents_mean"] = weights["_latents_std"] = Tensor::full({1}, 0.5f); });
  const auto maps = AutoencoderRAE::from_pretrained(folder.path(), test::load_options());
  folder.change_config([](Json& config) { config["reshape_to_2d"] = false; });
  const auto tokens = AutoencoderRAE::from_pretrained(folder.path(), test::load_options());
  Context ctx = test::test_context();
  const Tensor pixels = reference().tensor("pixels");
  const Tensor map = maps.encode(ctx, pixels);
  const Tensor list = tokens.encode(ctx, pixels);
  ASSERT_EQ(list.shape(), Shape({2, 16, 128}));
  EXPECT_EQ(list.transpose(1, 2).to_vector<float>(), map.to_vector<float>());
  EXPECT_EQ(tokens.decode(ctx, list).to_vector<float>(), maps.decode(ctx, map).to_vector<float>());
}

TEST(AutoencoderVariants, RefuseLatentsThatAreNotASquareGrid) {
  const auto vae = AutoencoderRAE::from_pretrained(test::test_data("autoencoder/dinov2_tokens"), test::load_options());
  const int64_t channels = vae.config().encoder_hidden_size;
  Context ctx = test::test_context();
  if (vae.config().reshape_to_2d) GTEST_FAIL() << "the committed model has changed";
  for (const Shape& shape :
       {Shape{1, 5, channels}, Shape{1, 16, channels + 1}, Shape{16, channels}, Shape{0, 16, channels}})
    test::expect_error(ErrorCode::invalid_argument, {"latent", std::to_string(shape[-2])},
                       [&] { vae.decode(ctx, Tensor::zeros(shape, DType::float32)); });
}

}  // namespace
}  // namespace raedit
