// AutoencoderRAE against tensors that diffusers wrote: encode and decode at the encoder's own size and from another.
#include <gtest/gtest.h>

#include "io/safetensors.h"
#include "parity/agreement.h"
#include "raedit/autoencoder_rae.h"

namespace raedit {
namespace {

using testing::expect_agrees;

constexpr double kFloat32 = 1e-5;

class Autoencoder : public ::testing::TestWithParam<std::string> {
 protected:
  std::string folder = std::string(RAEDIT_TEST_DATA) + "/autoencoder/" + GetParam();
  SafetensorsFile io = SafetensorsFile::open(folder + "/io.safetensors");
  Context ctx;
};

TEST_P(Autoencoder, EncodeAndDecodeAgree) {
  const auto vae = AutoencoderRAE::from_pretrained(folder);
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
  auto vae = AutoencoderRAE::from_pretrained(folder);
  const Tensor pixels = io.tensor("native.pixels");
  const Tensor whole = vae.reconstruct(ctx, pixels);
  vae.enable_slicing();
  EXPECT_EQ(vae.reconstruct(ctx, pixels).to_vector<float>(), whole.to_vector<float>());
}

INSTANTIATE_TEST_SUITE_P(Encoders, Autoencoder, ::testing::Values("dinov2", "dinov2_tokens"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace raedit
