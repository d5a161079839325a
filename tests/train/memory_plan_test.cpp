// The plan of a training run's memory against what a real step of the same model takes.
#include "train/memory_plan.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <map>
#include <memory>
#include <set>

#include "io/io_test_util.h"
#include "models/checkpoint.h"
#include "raedit/generator.h"
#include "tensor/arena.h"
#include "tensor/memory.h"
#include "test_device.h"
#include "train/stage2_step.h"
#include "unit/expect_error.h"

namespace raedit {
namespace {

using namespace train;

// Two widths, two patch sizes: what the streams hand over changes its size, too. An odd number of channels leaves
// storages of an odd number of numbers.
RAEDiT2DModelConfig small_config() {
  RAEDiT2DModelConfig config;
  config.sample_size = 8;
  config.in_channels = 15;
  config.patch_size = {2, 1};
  config.hidden_size = {32, 48};
  config.depth = {3, 2};
  config.num_heads = {2, 3};
  config.num_classes = 6;
  return config;
}

std::map<std::string, uint64_t> bytes_of(const MemoryPlan& plan) {
  std::map<std::string, uint64_t> bytes;
  for (const MemoryPlan::Part& part : plan.parts) bytes[part.name] = part.bytes;
  return bytes;
}

std::string lower_of(const MemoryPlan& plan, const std::string& name) {
  for (const MemoryPlan::Part& part : plan.parts)
    if (part.name == name) return part.lower;
  return "no such part";
}

// All that lies behind these tensors, each storage once.
uint64_t stored(const std::vector<Tensor>& tensors) {
  std::set<uint64_t> seen;
  uint64_t bytes = 0;
  for (const Tensor& tensor : tensors)
    if (seen.insert(tensor.storage()->id()).second) bytes += tensor.storage()->bytes();
  return bytes;
}

std::unique_ptr<models::RaeDitTransformer> random_model(const RAEDiT2DModelConfig& config, DType dtype,
                                                        const backend::Kernels& kernels) {
  auto model = std::make_unique<models::RaeDitTransformer>(config);
  model->dtype = dtype;
  Generator generator(7);
  for (const auto& [name, p] : models::named_parameters(*model)) {
    if (!p->required) continue;
    const Tensor numbers = generator.randn(p->shape);
    for (int64_t i = 0; i < numbers.numel(); ++i) numbers.data<float>()[i] *= 0.1f;
    nn::assign(*p, numbers, dtype, kernels);
  }
  model->complete();
  for (const auto& [name, p] : models::named_parameters(*model))
    if (!p->trained()) nn::place(*p, kernels);
  return model;
}

Stage2Batch random_batch(const RAEDiT2DModelConfig& config, int64_t batch, const backend::Kernels& kernels) {
  const auto there = [&](const Tensor& tensor) { return copy_to(tensor, kernels.memory()); };
  const Shape shape{batch, config.in_channels, config.sample_size, config.sample_size};
  Generator generator(3);
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < batch; ++i) labels.push_back((5 * i + 2) % config.num_classes);
  return {there(generator.randn(shape)), there(generator.randn(shape)), there(Tensor::full({batch}, 0.3f)),
          there(Tensor::from(labels, {batch})), there(Tensor::full({batch}, 1.0f))};
}

// Of a real training, after three micro-batches and a step.
void expect_as_planned(const RAEDiT2DModelConfig& config, const MemoryPlanOptions& options) {
  const std::map<std::string, uint64_t> planned = bytes_of(plan_memory(config, options));
  Context ctx = test::test_context();
  const auto model = random_model(config, options.bf16 ? DType::bfloat16 : DType::float32, ctx.kernels());
  Stage2StepOptions step_options;
  step_options.checkpointing = options.gradient_checkpointing;
  if (options.ema) step_options.ema_decay = 0.9;
  Stage2Step training(ctx.kernels(), *model, step_options);
  const Stage2Batch batch = random_batch(config, options.batch, ctx.kernels());
  for (int part = 0; part < 3; ++part) training.accumulate(ctx, batch, 3);
  EXPECT_EQ(planned.at("activations"), ctx.arena().peak_bytes());
  const auto free = planned.find("free blocks");
  EXPECT_EQ(planned.at("activations") + (free == planned.end() ? 0 : free->second), ctx.arena().reserved_bytes());
  EXPECT_EQ(training.step(ctx, 1e-3).not_finite, "");

  EXPECT_EQ(planned.at("gradients"), stored(training.parameters()));
  std::vector<Tensor> all = training.parameters();
  for (const auto& [name, p] : models::named_parameters(*model))
    if (!p->trained()) all.push_back(p->value);
  EXPECT_EQ(planned.at("weights"), stored(all));
  EXPECT_EQ(planned.contains("moving averages"), options.ema);
  if (options.ema) {
    EXPECT_EQ(planned.at("moving averages"), stored(training.averages()));
  }
  // The optimizer's own, over the same parameters.
  const Optimizer optimizer(ctx.kernels(), training.parameters(), {.rounded = options.bf16});
  EXPECT_EQ(planned.at("optimizer moments"), stored(optimizer.exp_avg()) + stored(optimizer.exp_avg_sq()));
  EXPECT_EQ(planned.contains("rounded weights"), options.bf16);
  if (options.bf16) {
    EXPECT_EQ(planned.at("rounded weights"), stored(optimizer.rounded()));
  }
  EXPECT_EQ(planned.at("batch"), stored({batch.latents, batch.noise, batch.sigmas, batch.class_labels, batch.weights}));
}

TEST(MemoryPlan, IsWhatARealStepTakes) {
  for (const int64_t batch : {2, 5})
    for (const bool bf16 : {false, true})
      for (const bool checkpointing : {false, true}) {
        SCOPED_TRACE(::testing::Message()
                     << "batch " << batch << (bf16 ? ", bfloat16" : "") << (checkpointing ? ", checkpointing" : ""));
        expect_as_planned(small_config(), {.batch = batch,
                                           .bf16 = bf16,
                                           .gradient_checkpointing = checkpointing,
                                           .ema = batch == 5,
                                           .zero1_ranks = 1,
                                           .own_memory = !test::on_cpu()});
      }
}

// The other forms of the model: each takes other ways through the ops.
TEST(MemoryPlan, KnowsEveryFormOfTheModel) {
  RAEDiT2DModelConfig config = small_config();
  config.use_qknorm = true;
  config.use_swiglu = config.use_rmsnorm = false;
  config.wo_shift = true;
  for (const bool bf16 : {false, true})
    expect_as_planned(config, {.batch = 3,
                               .bf16 = bf16,
                               .gradient_checkpointing = false,
                               .ema = false,
                               .zero1_ranks = 1,
                               .own_memory = !test::on_cpu()});
  config.use_rope = config.use_pos_embed = false;
  config.hidden_size[1] = config.hidden_size[0];
  config.num_heads[1] = config.num_heads[0];
  expect_as_planned(config, {.batch = 3,
                             .bf16 = false,
                             .gradient_checkpointing = true,
                             .ema = true,
                             .zero1_ranks = 1,
                             .own_memory = !test::on_cpu()});
}

TEST(MemoryPlan, OfTheLargestModelTakesNeitherTimeNorMemory) {
  const auto highest = [] {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;  // KiB
  };
  const RAEDiT2DModelConfig config;  // the defaults are DiT-DH-XL's
  const auto before = highest();
  const auto start = std::chrono::steady_clock::now();
  const MemoryPlan plan = plan_memory(config, {.batch = 64});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  EXPECT_LT(took.count(), 2.0);
  EXPECT_LT(highest() - before, 200 * 1024);
  const models::RaeDitTransformer model(config);
  EXPECT_EQ(bytes_of(plan).at("gradients"), static_cast<uint64_t>(models::count_parameters(model)) * 4);
  EXPECT_GT(bytes_of(plan).at("activations"), uint64_t{30} << 30);
}

TEST(MemoryPlan, GetsSmallerAsTheTableSays) {
  RAEDiT2DModelConfig config;
  config.hidden_size = {384, 1024};
  config.depth = {12, 2};
  config.num_heads = {6, 16};
  MemoryPlanOptions options{.batch = 8, .ema = true};
  const MemoryPlan plain = plan_memory(config, options);
  EXPECT_EQ(lower_of(plain, "activations"),
            "--gradient-checkpointing, --mixed-precision bf16, --train-batch-size with --gradient-accumulation-steps");
  EXPECT_EQ(lower_of(plain, "moving averages"), "no --ema-decay");
  const uint64_t activations = bytes_of(plain).at("activations");
  options.gradient_checkpointing = true;
  const MemoryPlan checkpointed = plan_memory(config, options);
  EXPECT_LT(bytes_of(checkpointed).at("activations"), activations / 2);
  EXPECT_EQ(lower_of(checkpointed, "activations"),
            "--mixed-precision bf16, --train-batch-size with --gradient-accumulation-steps");
  options.bf16 = true;
  EXPECT_LT(bytes_of(plan_memory(config, options)).at("activations"), bytes_of(checkpointed).at("activations"));
  options = {.batch = 1, .ema = false};
  const MemoryPlan one = plan_memory(config, options);
  EXPECT_NEAR(static_cast<double>(bytes_of(one).at("activations")), static_cast<double>(activations) / 8,
              static_cast<double>(activations) / 80);
  EXPECT_EQ(lower_of(one, "activations"), "--gradient-checkpointing, --mixed-precision bf16");
  EXPECT_FALSE(bytes_of(one).contains("moving averages"));
  options.zero1_ranks = 4;
  const MemoryPlan shared = plan_memory(config, options);
  EXPECT_EQ(bytes_of(shared).at("optimizer moments"), bytes_of(one).at("optimizer moments") / 4);
  EXPECT_EQ(lower_of(one, "optimizer moments"), "--zero1 with several ranks");
  EXPECT_EQ(lower_of(shared, "optimizer moments"), "");
}

TEST(MemoryPlan, IsATableForPeople) {
  const MemoryPlan plan{{{"weights", 3 << 20, "0.8 M x float32", ""},
                         {"activations", 1536, "batch 2, float32", "--gradient-checkpointing"}}};
  EXPECT_EQ(plan.total(), (3u << 20) + 1536u);
  EXPECT_EQ(plan.table(uint64_t{1} << 30),
            "part            bytes  how               smaller with\n"
            "weights      3.00 MiB  0.8 M x float32\n"
            "activations  1.50 KiB  batch 2, float32  --gradient-checkpointing\n"
            "sum          3.00 MiB\n"
            "available    1.00 GiB  fits\n");
  const std::string tight = plan.table(3 << 20);
  EXPECT_TRUE(tight.ends_with("available    3.00 MiB  does not fit\n")) << tight;
  EXPECT_TRUE(plan.table(plan.total()).ends_with("  fits\n"));
  EXPECT_TRUE(plan.table(kUnknownMemory).ends_with("  not known\n")) << plan.table(kUnknownMemory);
}

TEST(MemoryPlan, RefusesWhatIsNoPlan) {
  EXPECT_RAEDIT_ERROR(plan_memory(small_config(), {.batch = 0}), ErrorCode::invalid_argument, "batch");
  EXPECT_RAEDIT_ERROR(plan_memory(small_config(), {.zero1_ranks = 0}), ErrorCode::invalid_argument, "zero1_ranks");
  EXPECT_RAEDIT_ERROR(plan_memory(RAEDiT2DModelConfig{}, {.batch = int64_t{1} << 30}), ErrorCode::out_of_memory,
                      "cannot allocate");
}

class AvailableMemory : public ::testing::Test {
 protected:
  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  std::string root() const { return folder_.path(); }

