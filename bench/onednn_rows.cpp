// Does a row of oneDNN's matrix product depend on how many rows there are? Prints how many values of the first row
// change when the other rows go away. Why it matters: docs/architecture.md, "Decisions that the measurements made".
//   DNNL_MAX_CPU_ISA=AVX2 build/release/bin/onednn_rows
#include <cstdio>
#include <dnnl.hpp>
#include <utility>
#include <vector>

#include "raedit/generator.h"

namespace {

using dnnl::memory;
using raedit::DType;
using raedit::Tensor;

// The first row of x[m,k] * weight[n,k]^T.
std::vector<float> first_row(const Tensor& x, const Tensor& weight, int64_t m) {
  const int64_t n = weight.dim(0), k = weight.dim(1);
  const auto type = x.dtype() == DType::bfloat16 ? memory::data_type::bf16 : memory::data_type::f32;
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const memory::desc xd({m, k}, type, memory::format_tag::ab),
      yd({m, n}, memory::data_type::f32, memory::format_tag::ab);
  const memory::desc wd({k, n}, type, memory::format_tag::any);
  const dnnl::matmul::primitive_desc plan(dnnl::matmul::desc(xd, wd, yd), engine);
  std::vector<float> y(static_cast<size_t>(m * n));
  memory xm(xd, engine, x.raw()), ym(yd, engine, y.data()), packed(plan.weights_desc(), engine);
  memory plain({{k, n}, type, memory::format_tag::ba}, engine, weight.raw());
  dnnl::reorder(plain, packed).execute(stream, plain, packed);
  dnnl::matmul(plan).execute(stream, {{DNNL_ARG_SRC, xm}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_DST, ym}});
  stream.wait();
  y.resize(static_cast<size_t>(n));
  return y;
}

}  // namespace

int main() {
  constexpr int64_t kMost = 512;
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1152, 1152}, {2048, 5461}, {256, 256}, {192, 192}}) {
      raedit::Generator generator(1);
      const Tensor x = generator.randn({kMost, k}).to(dtype);
      const Tensor weight = generator.randn({n, k}).to(dtype);
      try {
        const std::vector<float> expected = first_row(x, weight, kMost);
        for (const int64_t m : {256, 64, 8, 1}) {
          const std::vector<float> found = first_row(x, weight, m);
          int different = 0;
          for (size_t i = 0; i < found.size(); ++i) different += found[i] != expected[i];
          std::printf("%s N %lld K %lld: %d of %lld values change from 512 rows to %lld\n", name_of(dtype).data(),
                      static_cast<long long>(n), static_cast<long long>(k), different, static_cast<long long>(n),
                      static_cast<long long>(m));
        }
      } catch (const dnnl::error& error) {
        std::printf("%s N %lld K %lld: %s\n", name_of(dtype).data(), static_cast<long long>(n),
                    static_cast<long long>(k), error.what());
      }
    }
  }
}
