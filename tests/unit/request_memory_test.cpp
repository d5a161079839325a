// Before its first step a request knows what its activations take and gets it at once; after that step it takes no
// memory from the system: activations and the kernels' temporaries come back.
#include <gtest/gtest.h>

#include "pipeline/request_plan.h"
#include "raedit/rae_dit_pipeline.h"
#include "tensor/arena.h"
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

// ---- the plan, on the bundled model

struct Form {
  const char* name;
  LoadOptions load;
};

class RequestPlan : public testing::TestWithParam<Form> {
 protected:
  RequestPlan()
      : pipeline_(
            RAEDiTPipeline::from_pretrained(std::string(RAEDIT_SOURCE_DIR) + "/models/emoji64", GetParam().load)) {}

  RAEDiTPipelineArguments request(int64_t count, double guidance = 1.0, OutputType output = OutputType::pt) const {
    RAEDiTPipelineArguments arguments;
    arguments.class_labels.assign(static_cast<size_t>(count), 3);
    arguments.guidance_scale = guidance;
    arguments.num_inference_steps = 4;
    arguments.output_type = output;
    arguments.seed = 7;
    return arguments;
  }

  // Requests of every kind: without guidance, with either kind of it, in an interval or not, with few encoder passes.
  std::vector<RAEDiTPipelineArguments> all(int64_t count) const {
    std::vector<RAEDiTPipelineArguments> requests{request(count),      request(count, 3.0),
                                                  request(count, 3.0), request(count, 3.0),
                                                  request(count, 3.0), request(count, 3.0, OutputType::latent)};
    for (const size_t i : {2, 3}) requests[i].guidance_start = 0.3, requests[i].guidance_end = 0.7;
    for (const size_t i : {3, 4}) requests[i].guide_transformer = &pipeline_.transformer();
    requests.push_back(requests[2]);
    requests.push_back(requests[3]);
    requests.push_back(requests[0]);
    for (size_t i = 6; i < requests.size(); ++i) requests[i].encoder_reuse.every = 2;
    return requests;
  }

  // In whole pages, as it is reserved.
  size_t planned(const Context& ctx, const RAEDiTPipelineArguments& a) const {
    const AutoencoderRAE* const vae = a.output_type == OutputType::latent ? nullptr : &pipeline_.vae();
    const auto labels = Tensor::from(a.class_labels, {static_cast<int64_t>(a.class_labels.size())});
    const size_t bytes = plan_request(ctx.kernels(), pipeline_.transformer(), vae, pipeline_.scheduler(), labels, a);
    return (bytes + 4095) / 4096 * 4096;
  }

  RAEDiTPipeline pipeline_;
};

TEST_P(RequestPlan, IsAllThatARequestTakes) {
  for (const int64_t count : {1, 3}) {
    int kind = 0;
    for (const RAEDiTPipelineArguments& arguments : all(count)) {
      SCOPED_TRACE(testing::Message() << "count " << count << ", kind " << kind++);
      Context ctx({.threads = 2});
      pipeline_(ctx, arguments);
      EXPECT_EQ(ctx.arena().allocations(), 1u);
      EXPECT_EQ(ctx.arena().reserved_bytes(), planned(ctx, arguments));
      EXPECT_GT(ctx.arena().peak_bytes(), planned(ctx, arguments) / 3);
    }
  }
}

TEST_P(RequestPlan, ChangesNoBit) {
  const RAEDiTPipelineArguments arguments = all(3)[2];
  Context plain({.threads = 2}), reserved({.threads = 2});
  plain.arena().keep_blocks();  // does not reserve, then
  const auto expected = pipeline_(plain, arguments).images.to_vector<float>();
  EXPECT_EQ(pipeline_(reserved, arguments).images.to_vector<float>(), expected);
  EXPECT_GT(plain.arena().allocations(), 10u);
  EXPECT_EQ(reserved.arena().allocations(), 1u);
}

TEST_P(RequestPlan, IsMadeAnewForALargerRequestAlone) {
  Context ctx({.threads = 2});
  pipeline_(ctx, request(1));
  const auto large = request(3, 2.0);
  pipeline_(ctx, large);
  EXPECT_EQ(ctx.arena().allocations(), 2u);
  EXPECT_EQ(ctx.arena().reserved_bytes(), planned(ctx, large));
  pipeline_(ctx, large);
  EXPECT_EQ(ctx.arena().allocations(), 2u);
  EXPECT_EQ(ctx.arena().bytes_in_use(), 0u);
}

INSTANTIATE_TEST_SUITE_P(All, RequestPlan,
                         testing::Values(Form{"float32", {.dtype = DType::float32}},
                                         Form{"bfloat16", {.dtype = DType::bfloat16}},
                                         Form{"int8", {.dtype = DType::bfloat16, .quantization = Quantization::int8}}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace raedit
