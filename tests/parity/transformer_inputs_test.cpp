// RAEDiT2DModel (transformer/base) on inputs that its own fixture lacks: timesteps up to 999 as the reference's own
// tests feed them, the ends of the interval, the null class, and a condition that comes from outside.
// tests/parity/data/extra/transformer.safetensors.
#include <gtest/gtest.h>

#include "io/safetensors.h"
#include "parity/agreement.h"
#include "raedit/rae_dit_transformer.h"
#include "test_device.h"

namespace raedit {
namespace {

using testing::expect_agrees;

constexpr double kFloat32 = 1e-5;

class TransformerInputs : public ::testing::Test {
 protected:
  SafetensorsFile io = SafetensorsFile::open(RAEDIT_TEST_DATA "/extra/transformer.safetensors");
  RAEDiT2DModel model = RAEDiT2DModel::from_pretrained(RAEDIT_TEST_DATA "/transformer/base", test::load_options());
  Context ctx = test::test_context();

  Tensor forward(const std::string& timestep, const Tensor& conditioning = {}) {
    return model.forward(ctx, io.tensor("hidden_states"), io.tensor(timestep), io.tensor("class_labels"), conditioning);
  }
};

TEST_F(TransformerInputs, EndsOfTheIntervalAndNullClass) {
  ASSERT_EQ(io.tensor("class_labels").to_vector<int64_t>().back(), model.config().num_classes);
  expect_agrees("sample", forward("timestep"), io.tensor("sample"), kFloat32);
}

TEST_F(TransformerInputs, RawTimesteps) {
  expect_agrees("raw.sample", forward("raw.timestep"), io.tensor("raw.sample"), kFloat32);
}

TEST_F(TransformerInputs, GivenConditioning) {
  expect_agrees("conditioned.sample", forward("timestep", io.tensor("conditioned.conditioning_hidden_states")),
                io.tensor("conditioned.sample"), kFloat32);
}

// A condition of one token holds for all of them.
TEST_F(TransformerInputs, OneConditionForAllTokens) {
  const Tensor one = io.tensor("conditioned.conditioning_hidden_states").slice(1, 3, 4);
  const Tensor all = one.expand({4, 16, 32}).contiguous();
  expect_agrees("sample", forward("timestep", one), forward("timestep", all), test::on_cpu() ? 1e-6 : kFloat32);
}

}  // namespace
}  // namespace raedit
