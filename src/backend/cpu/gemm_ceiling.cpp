// The ceiling of the matrix product: tiles that find all their operands in the first-level cache, on every thread at
// once. Random numbers, because processors clock lower on them than on zeros.
#include "backend/cpu/gemm_ceiling.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "backend/cpu/amx.h"
#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/gemm_int8.h"
#include "backend/cpu/isa.h"

namespace raedit::backend::cpu {
namespace {

constexpr int64_t kDepth = 64;  // 64 columns x 64 rows of weights are 16 KiB
constexpr int kRuns = 5;        // of which the median counts
constexpr int kTilesPerRun = 40000;
// With AMX: 16 KiB of rows, as much of panels, 4 KiB of sums.
constexpr int64_t kAmxSide = 32, kAmxDepth = 256, kAmxInt8Depth = 2 * kAmxDepth;

bool on_tiles(DType dtype) {
  return (dtype == DType::bfloat16 && has_amx_bf16()) || (dtype == DType::int8 && int8_way().amx);
}

// One thread's operands.
struct Operands {
  std::vector<float> a, panels, c;
  std::vector<uint16_t> a16, panels16;
  std::vector<int8_t> a8, panels8;
  std::vector<int32_t> zeros, c32;

  Operands()
      : a(kTileRows * kDepth),
        panels(kTileColumns * kDepth),
        c(kAmxSide * kTileColumns),
        a16(kAmxSide * kAmxDepth),
        panels16(std::max(kTileColumns * 2 * kDepth, kAmxSide * kAmxDepth)),
        a8(kAmxSide * kAmxInt8Depth),
        panels8(std::max(kTileColumns * 4 * kDepth, kAmxSide * kAmxInt8Depth)),
        zeros(kTileColumns),
        c32(kAmxSide * kTileColumns) {
    uint32_t state = 1;
    const auto random = [&] {
      state = state * 1664525u + 1013904223u;
      return static_cast<float>(state >> 8) / static_cast<float>(1 << 23) - 1.0f;
    };
    std::generate(a.begin(), a.end(), random);
    std::generate(panels.begin(), panels.end(), random);
    std::generate(a16.begin(), a16.end(), [&] { return bfloat16(random()).bits; });
    std::generate(panels16.begin(), panels16.end(), [&] { return bfloat16(random()).bits; });
    for (auto* bytes : {&a8, &panels8})
      std::generate(bytes->begin(), bytes->end(), [&] { return static_cast<int8_t>(127.0f * random()); });
  }

  // Multiply-adds of multiply().
  static double products(DType dtype) {
    if (on_tiles(dtype))
      return static_cast<double>(kAmxSide * kAmxSide * (dtype == DType::int8 ? kAmxInt8Depth : kAmxDepth));
    if (dtype == DType::int8) return static_cast<double>(kTileRows * kTileColumns * 4 * kDepth);
    if (dtype != DType::bfloat16 || !has_avx512_bf16()) return static_cast<double>(kTileRows * kTileColumns * kDepth);
    return static_cast<double>(kTileRows * kTileColumns * 2 * kDepth);  // a step of depth is a pair
  }

  void multiply(DType dtype) {
    if (dtype == DType::int8 && on_tiles(dtype))
      amx_product({kAmxSide, kAmxSide / kPanel, a8.data(), kAmxInt8Depth, panels8.data(), kPanel * kAmxInt8Depth,
                   kAmxInt8Depth, c32.data(), kTileColumns});
    else if (dtype == DType::int8)
      int8_way().tile({kTileRows, kTileColumns / kPanel, a8.data(), 4 * kDepth, panels8.data(), 4 * kPanel * kDepth,
                       4 * kDepth, zeros.data(), c32.data()});
    else if (dtype == DType::float32 || !has_avx512_bf16())  // without it bfloat16 is widened
      tile_f32(kTileRows, a.data(), kDepth, panels.data(), kPanel * kDepth, kDepth, c.data(), false);
    else if (on_tiles(dtype))
      amx_product({kAmxSide, kAmxSide / kPanel, a16.data(), kAmxDepth, panels16.data(), kPanel * kAmxDepth, kAmxDepth,
                   c.data(), kTileColumns});
    else
      tile_bf16_dot({kTileRows, kTileColumns / kPanel, a16.data(), 2 * kDepth, false, panels16.data(),
                     2 * kPanel * kDepth, kDepth, c.data(), kTileColumns, false});
  }
};

}  // namespace

double ceiling_of(DType dtype, int tiles_per_run, int threads) {
  using Clock = std::chrono::steady_clock;
  const double operations = 2.0 * Operands::products(dtype) * tiles_per_run * threads;
  std::vector<double> rates;
  std::vector<Operands> operands(static_cast<size_t>(threads));
  for (int run = 0; run < kRuns; ++run) {
    const auto start = Clock::now();
#pragma omp parallel num_threads(threads)
    {
      const AmxTiles tiles(on_tiles(dtype));
      for (int i = 0; i < tiles_per_run; ++i) operands[static_cast<size_t>(omp_get_thread_num())].multiply(dtype);
    }
    rates.push_back(operations / std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::nth_element(rates.begin(), rates.begin() + kRuns / 2, rates.end());
  return rates[kRuns / 2];
}

double CpuKernels::ceiling_flops(DType dtype) const {
  return ceiling_of(dtype, kTilesPerRun, threads_);
}

}  // namespace raedit::backend::cpu
