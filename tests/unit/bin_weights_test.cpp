// A model folder with PyTorch's .bin instead of safetensors, as some converters write it, is the same model.
#include <gtest/gtest.h>

#include "io/torch_write.h"
#include "raedit/rae_dit_transformer.h"
#include "unit/expect_error.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

std::vector<float> forward(const std::string& folder, const std::string& variant = "") {
  LoadOptions options;
  options.variant = variant;
  const auto model = RAEDiT2DModel::from_pretrained(folder, options);
  Context ctx;
  const auto& c = model.config();
  const Tensor latents = test::normal_tensor({1, c.in_channels, c.sample_size, c.sample_size}, 1);
  return model
      .forward(ctx, latents, Tensor::from(std::vector<float>{0.3f}, {1}), Tensor::from(std::vector<int64_t>{1}, {1}))
      .to_vector<float>();
}

TEST(BinWeights, LoadAsSafetensorsDo) {
  const std::string committed = test::test_data("transformer/base");
  const std::vector<float> expected = forward(committed);
  const test::ScratchFolder scratch;
  const std::string folder = scratch / "model";
  std::filesystem::create_directories(folder);
  std::filesystem::copy_file(committed + "/config.json", folder + "/config.json");
  EXPECT_RAEDIT_ERROR(forward(folder), ErrorCode::not_found, folder, "diffusion_pytorch_model.bin");

  std::vector<TensorSource> sources;
  for (const auto& [name, tensor] : test::read_weights(committed)) sources.push_back(TensorSource::of(name, tensor));
  write_torch(folder + "/diffusion_pytorch_model.bin", sources);
  EXPECT_EQ(forward(folder), expected);
  write_torch(folder + "/diffusion_pytorch_model.ema.bin", sources);
  EXPECT_EQ(forward(folder, "ema"), expected);

  sources.pop_back();
  write_torch(folder + "/diffusion_pytorch_model.bin", sources);
  EXPECT_RAEDIT_ERROR(forward(folder), ErrorCode::format, "is missing", "diffusion_pytorch_model.bin");
}

}  // namespace
}  // namespace raedit
