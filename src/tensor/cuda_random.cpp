// Numbers out of Philox's bits as cuRAND documents them (device API: curand_uniform4, curand_normal4 by Box and
// Muller).
#include "tensor/cuda_random.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/check.h"
#include "core/text.h"
#include "tensor/philox.h"

namespace raedit {
namespace {

constexpr int64_t kBlockThreads = 256;
constexpr int64_t kPerTurn = 4;
constexpr int64_t kMost = 65535;  // multiprocessors, and threads of one: far beyond any GPU
const char* const kKnownGpus =
    "multiprocessors and threads of one: RTX 3090 82, 1536; RTX 4090 128, 1536; A100 108, 2048; H100 SXM 132, 2048; "
    "B200 148, 2048";

using FourNumbers = std::array<float, kPerTurn>;

constexpr float kUnit = 0x1p-32f;
constexpr float kTurn = kUnit * 6.2831855f;  // 2 pi of float32

// In (0, 1]: the middle of one of 2^32 equal parts, rounded.
float unit(uint32_t bits) {
  return static_cast<float>(bits) * kUnit + kUnit / 2;
}

// torch wants [0, 1), and takes the end that is too many for the one that is missing.
FourNumbers uniforms(const PhiloxBlock& bits, int64_t /*wanted*/) {
  FourNumbers numbers;
  std::transform(bits.begin(), bits.end(), numbers.begin(), [](uint32_t b) {
    const float value = unit(b);
    return value == 1.0f ? 0.0f : value;
  });
  return numbers;
}

// Pairs of normal numbers, sine first. The angle is a fused multiply-add, as nvcc compiles it.
FourNumbers normals(const PhiloxBlock& bits, int64_t wanted) {
  FourNumbers numbers{};
  for (size_t i = 0; i < static_cast<size_t>(wanted); i += 2) {
    const float radius = std::sqrt(-2.0f * std::log(unit(bits[i])));
    const float angle = std::fma(static_cast<float>(bits[i + 1]), kTurn, kTurn / 2);
    numbers[i] = radius * std::sin(angle);
    numbers[i + 1] = radius * std::cos(angle);
  }
  return numbers;
}

}  // namespace

void check_geometry(const CudaGeometry& g) {
  RAEDIT_CHECK(g.multiprocessors >= 1 && g.multiprocessors <= kMost && g.threads >= kBlockThreads && g.threads <= kMost,
               {.code = ErrorCode::invalid_argument,
                .what = "no GPU has this geometry",
                .where = "torch-cuda",
                .found = fmt::format("sm={},threads={}", g.multiprocessors, g.threads),
                .expected = fmt::format("sm from 1 and threads from {}, up to {}", kBlockThreads, kMost),
                .hint = kKnownGpus});
}

CudaRandom::CudaRandom(uint64_t seed, const CudaGeometry& geometry) : geometry_(geometry) {
  check_geometry(geometry);
  manual_seed(seed);
}

void CudaRandom::manual_seed(uint64_t seed) {
  seed_ = seed;
  turns_ = 0;
}

template <class Block>
void CudaRandom::fill(std::span<float> values, const Block& numbers_of) {
  if (values.empty()) return;
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  const auto count = static_cast<int64_t>(values.size());
  const int64_t most_blocks = geometry_.multiprocessors * (geometry_.threads / kBlockThreads);
  const int64_t wave = std::min((count + kBlockThreads - 1) / kBlockThreads, most_blocks) * kBlockThreads;
  for (int64_t first = 0; first < count; first += kPerTurn * wave, ++turns_) {
    const int64_t threads = std::min(wave, count - first);  // the others have nothing to write in this turn
    for (int64_t thread = 0; thread < threads; ++thread) {
      const auto subsequence = static_cast<uint64_t>(thread);
      const int64_t wanted = std::min(kPerTurn, (count - first - thread - 1) / wave + 1);
      const FourNumbers numbers = numbers_of(
          philox4x32_10({low(turns_), high(turns_), low(subsequence), high(subsequence)}, {low(seed_), high(seed_)}),
          wanted);
      for (int64_t i = 0; i < wanted; ++i)
        values[static_cast<size_t>(first + thread + i * wave)] = numbers[static_cast<size_t>(i)];
    }
  }
}

void CudaRandom::fill_normal(std::span<float> values) {
  fill(values, normals);
}

void CudaRandom::fill_uniform(std::span<float> values) {
  fill(values, uniforms);
}

namespace {

constexpr std::string_view kCpu = "torch-cpu";
constexpr std::string_view kCuda = "torch-cuda:";

// "sm=132,threads=2048", in any order, each once.
std::optional<CudaGeometry> parse_geometry(std::string_view text) {
  std::optional<int64_t> multiprocessors, threads;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    const size_t equals = std::min(part.find('='), part.size());
    const std::string_view key = part.substr(0, equals);
    std::optional<int64_t>* const value = key == "sm" ? &multiprocessors : key == "threads" ? &threads : nullptr;
    if (value == nullptr || value->has_value() || equals == part.size()) return std::nullopt;
    *value = number_of<int64_t>(part.substr(equals + 1));
    if (!value->has_value()) return std::nullopt;
    begin = end + 1;
  }
  if (!multiprocessors || !threads) return std::nullopt;
  return CudaGeometry{*multiprocessors, *threads};
}

}  // namespace

RandomStream RandomStream::from_name(std::string_view name) {
  if (name == kCpu) return {};
  const auto geometry = name.starts_with(kCuda) ? parse_geometry(name.substr(kCuda.size())) : std::nullopt;
  RAEDIT_CHECK(geometry.has_value(), {.code = ErrorCode::invalid_argument,
                                      .what = "no such stream of random numbers",
                                      .found = "'" + std::string(name) + "'",
                                      .expected = "torch-cpu or torch-cuda:sm=N,threads=N",
                                      .hint = kKnownGpus});
  check_geometry(*geometry);
  return {geometry};
}

std::string RandomStream::name() const {
  if (!gpu) return std::string(kCpu);
  return fmt::format("{}sm={},threads={}", kCuda, gpu->multiprocessors, gpu->threads);
}

}  // namespace raedit