  test::ScratchFolder folder_;
};

TEST_F(AvailableMemory, IsTheMachinesWithoutGroups) {
  EXPECT_EQ(available_memory(root()), kUnknownMemory);
  write("/proc/meminfo", "MemTotal:   9000 kB\nMemFree:  10 kB\nMemAvailable:   5000 kB\nCached: 7 kB\n");
  EXPECT_EQ(available_memory(root()), 5000u * 1024);
  write("/proc/self/cgroup", "0::/job\n");
  EXPECT_EQ(available_memory(root()), 5000u * 1024);
  write("/sys/fs/cgroup/job/memory.max", "max\n");
  write("/sys/fs/cgroup/job/memory.current", "4000000\n");
  EXPECT_EQ(available_memory(root()), 5000u * 1024);
}

TEST_F(AvailableMemory, IsTheRestOfTheGroupsWhereThatIsLess) {
  write("/proc/meminfo", "MemAvailable:   5000 kB\n");
  write("/proc/self/cgroup", "0::/jobs/one\n");
  write("/sys/fs/cgroup/jobs/one/memory.max", "4000000\n");
  write("/sys/fs/cgroup/jobs/one/memory.current", "1000000\n");
  EXPECT_EQ(available_memory(root()), 3000000u);
  // What the page cache can give back is not used up.
  write("/sys/fs/cgroup/jobs/one/memory.stat", "anon 5\ninactive_file 300000\nactive_file 70\n");
  EXPECT_EQ(available_memory(root()), 3300000u);
  write("/sys/fs/cgroup/jobs/memory.max", "2000000\n");
  write("/sys/fs/cgroup/jobs/memory.current", "1999999\n");
  EXPECT_EQ(available_memory(root()), 1u);
  write("/sys/fs/cgroup/jobs/memory.current", "3000000\n");  // the limit was lowered
  EXPECT_EQ(available_memory(root()), 0u);
}

TEST_F(AvailableMemory, KnowsTheFirstVersionOfGroups) {
  write("/proc/meminfo", "MemAvailable:   5000 kB\n");
  write("/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/outside/of/the/container\n0::/\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000\n");
  write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "500000\n");
  EXPECT_EQ(available_memory(root()), 2500000u);
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");  // none
  EXPECT_EQ(available_memory(root()), 5000u * 1024);
}

TEST_F(AvailableMemory, IsSomethingHere) {
  EXPECT_GT(available_memory(), uint64_t{1} << 20);
}

}  // namespace
}  // namespace raedit
