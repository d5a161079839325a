// Steps of training with random weights and latents, which lie on the device: how long one takes, and what it needs.
//   train_bench --config xl --batch 64 --steps 10 --device cuda --dtype bfloat16
//   train_bench --check --device cuda --dtype bfloat16
// --graph: steps are replayed (one part). --checkpointing: blocks keep only what goes into them. --profile: one more
// step, and the time of every kernel in it.
// --config: xl, s, tiny or a config.json. --parts N: micro-batches. --no-ema: without a moving average. --check: twenty
// steps of the tiny model on the device and on the processor, float32 and --dtype, and how far the losses are apart.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/text.h"
#include "models/checkpoint.h"
#include "models/workload.h"
#include "raedit/error.h"
#include "raedit/generator.h"
#include "tensor/arena.h"
#include "tensor/memory.h"
#include "train/stage2_step.h"

namespace {

using namespace raedit;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string config = "xl", device = "cuda", dtype = "bfloat16";
  int64_t batch = 64, steps = 10, parts = 1;
  bool ema = true, check = false, profile = false, checkpointing = false, graph = false;
};

Options parse(int argc, char** argv) {
  Options options;
  const std::map<std::string, std::string*> texts{
      {"--config", &options.config}, {"--device", &options.device}, {"--dtype", &options.dtype}};
  const std::map<std::string, int64_t*> numbers{
      {"--batch", &options.batch}, {"--steps", &options.steps}, {"--parts", &options.parts}};
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const bool more = i + 1 < argc;
    if (name == "--check")
      options.check = true;
    else if (name == "--graph")
      options.graph = true;
    else if (name == "--checkpointing")
      options.checkpointing = true;
    else if (name == "--profile")
      options.profile = true;
    else if (name == "--no-ema")
      options.ema = false;
    else if (texts.contains(name) && more)
      *texts.at(name) = argv[++i];
    else if (numbers.contains(name) && more)
      *numbers.at(name) = std::max<int64_t>(1, std::atoll(argv[++i]));
    else {
      std::fprintf(stderr, "train_bench: what is '%s'?\n", name.c_str());
      std::exit(2);
    }
  }
  return options;
}

DType dtype_named(const std::string& name) {
  return name == "float32" ? DType::float32 : DType::bfloat16;
}

RAEDiT2DModelConfig config_named(const std::string& name) {
  if (name == "tiny") {
    RAEDiT2DModelConfig config;
    config.sample_size = 8;
    config.in_channels = 32;
    config.hidden_size = {64, 128};
    config.depth = {2, 1};
    config.num_heads = {2, 2};
    config.num_classes = 10;
    return config;
  }
  if (name == "xl" || name == "s") return models::transformer_config(name);
  return models::parse_rae_dit_config(models::read_config_file(name, "RAEDiT2DModel"), name);
}

// Numbers of standard deviation `deviation` around `mean`, uniform.
void fill(const Tensor& tensor, float deviation, float mean, uint32_t state) {
  const float scale = deviation * std::sqrt(12.0f) / static_cast<float>(1 << 24);
  for (float *at = tensor.data<float>(), *end = at + tensor.numel(); at != end; ++at) {
    state = state * 1664525u + 1013904223u;
    *at = mean + (static_cast<float>(state >> 8) - static_cast<float>(1 << 23)) * scale;
  }
}

std::unique_ptr<models::RaeDitTransformer> random_model(const RAEDiT2DModelConfig& config, DType dtype,
                                                        const backend::Kernels& kernels) {
  auto model = std::make_unique<models::RaeDitTransformer>(config);
  model->dtype = dtype;
  models::NamedParameters made;
  for (const auto& named : models::named_parameters(*model))
    if (named.second->required) made.push_back(named);
  const size_t workers = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (size_t worker = 0; worker < workers; ++worker)
    threads.emplace_back([&, worker] {
      for (size_t i = worker; i < made.size(); i += workers) {
        const auto& [name, p] = made[i];
        const bool norm = name.find("norm") != std::string::npos && name.ends_with("weight");
        p->source = Tensor::empty(p->shape, DType::float32);
        fill(p->source, p->role == nn::Parameter::Role::buffer ? 1.0f : 0.02f, norm ? 1.0f : 0.0f,
             static_cast<uint32_t>(i + 1));
        p->value = p->role == nn::Parameter::Role::matrix ? p->source.reshape({p->shape[0], -1}) : p->source;
      }
    });
  for (std::thread& thread : threads) thread.join();
  model->complete();
  for (const auto& [name, p] : models::named_parameters(*model))
    if (!p->trained()) nn::place(*p, kernels);
  return model;
}

// Latents of one step's micro-batch; the same ones for every step of one `seed`.
train::Stage2Batch random_batch(const RAEDiT2DModelConfig& config, int64_t batch, uint64_t seed,
                                const backend::Kernels& kernels) {
  const auto there = [&](const Tensor& tensor) { return copy_to(tensor, kernels.memory()); };
  const Shape shape{batch, config.in_channels, config.sample_size, config.sample_size};
  Generator generator(seed);
  const Tensor latents = generator.randn(shape), noise = generator.randn(shape);
  std::vector<float> sigmas;
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < batch; ++i) {
    sigmas.push_back((static_cast<float>(i) + 0.5f) / static_cast<float>(batch));
    labels.push_back((7 * i + static_cast<int64_t>(seed)) % config.num_classes);
  }
  return {there(latents), there(noise), there(Tensor::from(sigmas, {batch})), Tensor::from(labels, {batch}),
          there(Tensor::full({batch}, 1.0f))};
}

