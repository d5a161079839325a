// Kernels write their output and nothing beside it, and write all of it: called on the middle of a larger buffer.
#include <gtest/gtest.h>

#include <cstring>

#include "backend/kernels.h"
#include "op_table.h"
#include "test_device.h"

namespace raedit::test {
namespace {

using backend::Activation;
using backend::Binary;
using backend::NormKind;

class Sentinel : public testing::TestWithParam<DType> {
 protected:
  Tensor here(const Tensor& tensor) const { return on_device(ctx_, tensor); }
  Tensor random(const Shape& shape, uint64_t seed = 1) const { return here(random_normal(shape, GetParam(), seed)); }
  Tensor random_float32(const Shape& shape, uint64_t seed) const {
    return here(random_normal(shape, DType::float32, seed));
  }
  const backend::Kernels& kernels() const { return ctx_.kernels(); }

  // `run` on the middle of buffers with two different fillings: same output, untouched surroundings.
  void expect_inside(const std::string& name, const Shape& shape, DType dtype,
                     const std::function<void(const Tensor&)>& run) const {
    SCOPED_TRACE(name + " " + shape.str());
    Tensor outputs[2];
    const std::byte fillings[2] = {std::byte{0x5a}, std::byte{0xc3}};
    for (size_t i = 0; i < 2; ++i) {
      const Tensor filled = Tensor::empty({2 * kGuard + shape.numel()}, dtype);
      std::memset(filled.raw(), static_cast<int>(fillings[i]), filled.nbytes());
      const Tensor around = here(filled);
      run(around.slice(0, kGuard, kGuard + shape.numel()).reshape(shape));
      const Tensor buffer = around.cpu();
      outputs[i] = buffer.slice(0, kGuard, kGuard + shape.numel());
      const size_t guard = static_cast<size_t>(kGuard) * size_of(dtype);
      size_t overruns = 0;
      for (size_t k = 0; k < guard; ++k)
        overruns += (buffer.raw()[k] != fillings[i]) + (buffer.raw()[buffer.nbytes() - 1 - k] != fillings[i]);
      EXPECT_EQ(overruns, 0u) << "bytes beside the output";
    }
    EXPECT_EQ(std::memcmp(outputs[0].raw(), outputs[1].raw(), outputs[0].nbytes()), 0) << "not all was written";
  }

