// After its first step a request takes no memory from the system: activations and the kernels' temporaries come back.
#include <gtest/gtest.h>

#include "raedit/rae_dit_pipeline.h"
#include "tensor/memory.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

class RequestMemory : public testing::TestWithParam<DType> {
 protected:
  // Large blocks taken up to the end of each step.
  std::vector<uint64_t> run(Context& ctx, const RAEDiTPipeline& pipeline, double guidance) {
    taken_.clear();
    RAEDiTPipelineArguments arguments;
    arguments.class_labels = {1, 3, 0, 2, 1};
    arguments.guidance_scale = guidance;
    arguments.num_inference_steps = 5;
    arguments.output_type = OutputType::latent;
    pipeline(ctx, arguments);
    return taken_;
  }
  ContextOptions options() {
    ContextOptions options;
    options.threads = 2;
    options.progress = [this](const Progress&) { taken_.push_back(large_blocks_allocated()); };
    return options;
  }

  std::vector<uint64_t> taken_;
};

TEST_P(RequestMemory, IsAllTakenInTheFirstStep) {
  const auto pipeline = RAEDiTPipeline::from_pretrained(test::test_data("pipeline"), {.dtype = GetParam()});
  for (const double guidance : {1.0, 2.5}) {
    SCOPED_TRACE(guidance);
    Context ctx(options());
    const uint64_t before = large_blocks_allocated();
    const auto taken = run(ctx, pipeline, guidance);
    ASSERT_EQ(taken.size(), 5u);
    EXPECT_GT(taken.front(), before);
    for (const uint64_t blocks : taken) EXPECT_EQ(blocks, taken.front());
    // And the next request of this shape takes what it starts from, no activations.
    const uint64_t between = large_blocks_allocated();
    const auto again = run(ctx, pipeline, guidance);
    EXPECT_LE(again.front() - between, 8u);
    EXPECT_EQ(again.back(), again.front());
  }
}

INSTANTIATE_TEST_SUITE_P(All, RequestMemory, testing::Values(DType::float32, DType::bfloat16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace raedit