train::Stage2StepOptions step_options(bool ema) {
  train::Stage2StepOptions options;
  options.adamw = {0.9, 0.95, 1e-8, 0.01};
  if (ema) options.ema_decay = 0.9995;
  return options;
}

std::vector<double> losses_of(const std::string& device, DType dtype) {
  Context ctx({.device = Device::from_name(device)});
  const RAEDiT2DModelConfig config = config_named("tiny");
  const auto model = random_model(config, dtype, ctx.kernels());
  train::Stage2Step training(ctx.kernels(), *model, step_options(true));
  std::vector<double> losses;
  for (uint64_t step = 0; step < 20; ++step) {
    for (uint64_t part = 0; part < 2; ++part)
      training.accumulate(ctx, random_batch(config, 4, 1 + step % 3 + 10 * part, ctx.kernels()), 2);
    losses.push_back(training.step(ctx, 1e-3).loss);
  }
  return losses;
}

double farthest(const std::vector<double>& a, const std::vector<double>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]) / std::abs(b[i]));
  return most;
}

// True where all is well.
bool check(const Options& options) {
  const std::vector<double> exact = losses_of("cpu", DType::float32);
  std::printf("float32 on the processor: loss %.6f to %.6f\n", exact.front(), exact.back());
  bool good = exact.back() < exact.front();
  for (const DType dtype : {DType::float32, dtype_named(options.dtype)}) {
    const std::vector<double> here = losses_of("cpu", dtype), there = losses_of(options.device, dtype);
    const double apart = farthest(there, here);
    const double bound = dtype == DType::float32 ? 1e-4 : 2e-2;
    std::printf("%s: largest relative difference of %s and cpu %.3g (bound %.0g), of %s and float32 %.3g\n",
                name_of(dtype).data(), options.device.c_str(), apart, bound, options.device.c_str(),
                farthest(there, exact));
    good = good && apart < bound;
  }
  return good;
}

// Bytes that are taken of the GPU, or 0.
size_t device_bytes_in_use() {
  void* driver = ::dlopen("libcuda.so.1", RTLD_NOW);
  if (driver == nullptr) return 0;
  using GetInfo = int (*)(size_t*, size_t*);
  const auto get_info = reinterpret_cast<GetInfo>(::dlsym(driver, "cuMemGetInfo_v2"));
  size_t unused = 0, total = 0;
  return get_info != nullptr && get_info(&unused, &total) == 0 ? total - unused : 0;
}

void measure(const Options& options) {
  Context ctx({.device = Device::from_name(options.device)});
  const RAEDiT2DModelConfig config = config_named(options.config);
  const auto start = Clock::now();
  const auto model = random_model(config, dtype_named(options.dtype), ctx.kernels());
  train::Stage2StepOptions training_options = step_options(options.ema);
  training_options.checkpointing = options.checkpointing;
  train::Stage2Step training(ctx.kernels(), *model, training_options);
  int64_t parameters = 0;
  for (const Tensor& parameter : training.parameters()) parameters += parameter.numel();
  std::vector<train::Stage2Batch> parts;
  for (int64_t part = 0; part < options.parts; ++part)
    parts.push_back(
        random_batch(config, options.batch / options.parts, static_cast<uint64_t>(part + 1), ctx.kernels()));
  ctx.synchronize();
  const std::chrono::duration<double> made = Clock::now() - start;
  std::printf("%s, %s, batch %lld in %lld parts, %.1f M parameters, made in %.1f s\n", ctx.description().c_str(),
              options.dtype.c_str(), static_cast<long long>(options.batch), static_cast<long long>(options.parts),
              static_cast<double>(parameters) * 1e-6, made.count());

  constexpr int64_t kWarmUp = 3;
  std::vector<double> times;
  for (int64_t step = 0; step < kWarmUp + options.steps; ++step) {
    const auto begin = Clock::now();
    std::chrono::duration<double, std::milli> asked{};
    train::Stage2StepResult result;
    if (options.graph) {
      result = training.replay(ctx, parts[0], 1e-4);
    } else {
      for (const train::Stage2Batch& part : parts) training.accumulate(ctx, part, options.parts);
      asked = Clock::now() - begin;
      result = training.step(ctx, 1e-4);
    }
    const std::chrono::duration<double, std::milli> took = Clock::now() - begin;
    std::printf("step %2lld: %8.2f ms (asked for after %.2f ms), loss %.5f, gradient norm %.5f %s\n",
                static_cast<long long>(step), took.count(), asked.count(), result.loss, result.grad_norm,
                result.not_finite.c_str());
    std::fflush(stdout);
    if (step >= kWarmUp) times.push_back(took.count());
  }
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  // Forward, and twice that backward.
  const double flops = 3 * models::transformer_flops(config, options.batch);
  std::printf("median %.2f ms, %.1f pictures/s, %.0f TFLOP/s; activations and gradients %s, arena %s, GPU %s\n", median,
              static_cast<double>(options.batch) / median * 1e3, flops / median * 1e-9,
              human_bytes(ctx.arena().peak_bytes()).c_str(), human_bytes(ctx.arena().reserved_bytes()).c_str(),
              human_bytes(device_bytes_in_use()).c_str());
  if (!options.profile) return;
  ctx.kernels().start_profile();
  for (const train::Stage2Batch& part : parts) training.accumulate(ctx, part, options.parts);
  training.step(ctx, 1e-4);
  std::printf("%s", ctx.kernels().profile().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  if (options.graph && options.parts != 1) std::exit(2);
  try {
    if (options.check) return check(options) ? 0 : 1;
    measure(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