  Context ctx_ = test_context(2);
};

TEST_P(Sentinel, Linear) {
  for (const int64_t m : {1, 5, 7, 13, 65})
    for (const int64_t n : {1, 3, 17, 63, 65, 72, 129})
      for (const int64_t k : {1, 5, 16, 72}) {
        const Tensor x = random({m, k});
        const auto weight = kernels().pack(random_normal({n, k}, DType::float32, 2), GetParam());
        const Tensor bias = random_float32({n}, 3);
        for (const DType out : {DType::float32, DType::bfloat16})
          expect_inside("linear", {m, n}, out,
                        [&](const Tensor& to) { kernels().linear(x, *weight, bias, Activation::silu, to); });
      }
}

TEST_P(Sentinel, LinearInEightBits) {
  RAEDIT_CPU_ONLY("8-bit products are the processor's");
  for (const int64_t m : {1, 7, 13})
    for (const int64_t n : {1, 17, 65})
      for (const int64_t k : {1, 63, 72}) {
        const Tensor x = random({m, k}), bias = random_float32({n}, 3);
        const auto weight = kernels().pack_int8(random_normal({n, k}, DType::float32, 2), Tensor());
        for (const DType out : {DType::float32, DType::bfloat16})
          expect_inside("linear", {m, n}, out,
                        [&](const Tensor& to) { kernels().linear(x, *weight, bias, Activation::none, to); });
      }
}

TEST_P(Sentinel, LinearSwiglu) {
  for (const int64_t m : {1, 7, 65})
    for (const int64_t half : {1, 17, 33, 72}) {
      const Tensor x = random({m, 5});
      const auto weight = kernels().pack_swiglu(random_normal({2 * half, 5}, DType::float32, 2), GetParam());
      const Tensor bias = random_float32({2 * half}, 3);
      const auto run = [&](const Tensor& to) { return kernels().linear_swiglu(x, *weight, bias, to); };
      if (!run(here(Tensor::empty({m, half}, GetParam())))) continue;  // no such product on this device
      expect_inside("linear_swiglu", {m, half}, GetParam(), run);
      expect_inside("linear of pairs", {m, 2 * half}, GetParam(),
                    [&](const Tensor& to) { kernels().linear(x, *weight, bias, Activation::none, to); });
    }
}

TEST_P(Sentinel, LinearSwigluInEightBits) {
  RAEDIT_CPU_ONLY("8-bit products are the processor's");
  for (const int64_t m : {1, 7, 65})
    for (const int64_t half : {1, 17, 33, 72}) {
      const Tensor x = random({m, 5}), bias = random_float32({2 * half}, 3);
      const auto weight = kernels().pack_int8_swiglu(random_normal({2 * half, 5}, DType::float32, 2), Tensor());
      expect_inside("linear_swiglu", {m, half}, GetParam(),
                    [&](const Tensor& to) { ASSERT_TRUE(kernels().linear_swiglu(x, *weight, bias, to)); });
      expect_inside("linear of pairs", {m, 2 * half}, GetParam(),
                    [&](const Tensor& to) { kernels().linear(x, *weight, bias, Activation::none, to); });
    }
}

TEST_P(Sentinel, Matmul) {
  for (const int64_t m : {1, 7, 65})
    for (const int64_t n : {1, 17, 72}) {
      const Tensor a = random({9, m}).transpose(0, 1), b = random({9, n}, 2);
      expect_inside("matmul", {m, n}, DType::float32,
                    [&](const Tensor& to) { kernels().matmul(a, b, to, false, DType::float32); });
    }
}

TEST_P(Sentinel, Attention) {
  for (const int64_t tokens : {1, 5, 16, 49})
    for (const int64_t width : {4, 12, 64, 72}) {
      const Shape shape{2, tokens, 3, width};
      expect_inside("attention", shape, GetParam(), [&](const Tensor& to) {
        kernels().attention(random(shape, 1), random(shape, 2), random(shape, 3), 0.3f, to);
      });
    }
}

TEST_P(Sentinel, RowsOfAnyWidth) {
  for (const int64_t width : {1, 3, 5, 16, 17, 63, 72, 128, 341}) {
    const Shape shape{2, 7, width};
    const Tensor x = random(shape, 1), y = random(shape, 2), z = random(shape, 3), wide = random({2, 7, 2 * width}, 4);
    const Tensor weight = random_float32({width}, 5);
    for (const NormKind kind : {NormKind::layer, NormKind::rms})
      expect_inside("norm", shape, GetParam(), [&](const Tensor& to) {
        kernels().norm({kind, 1e-6f, x, weight, weight, y, z}, to);
      });
    const Tensor sum = here(Tensor::empty(shape, GetParam()));
    for (const NormKind kind : {NormKind::layer, NormKind::rms}) {
      const backend::NormArgs args{kind, 1e-6f, sum, weight, {}, y, z};
      expect_inside("the norm of add_gated_norm", shape, GetParam(),
                    [&](const Tensor& to) { kernels().add_gated_norm(x, y, z, args, to); });
      expect_inside("the sum of add_gated_norm", shape, GetParam(), [&](const Tensor& to) {
        backend::NormArgs into = args;
        into.x = to;
        kernels().add_gated_norm(x, y, z, into, sum);
      });
    }
    for (const Activation act : {Activation::none, Activation::silu, Activation::gelu, Activation::gelu_tanh})
      expect_inside("activation", shape, GetParam(), [&](const Tensor& to) { kernels().activation(act, x, to); });
    for (const Binary kind : {Binary::add, Binary::sub, Binary::mul, Binary::div})
      expect_inside("binary", shape, GetParam(), [&](const Tensor& to) { kernels().binary(kind, x, y, to); });
    expect_inside("swiglu", shape, GetParam(), [&](const Tensor& to) { kernels().swiglu(wide, to); });
    expect_inside("add_gated", shape, GetParam(), [&](const Tensor& to) { kernels().add_gated(x, y, z, to); });
    expect_inside("add_scaled", shape, GetParam(), [&](const Tensor& to) { kernels().add_scaled(x, 0.3f, y, to); });
    expect_inside("clamp", shape, GetParam(), [&](const Tensor& to) { kernels().clamp(x, -1.0f, 1.0f, to); });
    for (const DType to_dtype : {DType::float32, DType::bfloat16, DType::float16})
      expect_inside("copy", {width, 7, 2}, to_dtype, [&](const Tensor& to) { kernels().copy(x.transpose(0, 2), to); });
  }
}

TEST_P(Sentinel, Positions) {
  for (const int64_t width : {2, 4, 12, 64, 72}) {
    const Tensor cos = random_float32({5, width}, 2), sin = random_float32({5, width}, 3);
    for (const bool inverse : {false, true})
      expect_inside("rope", {2, 5, 3, width}, GetParam(), [&](const Tensor& to) {
        kernels().rope(random({2, 5, 3, width}), cos, sin, inverse, to);
      });
    const Tensor ids = here(Tensor::from(std::vector<int64_t>{10, 0, 3}, {3}));
    expect_inside("embedding", {3, width}, GetParam(), [&](const Tensor& to) {
      kernels().embedding(random({11, width}), ids, to);
    });
    expect_inside("fourier_features", {5, 2 * width}, DType::float32, [&](const Tensor& to) {
      kernels().fourier_features(random_float32({5}, 1), random_float32({width}, 2), to);
    });
  }
}

TEST_P(Sentinel, Resample) {
  backend::ResampleAxis up, down;
  for (int64_t i = 0; i < 17; ++i) up.outputs.push_back({i / 3, {0.25f, 0.75f}});
  for (int64_t i = 0; i < 3; ++i) down.outputs.push_back({2 * i, {0.5f, 0.125f, 0.375f}});
  expect_inside("resample", {2, 3, 17, 3}, GetParam(), [&](const Tensor& to) {
    kernels().resample(random({2, 3, 7, 7}), up, down, to);
  });
}

INSTANTIATE_TEST_SUITE_P(All, Sentinel, testing::Values(DType::float32, DType::bfloat16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace raedit::test
