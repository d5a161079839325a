// The bfloat16 product on 27 shapes of a wide transformer, beside oneDNN's with packed weights and the ceiling of the
// same run, by turns; medians.
//   build/release/bin/gemm_table [rounds]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <dnnl.hpp>
#include <functional>
#include <vector>

#include "backend/kernels.h"
#include "raedit/context.h"
#include "raedit/generator.h"

namespace {

using namespace raedit;
using dnnl::memory;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// oneDNN with weights packed as it likes best, bfloat16 out.
class OneDnn {
 public:
  OneDnn(const Tensor& x, const Tensor& weight, const Tensor& out) {
    const auto m = x.dim(0), k = x.dim(1), n = weight.dim(0);
    const auto type = memory::data_type::bf16;
    const memory::desc rows({m, k}, type, memory::format_tag::ab), result({m, n}, type, memory::format_tag::ab);
    const memory::desc columns({k, n}, type, memory::format_tag::any);
    const dnnl::matmul::primitive_desc plan(dnnl::matmul::desc(rows, columns, result), engine_);
    packed_ = memory(plan.weights_desc(), engine_);
    memory plain({{k, n}, type, memory::format_tag::ba}, engine_, weight.raw());
    dnnl::reorder(plain, packed_).execute(stream_, plain, packed_);
    product_ = dnnl::matmul(plan);
    arguments_ = {{DNNL_ARG_SRC, memory(rows, engine_, x.raw())},
                  {DNNL_ARG_WEIGHTS, packed_},
                  {DNNL_ARG_DST, memory(result, engine_, out.raw())}};
    name_ = plan.impl_info_str();
  }
  void run() {
    product_.execute(stream_, arguments_);
    stream_.wait();
  }
  const std::string& name() const { return name_; }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  memory packed_;
  dnnl::matmul product_;
  std::unordered_map<int, memory> arguments_;
  std::string name_;
};

// Seconds of one run, of as many as take 20 ms.
double seconds(const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto passed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  int runs = 0;
  do {
    work();
    ++runs;
  } while (passed() < 0.02);
  return passed() / runs;
}

void measure(int rounds) {
  Context ctx;
  Generator generator(1);
  fmt::print("{}\n{:>5} {:>5} {:>5} {:>8} {:>8} {:>8} {:>9} {:>7}  {}\n", ctx.description(), "M", "K", "N", "ours",
             "oneDNN", "ceiling", "fraction", "ratio", "GFLOP/s; oneDNN's kernel");
  std::vector<double> fractions, ratios;
  for (const int64_t m : {256, 512, 2048})
    for (const int64_t k : {1152, 2048, 4608})
      for (const int64_t n : {1152, 3456, 6144}) {
        const Tensor x = generator.randn({m, k}).to(DType::bfloat16),
                     weight = generator.randn({n, k}).to(DType::bfloat16);
        const Tensor out = Tensor::empty({m, n}, DType::bfloat16), theirs = Tensor::empty({m, n}, DType::bfloat16);
        const auto packed = ctx.kernels().pack(weight, DType::bfloat16);
        OneDnn onednn(x, weight, theirs);
        const auto ours = [&] { ctx.kernels().linear(x, *packed, Tensor(), backend::Activation::none, out); };
        ours();
        onednn.run();
        std::vector<double> mine, other;
        for (int i = 0; i < rounds; ++i) {
          mine.push_back(seconds(ours));
          other.push_back(seconds([&] { onednn.run(); }));
        }
        const double ceiling = ctx.kernels().ceiling_flops(DType::bfloat16);
        const double work = 2.0 * static_cast<double>(m * k * n), rate = work / median(mine);
        fractions.push_back(rate / ceiling);
        ratios.push_back(median(other) / median(mine));
        fmt::print("{:>5} {:>5} {:>5} {:>8.0f} {:>8.0f} {:>8.0f} {:>8.0f}% {:>7.2f}  {}\n", m, k, n, rate * 1e-9,
                   work / median(other) * 1e-9, ceiling * 1e-9, 100 * fractions.back(), ratios.back(), onednn.name());
      }
  fmt::print("median: {:.0f}% of the ceiling, {:.2f} times oneDNN; slowest beside oneDNN {:.2f}\n",
             100 * median(fractions), median(ratios), *std::min_element(ratios.begin(), ratios.end()));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    measure(argc > 1 ? std::max(1, std::atoi(argv[1])) : 7);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
