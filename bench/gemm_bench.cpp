// Our matrix product beside oneDNN's, on the shapes of the XL transformer, the XL decoder and the bundled model.
//   build/release/bin/bench_gemm --benchmark_enable_random_interleaving=true --benchmark_repetitions=5
#include <benchmark/benchmark.h>

#include <dnnl.hpp>

#include "backend/kernels.h"
#include "raedit/context.h"
#include "raedit/generator.h"

namespace {

using namespace raedit;

struct Operands {
  Tensor x, weight;

  Operands(const benchmark::State& state, DType dtype) {
    Generator generator(1);
    x = generator.randn({state.range(0), state.range(2)}).to(dtype);
    weight = generator.randn({state.range(1), state.range(2)}).to(dtype);
  }
};

void count(benchmark::State& state) {
  const double operations = 2.0 * static_cast<double>(state.range(0) * state.range(1) * state.range(2));
  state.counters["FLOP/s"] =
      benchmark::Counter(operations * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

void ours(benchmark::State& state, DType dtype) {
  Context ctx;
  const Operands operands(state, dtype);
  const auto packed = ctx.kernels().pack(operands.weight, dtype);
  const Tensor out = Tensor::empty({state.range(0), state.range(1)}, DType::float32);
  for (auto _ : state) ctx.kernels().linear(operands.x, *packed, Tensor(), backend::Activation::none, out);
  count(state);
}

void onednn(benchmark::State& state, DType dtype) {
  using dnnl::memory;
  const auto type = dtype == DType::bfloat16 ? memory::data_type::bf16 : memory::data_type::f32;
  const auto m = state.range(0), n = state.range(1), k = state.range(2);
  const Operands operands(state, dtype);
  const Tensor out = Tensor::empty({m, n}, DType::float32);
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  try {
    const memory::desc x({m, k}, type, memory::format_tag::ab),
        y({m, n}, memory::data_type::f32, memory::format_tag::ab);
    const memory::desc w({k, n}, type, memory::format_tag::any);  // it packs as it likes best
    const dnnl::matmul::primitive_desc plan(dnnl::matmul::desc(x, w, y), engine);
    memory x_memory(x, engine, operands.x.raw()), y_memory(y, engine, out.raw()), packed(plan.weights_desc(), engine);
    memory plain({{k, n}, type, memory::format_tag::ba}, engine, operands.weight.raw());
    dnnl::reorder(plain, packed).execute(stream, plain, packed);
    const dnnl::matmul product(plan);
    for (auto _ : state) {
      product.execute(stream, {{DNNL_ARG_SRC, x_memory}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_DST, y_memory}});
      stream.wait();
    }
    state.SetLabel(plan.impl_info_str());
  } catch (const dnnl::error& error) {
    state.SkipWithError(error.what());
  }
  count(state);
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"M", "N", "K"})->UseRealTime()->Unit(benchmark::kMillisecond);
  for (const auto& [n, k] :
       {std::pair{1152, 1152}, {6144, 1152}, {1152, 3072}, {10922, 2048}, {2048, 5461}, {12288, 2048}})
    b->Args({256, n, k});
  b->Args({257, 4096, 1152})->Args({257, 1152, 4096});                     // ViT-XL decoder
  b->Args({1, 6912, 1152});                                                // adaLN of the encoder stream
  b->Args({64, 256, 256})->Args({64, 1364, 256})->Args({1024, 256, 682});  // bundled model
}

BENCHMARK_CAPTURE(ours, float32, DType::float32)->Apply(shapes);
BENCHMARK_CAPTURE(onednn, float32, DType::float32)->Apply(shapes);
BENCHMARK_CAPTURE(ours, bfloat16, DType::bfloat16)->Apply(shapes);
BENCHMARK_CAPTURE(onednn, bfloat16, DType::bfloat16)->Apply(shapes);

}  // namespace
