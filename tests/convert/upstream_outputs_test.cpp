// A converted checkpoint computes what upstream's own code computes from the file as it was published: one velocity,
// and whole trajectories on upstream's grid of times, plain, guided, and guided by a weaker model. The expected tensors
// are upstream's (tests/parity/data/upstream_stage2, written by bytetriper/RAE at a4d18c4 with the `ema` weights; the
// weaker model has the `model` weights).
#include <gtest/gtest.h>

#include "diffusion/guidance.h"
#include "io/io_test_util.h"
#include "io/safetensors.h"
#include "parity/agreement.h"
#include "raedit/convert.h"

namespace raedit {
namespace {

using test::ScratchFolder;

const std::string kFolder = std::string(RAEDIT_TEST_DATA) + "/upstream_stage2";
constexpr int kPoints = 20;
constexpr double kShift = 4.0;  // sqrt(65536 / 4096)

class UpstreamOutputs : public ::testing::Test {
 protected:
  RAEDiT2DModel converted(bool disable_ema) {
    ConvertStage2Options options;
    options.repo_or_path = kFolder;
    options.config_path = "config.yaml";
    options.checkpoint_path = "stage2_model.pt";
    options.disable_ema = disable_ema;
    ConvertOutput output;
    output.output_path = scratch_ / (disable_ema ? "model" : "ema");
    convert_stage2(options, output);
    EXPECT_EQ(FlowMatchEulerDiscreteScheduler::from_pretrained(output.output_path + "/scheduler").shift(), kShift);
    return RAEDiT2DModel::from_pretrained(output.output_path + "/transformer");
  }

  Tensor velocity(const RAEDiT2DModel& model, const Tensor& x, float t, const Tensor& labels) {
    return model.forward(ctx_, x, Tensor::full({x.dim(0)}, t), labels).clone();
  }

  // Euler steps from point to point; the last one is upstream's result.
  template <class Velocity>
  Tensor sample(const Velocity& velocity_at) {
    const std::vector<double> times = upstream_sigmas(kPoints, kShift);
    std::vector<float> x = expected_.tensor("z").to_vector<float>();
    const Shape shape = expected_.info("z").shape;
    for (size_t i = 0; i + 1 < times.size(); ++i) {
      const Tensor v = velocity_at(Tensor::from(x, shape), static_cast<float>(times[i]));
      const float dt = static_cast<float>(times[i + 1]) - static_cast<float>(times[i]);
      for (size_t k = 0; k < x.size(); ++k) x[k] += dt * v.data<float>()[k];
    }
    return Tensor::from(x, shape);
  }

  ScratchFolder scratch_;
  Context ctx_;
  const SafetensorsFile expected_ = SafetensorsFile::open(kFolder + "/io.safetensors");
  const Tensor labels_ = expected_.tensor("class_labels").to(DType::int64);
  const RAEDiT2DModel model_ = converted(false);
};

TEST_F(UpstreamOutputs, OneVelocity) {
  testing::expect_agrees("velocity", velocity(model_, expected_.tensor("z"), 0.5f, labels_),
                         expected_.tensor("velocity_t0.5"), 1e-5);
}

TEST_F(UpstreamOutputs, EulerTrajectory) {
  const Tensor found = sample([&](const Tensor& x, float t) { return velocity(model_, x, t, labels_); });
  testing::expect_agrees("euler", found, expected_.tensor("ode.euler.n20"), 1e-5);
}

TEST_F(UpstreamOutputs, ClassifierFreeGuidance) {
  const Tensor null = Tensor::from(std::vector<int64_t>(2, model_.config().num_classes), {2});
  // The interval is written nowhere in the file; upstream's code gives these numbers with it, and not without.
  const Tensor found = sample([&](const Tensor& x, float t) {
    const Tensor v = velocity(model_, x, t, labels_);
    return guidance_active(t, 0.1, 0.9) ? classifier_free_guidance(ctx_, v, velocity(model_, x, t, null), 2.5) : v;
  });
  testing::expect_agrees("cfg", found, expected_.tensor("ode.euler.n20.cfg2.5"), 1e-5);
}

TEST_F(UpstreamOutputs, Autoguidance) {
  const RAEDiT2DModel guide = converted(true);
  const Tensor found = sample([&](const Tensor& x, float t) {
    return classifier_free_guidance(ctx_, velocity(model_, x, t, labels_), velocity(guide, x, t, labels_), 1.5);
  });
  testing::expect_agrees("autoguidance", found, expected_.tensor("ode.euler.n20.autoguidance1.5"), 1e-5);
}

}  // namespace
}  // namespace raedit
