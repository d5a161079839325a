// raedit bench: one forward of a model of a published size with random weights, or of a model folder, against the
// ceiling that the same run measures.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "backend/device/device.h"
#include "command.h"
#include "core/json.h"
#include "measure.h"
#include "model_path.h"
#include "models/workload.h"
#include "ops/replay.h"
#include "raedit/convert.h"
#include "raedit/raedit.h"
#include "transfer.h"
#include "values.h"

namespace raedit::cli {
namespace {

const char* const kFooter =
    "Sizes: s and xl are the transformers DiT-DH-S and DiT-DH-XL at 256 pixels, decoder-xl the ViT-XL\n"
    "decoder, encoder-b the DINOv2-B encoder, all with random weights; bundled is the bundled transformer.\n"
    "\n"
    "Examples:\n"
    "  raedit bench --size xl\n"
    "  raedit bench --size decoder-xl --dtype bfloat16 --json\n"
    "  raedit bench --model DIR --batch 4";

struct BenchOptions {
  std::string size = "xl";
  ModelOptions model;
  std::string dtype = "float32";
  std::string device = "cpu";
  int64_t batch = 1;
  int64_t runs = 5;
  int threads = 0;
  bool json = false;
};

// Something to time: one forward of these inputs, and its operations.
struct Workload {
  std::string name;
  double flops = 0;
  std::vector<Tensor> inputs;
  ops::Replay::Work forward;
};

Workload transformer_workload(const std::string& name, const RAEDiT2DModelConfig& config, int64_t batch,
                              std::function<Tensor(Context&, const Tensor&, const Tensor&, const Tensor&)> forward) {
  Generator generator(1);
  const Tensor latents = generator.randn({batch, config.in_channels, config.sample_size, config.sample_size});
  const Tensor timestep = Tensor::full({batch}, 0.5f);
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < batch; ++i) ids.push_back(i % config.num_classes);
  const Tensor labels = Tensor::from(ids, {batch});
  return {name,
          models::transformer_flops(config, batch),
          {latents, timestep, labels},
          [=](Context& ctx, const std::vector<Tensor>& in) { return forward(ctx, in[0], in[1], in[2]); }};
}

Workload random_workload(const BenchOptions& o, DType dtype, const backend::Kernels& kernels) {
  Generator generator(1);
  const AutoencoderRAEConfig config = models::autoencoder_xl_config();
  if (o.size == "decoder-xl") {
    auto model = std::make_shared<models::RaeDecoder>(models::random_decoder(config, dtype, kernels));
    const Tensor tokens = generator.randn({o.batch, config.num_patches(), config.encoder_hidden_size}).to(dtype);
    return {o.size, models::decoder_flops(config, o.batch), {tokens}, [=](Context& ctx, const std::vector<Tensor>& in) {
              return model->forward(ctx, in[0]);
            }};
  }
  if (o.size == "encoder-b") {
    auto model = std::make_shared<models::Dinov2WithRegisters>(models::random_encoder(config, dtype, kernels));
    const Tensor pixels = generator.randn({o.batch, 3, config.encoder_input_size, config.encoder_input_size});
    return {o.size, models::encoder_flops(config, o.batch), {pixels}, [=](Context& ctx, const std::vector<Tensor>& in) {
              return model->forward(ctx, in[0], dtype);
            }};
  }
  const RAEDiT2DModelConfig xl = models::transformer_config(o.size);
  auto model = std::make_shared<models::RaeDitTransformer>(models::random_transformer(xl, dtype, kernels));
  return transformer_workload(o.size, xl, o.batch,
                              [=](Context& ctx, const Tensor& x, const Tensor& t, const Tensor& y) {
                                return model->forward(ctx, x, t, y, {}, {});
                              });
}

RAEDiT2DModel open_transformer(const ModelOptions& options, DType dtype, Device device) {
  ProgressBar bar(ProgressBar::style_of_stderr(false));
  const Interrupt interrupt;
  Transfer transfer(bar, interrupt);
  HubOptions hub = hub_options(options);
  hub.progress = transfer.downloads();
  const FoundModel found = find_model(options, ModelPart::transformer, hub);
  if (!found.upstream)
    return RAEDiT2DModel::from_pretrained(found.path + "/transformer", {.dtype = dtype, .device = device});
  ConvertPipelineOptions upstream;
  upstream.repo_or_path = found.path;
  upstream.config_path = found.config;
  return open_upstream(upstream, {.dtype = dtype, .device = device}, hub).pipeline.transformer();
}

Workload make_workload(const BenchOptions& o, DType dtype, const backend::Kernels& kernels) {
  if (o.model.model.empty() && o.size != "bundled") return random_workload(o, dtype, kernels);
  const RAEDiT2DModel model = open_transformer(o.model, dtype, Device::from_name(o.device));
  return transformer_workload(
      o.model.model.empty() ? o.size : o.model.model, model.config(), o.batch,
      [=](Context& ctx, const Tensor& x, const Tensor& t, const Tensor& y) { return model.forward(ctx, x, t, y); });
}

double median_seconds(Context& ctx, const Workload& workload, int64_t runs) {
  ops::Replay replay(workload.forward);
  for (int i = 0; i < 3; ++i) replay.run(ctx, workload.inputs);  // warms caches and the arena, captures the graph
  ctx.synchronize();
  // Work that is queued takes a while to start: several forwards at a time, as in sampling.
  const int64_t at_a_time = ctx.has_graphs() ? 10 : 1;
  std::vector<double> seconds;
  for (int64_t i = 0; i < runs; ++i) {
    const Stopwatch watch;
    for (int64_t k = 0; k < at_a_time; ++k) replay.run(ctx, workload.inputs);
    ctx.synchronize();
    seconds.push_back(watch.seconds() / static_cast<double>(at_a_time));
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

int run_bench(const BenchOptions& o) {
  const DType dtype = dtype_from_name(o.dtype);
  Context ctx({.device = Device::from_name(o.device), .threads = o.threads});
  const Workload workload = make_workload(o, dtype, ctx.kernels());
  // Before and after, since the machine's clock may drift meanwhile.
  const double before = ctx.kernels().ceiling_flops(dtype);
  const double seconds = median_seconds(ctx, workload, o.runs);
  const double ceiling = (before + ctx.kernels().ceiling_flops(dtype)) / 2;
  const double rate = workload.flops / seconds;
  if (o.json) {
    const Json result{{"model", workload.name},
                      {"dtype", o.dtype},
                      {"batch", o.batch},
                      {"device", ctx.description()},
                      {"runs", o.runs},
                      {"milliseconds", seconds * 1e3},
                      {"gflop", workload.flops * 1e-9},
                      {"tflops", rate * 1e-12},
                      {"ceiling_tflops", ceiling * 1e-12},
                      {"fraction", rate / ceiling},
                      {"peak_bytes", peak_memory_bytes()}};
    fmt::print("{}\n", result.dump(2, ' ', false, Json::error_handler_t::replace));
    return kExitOk;
  }
  fmt::print("{}, {}, batch {}, {}\n", workload.name, o.dtype, o.batch, ctx.description());
  fmt::print("{:.2f} ms a forward (median of {}), {:.1f} GFLOP\n", seconds * 1e3, o.runs, workload.flops * 1e-9);
  fmt::print(
      "{:.3f} TFLOP/s, {:.0f}% of the {:.3f} TFLOP/s that {}\n", rate * 1e-12, 100 * rate / ceiling, ceiling * 1e-12,
      ctx.has_graphs() ? "a large matrix product reaches" : "the inner product reaches from the first-level cache");
  fmt::print("peak memory {:.0f} MB\n", static_cast<double>(peak_memory_bytes()) * 1e-6);
  return kExitOk;
}

}  // namespace

Command add_bench(CLI::App& program) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* app = program.add_subcommand("bench", "Time one forward of a model against what the machine can do");
  app->footer(kFooter);
  auto* size = app->add_option("--size", options->size, "s, xl, decoder-xl, encoder-b or bundled")
                   ->capture_default_str()
                   ->check(one_of({"s", "xl", "decoder-xl", "encoder-b", "bundled"}));
  add_model_options(*app, options->model, "time the transformer of this model instead");
  app->get_option("--model")->excludes(size);
  app->add_option("--dtype", options->dtype, "float32 or bfloat16")
      ->capture_default_str()
      ->check(one_of({"float32", "bfloat16"}));
  app->add_option("--batch", options->batch, "pictures at once")->capture_default_str()->check(whole_number(1, 4096));
  app->add_option("--runs", options->runs, "forwards to take the median of, after a warm-up")
      ->capture_default_str()
      ->check(whole_number(1, 100000));
  app->add_option("--device", options->device, "cpu, cuda or cuda:N")->capture_default_str()->check(device_name());
  app->add_option("--threads", options->threads, "0: as many as the process may use")
      ->capture_default_str()
      ->check(whole_number(0, 4096));
  add_switch(*app, "--json", options->json, "print one JSON object");
  return {app, [options] { return run_bench(*options); }};
}

}  // namespace raedit::cli
