// One forward of the published sizes with random weights. `raedit bench` measures the same and compares it with the
// machine's ceiling; this is for profiles and for runs beside other benchmarks.
//   build/release/bin/bench_forward --benchmark_filter=transformer
// RAEDIT_BENCH_DEVICE=cuda measures that device.
#include <benchmark/benchmark.h>

#include <cstdlib>

#include "models/workload.h"
#include "raedit/generator.h"

namespace {

using namespace raedit;

void count(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] =
      benchmark::Counter(flops * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

Context bench_context() {
  const char* device = std::getenv("RAEDIT_BENCH_DEVICE");
  return Context({.device = Device::from_name(device != nullptr ? device : "cpu")});
}

// A device may still be at work when a forward returns.
template <class Forward>
void measure(benchmark::State& state, const Context& ctx, const Forward& forward) {
  forward();
  ctx.synchronize();
  for (auto _ : state) {
    forward();
    ctx.synchronize();
  }
}

void transformer(benchmark::State& state, const char* size, DType dtype) {
  Context ctx = bench_context();
  const RAEDiT2DModelConfig config = models::transformer_config(size);
  const models::RaeDitTransformer model = models::random_transformer(config, dtype, ctx.kernels());
  const Tensor latents = Generator(1).randn({1, config.in_channels, config.sample_size, config.sample_size});
  const Tensor label = Tensor::from(std::vector<int64_t>{7}, {1});
  measure(state, ctx, [&] { return model.forward(ctx, latents, Tensor::full({1}, 0.5f), label, {}, {}); });
  count(state, models::transformer_flops(config, 1));
}

void decoder(benchmark::State& state, DType dtype) {
  Context ctx = bench_context();
  const AutoencoderRAEConfig config = models::autoencoder_xl_config();
  const models::RaeDecoder model = models::random_decoder(config, dtype, ctx.kernels());
  const Tensor tokens = Generator(1).randn({1, config.num_patches(), config.encoder_hidden_size}).to(dtype);
  measure(state, ctx, [&] { return model.forward(ctx, tokens); });
  count(state, models::decoder_flops(config, 1));
}

void encoder(benchmark::State& state, DType dtype) {
  Context ctx = bench_context();
  const AutoencoderRAEConfig config = models::autoencoder_xl_config();
  const models::Dinov2WithRegisters model = models::random_encoder(config, dtype, ctx.kernels());
  const Tensor pixels = Generator(1).randn({1, 3, config.encoder_input_size, config.encoder_input_size});
  measure(state, ctx, [&] { return model.forward(ctx, pixels, dtype); });
  count(state, models::encoder_flops(config, 1));
}

#define RAEDIT_BENCH(...) BENCHMARK_CAPTURE(__VA_ARGS__)->UseRealTime()->Unit(benchmark::kMillisecond)
RAEDIT_BENCH(transformer, s_float32, "s", DType::float32);
RAEDIT_BENCH(transformer, s_bfloat16, "s", DType::bfloat16);
RAEDIT_BENCH(transformer, xl_float32, "xl", DType::float32);
RAEDIT_BENCH(transformer, xl_bfloat16, "xl", DType::bfloat16);
RAEDIT_BENCH(decoder, xl_float32, DType::float32);
RAEDIT_BENCH(decoder, xl_bfloat16, DType::bfloat16);
RAEDIT_BENCH(encoder, b_float32, DType::float32);
RAEDIT_BENCH(encoder, b_bfloat16, DType::bfloat16);

}  // namespace
