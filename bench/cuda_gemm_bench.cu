// The bfloat16 products of a denoiser and its head on a Hopper, ours (gemm_sm90a, every configuration) next to
// cuBLASLt's best of 8: checked against a simple kernel, then timed inside CUDA graphs over rotating buffers.
// nvcc -std=c++20 -O3 -Iinclude -Isrc -gencode=arch=compute_90a,code=sm_90a --expt-relaxed-constexpr -cudart static
//   -DRAEDIT_GEMM_WATCHDOG bench/cuda_gemm_bench.cu src/backend/cuda/gemm_sm90a.cu -lcublasLt -o cuda_gemm_bench
// cuda_gemm_bench [check | large | small]
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "backend/cuda/gemm_sm90a.h"

namespace {

using namespace raedit::backend::cuda::sm90a;
using bf16 = __nv_bfloat16;

void ok(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::printf("FAILED: %s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

template <class T>
struct Buffer {
  T* data = nullptr;
  size_t count = 0;
  explicit Buffer(size_t n = 0) : count(n) {
    if (n > 0) ok(cudaMalloc(&data, n * sizeof(T)), "cudaMalloc");
  }
  Buffer(const Buffer&) = delete;
  Buffer(Buffer&& other) noexcept : data(std::exchange(other.data, nullptr)), count(other.count) {}
  ~Buffer() { cudaFree(data); }
};

// ---- random numbers, the reference, the comparison

__device__ float noise(uint64_t seed, uint64_t i) {
  uint64_t z = seed * 0x9E3779B97F4A7C15ull + i * 0xBF58476D1CE4E5B9ull;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ z >> 27) * 0x94D049BB133111EBull;
  const float u = (uint32_t(z >> 40) + 0.5f) / 16777216.0f, v = uint32_t(z & 0xFFFFFF) / 16777216.0f;
  return sqrtf(-2.0f * logf(u)) * cospif(2.0f * v);
}
template <class T>
__global__ void fill_kernel(T* out, size_t n, uint64_t seed, float scale) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x)
    out[i] = T(noise(seed, i) * scale);
}
template <class T>
void fill(const Buffer<T>& buffer, uint64_t seed, float scale) {
  if (buffer.count > 0) fill_kernel<<<1024, 256>>>(buffer.data, buffer.count, seed, scale);
}

__global__ void shuffle_kernel(const bf16* in, bf16* out, int64_t rows, int64_t ld) {
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x)
    for (int64_t i = threadIdx.x; i < ld; i += blockDim.x) out[r * ld + i] = in[shuffled_row(r) * ld + i];
}

// x w^T in float32: 64x64 per block of 256 threads, 4x4 per thread.
__global__ void reference_kernel(const bf16* x, int64_t ldx, const bf16* w, int64_t ldw, float* out, int m, int n,
                                 int k) {
  __shared__ float xs[16][65], ws[16][65];
  const int row = blockIdx.y * 64, column = blockIdx.x * 64, tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float sums[4][4] = {};
  for (int k0 = 0; k0 < k; k0 += 16) {
    for (int i = threadIdx.x; i < 1024; i += 256) {
      const int r = i / 16, c = i % 16;
      const bool inside = k0 + c < k;
      xs[c][r] = inside && row + r < m ? float(x[(row + r) * ldx + k0 + c]) : 0.0f;
      ws[c][r] = inside && column + r < n ? float(w[(column + r) * ldw + k0 + c]) : 0.0f;
    }
    __syncthreads();
    for (int c = 0; c < 16; ++c)
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) sums[i][j] += xs[c][ty + 16 * i] * ws[c][tx + 16 * j];
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int r = row + ty + 16 * i, c = column + tx + 16 * j;
      if (r < m && c < n) out[int64_t(r) * n + c] = sums[i][j];
    }
}

__global__ void reference_epilogue(Problem p, float* value, const float* second) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= p.m * p.n) return;
  const int64_t row = i / p.n, column = i % p.n;
  float v = value[i] + (p.bias != nullptr ? p.bias[column] : 0.0f);
  if (p.epilogue == Epilogue::gelu) v = 0.5f * v * erfcf(-v * 0.70710678118654752f);
  if (p.epilogue == Epilogue::swiglu) {
    const float g = second[i] + (p.bias_gate != nullptr ? p.bias_gate[column] : 0.0f);
    v *= g / (1.0f + expf(-g));
  }
  if (p.epilogue == Epilogue::gated_residual) {
    const auto* gate = static_cast<const bf16*>(p.gate);
    const auto* residual = static_cast<const bf16*>(p.residual);
    const float g = gate[row / p.tokens * p.gate_batch + row % p.tokens * p.gate_row + column];
    v = float(residual[row * p.ldr + column]) + g * v;
  }
  value[i] = v;
}

struct Found {
  double error;                  // squared
  double norm;                   // squared
  unsigned long long touched;    // elements beyond the columns or rows that are no longer poison
  unsigned long long different;  // bits from those of `first`
};
__global__ void compare_kernel(const bf16* out, const bf16* first, const float* reference, int64_t m, int64_t n,
                               int64_t ld, int64_t rows, Found* found) {
  double error = 0, norm = 0;
  unsigned long long touched = 0, different = 0;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < rows * ld;
       i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t r = i / ld, c = i % ld;
    const unsigned short bits = __bfloat16_as_ushort(out[i]);
    if (r >= m || c >= n) {
      touched += bits != 0xFFFF;
    } else {
      const double want = reference[r * n + c], got = double(float(out[i]));
      error += (got - want) * (got - want);
      norm += want * want;
      different += bits != __bfloat16_as_ushort(first[i]);
    }
  }
  for (int o = 16; o > 0; o /= 2) {
    error += __shfl_xor_sync(~0u, error, o), norm += __shfl_xor_sync(~0u, norm, o);
    touched += __shfl_xor_sync(~0u, touched, o), different += __shfl_xor_sync(~0u, different, o);
  }
  if (threadIdx.x % 32 == 0) {
    atomicAdd(&found->error, error), atomicAdd(&found->norm, norm);
    atomicAdd(&found->touched, touched), atomicAdd(&found->different, different);
  }
}

// ---- one product with its operands, several times over so that the caches do not help more than they would

struct Case {
  const char* name;
  Epilogue epilogue;
  int64_t m, n, k;
  int64_t tokens = 256;
  bool gate_per_row = false;
  int64_t pad = 8;        // rows begin at multiples of this many elements
  bool odd_rows = false;  // out, residual and gate with rows that no 16-byte access fits
};

int64_t round_up(int64_t a, int64_t b) {
  return (a + b - 1) / b * b;
}

struct Operands {
  Case c;
  int64_t ldk, ldo, w_rows, out_rows;
  int sets;
  std::vector<Buffer<bf16>> x, w, shuffled, out, residual, gate;
  Buffer<float> bias;
  Buffer<bf16> bias16;

  Operands(const Case& which, int sets_) : c(which), sets(sets_), bias(2 * which.n), bias16(2 * which.n + 16) {
    ldk = round_up(c.k, c.pad);
    ldo = c.odd_rows ? c.n + 3 : c.pad == 8 ? round_up(c.n, 8) + 8 : round_up(c.n, c.pad);
    w_rows = round_up(c.n, 32);
    out_rows = c.m + 2;
    const int halves = c.epilogue == Epilogue::swiglu ? 2 : 1;
    const bool gated = c.epilogue == Epilogue::gated_residual;
    const int64_t gates = c.gate_per_row ? c.m : (c.m + c.tokens - 1) / c.tokens;
    for (int s = 0; s < sets; ++s) {
      x.emplace_back(c.m * ldk);
      w.emplace_back(halves * w_rows * ldk);
      shuffled.emplace_back(halves * w_rows * ldk);
      out.emplace_back(out_rows * ldo);
      residual.emplace_back(gated ? out_rows * ldo : 0);
      gate.emplace_back(gated ? gates * ldo : 0);
      fill(x[s], 10 * s + 1, 1.0f);
      fill(w[s], 10 * s + 2, 1.0f / std::sqrt(float(c.k)));
      fill(residual[s], 10 * s + 3, 1.0f);
      fill(gate[s], 10 * s + 4, 0.5f);
      shuffle_kernel<<<1024, 256>>>(w[s].data, shuffled[s].data, halves * w_rows, ldk);
    }
    fill(bias, 5, 1.0f);
    fill(bias16, 6, 1.0f);
  }

  Problem problem(int s, bool shuffle) const {
    Problem p;
    p.epilogue = c.epilogue;
    p.m = c.m, p.n = c.n, p.k = c.k;
    p.x = x[s].data, p.ldx = ldk;
    const bf16* weights = shuffle ? shuffled[s].data : w[s].data;
    p.w = weights, p.w_gate = weights + w_rows * ldk;
    p.ldw = ldk, p.w_rows = w_rows, p.w_shuffled = shuffle;
    p.bias = bias.data, p.bias_gate = bias.data + c.n;
    p.out = out[s].data, p.ldo = ldo;
    p.residual = residual[s].data, p.ldr = ldo;
    p.gate = gate[s].data, p.tokens = c.tokens;
    p.gate_batch = c.gate_per_row ? c.tokens * ldo : ldo;
    p.gate_row = c.gate_per_row ? ldo : 0;
    return p;
  }
};

struct Reference {
  Buffer<float> value;
  Buffer<bf16> first;
  Buffer<Found> found;
  bool have_first = false;

  explicit Reference(const Operands& o) : value(o.c.m * o.c.n), first(o.out_rows * o.ldo), found(1) {
    const Problem p = o.problem(0, false);
    Buffer<float> second(o.c.epilogue == Epilogue::swiglu ? o.c.m * o.c.n : 0);
    const dim3 grid((p.n + 63) / 64, (p.m + 63) / 64);
    const auto product = [&](const void* w, float* to) {
      reference_kernel<<<grid, 256>>>(static_cast<const bf16*>(p.x), p.ldx, static_cast<const bf16*>(w), p.ldw, to,
                                      int(p.m), int(p.n), int(p.k));
    };
    product(p.w, value.data);
    if (second.count > 0) product(p.w_gate, second.data);
    reference_epilogue<<<unsigned((p.m * p.n + 255) / 256), 256>>>(p, value.data, second.data);
    ok(cudaDeviceSynchronize(), "the reference");
  }

  // Error of a run on poisoned memory; negative where it wrote what is not its own. `same`: bits as the first run's.
  double check(const Operands& o, const std::function<void()>& work, bool& same) {
    ok(cudaMemset(o.out[0].data, 0xFF, o.out[0].count * sizeof(bf16)), "poison");
    work();
    ok(cudaDeviceSynchronize(), "the kernel");
    if (!have_first) {
      ok(cudaMemcpy(first.data, o.out[0].data, first.count * sizeof(bf16), cudaMemcpyDefault), "copy");
      have_first = true;
    }
    ok(cudaMemset(found.data, 0, sizeof(Found)), "clear");
    compare_kernel<<<1024, 256>>>(o.out[0].data, first.data, value.data, o.c.m, o.c.n, o.ldo, o.out_rows, found.data);
    Found f;
    ok(cudaMemcpy(&f, found.data, sizeof f, cudaMemcpyDefault), "result");
    same = f.different == 0;
    return f.touched > 0 ? -1.0 : std::sqrt(f.error / f.norm);
  }
};

// Microseconds per call: the median of graphs of `count` calls, one after the other.
double time_calls(cudaStream_t stream, int count, const std::function<void(int)>& call) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < count; ++i) call(i);
  ok(cudaStreamEndCapture(stream, &graph), "end of capture");
  ok(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cudaEvent_t a, b;
  ok(cudaEventCreate(&a), "event"), ok(cudaEventCreate(&b), "event");
  std::vector<float> times;
  for (int i = 0; i < 6; ++i) {
    ok(cudaEventRecord(a, stream), "record");
    ok(cudaGraphLaunch(exec, stream), "launch");
    ok(cudaEventRecord(b, stream), "record");
    ok(cudaEventSynchronize(b), "the timed kernels");
    float ms = 0;
    ok(cudaEventElapsedTime(&ms, a, b), "time");
    if (i > 0) times.push_back(ms);
  }
  cudaEventDestroy(a), cudaEventDestroy(b);
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  std::nth_element(times.begin(), times.begin() + 2, times.end());
  return times[2] * 1000.0 / count;
}

// ---- cuBLASLt: the product with a bfloat16 bias and nothing else

struct Library {
  cublasLtHandle_t handle;
  Buffer<char> workspace{size_t{64} << 20};
  Library() { cublasLtCreate(&handle); }

  // The best time, and its error where the epilogue is the plain bias.
  double best(cudaStream_t stream, const Operands& o, int count) {
    const int64_t n = round_up(o.c.n, 8) * (o.c.epilogue == Epilogue::swiglu ? 2 : 1), k = round_up(o.c.k, 8);
    const int64_t ldo = round_up(n, o.c.pad);
    Buffer<bf16> out(o.c.m * ldo * o.sets);
    cublasLtMatmulDesc_t desc;
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &o.bias16.data, sizeof o.bias16.data);
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatrixLayoutCreate(&a, CUDA_R_16BF, k, n, o.ldk);
    cublasLtMatrixLayoutCreate(&b, CUDA_R_16BF, k, o.c.m, o.ldk);
    cublasLtMatrixLayoutCreate(&d, CUDA_R_16BF, n, o.c.m, ldo);
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace.count,
                                         sizeof workspace.count);
    cublasLtMatmulHeuristicResult_t results[8];
    int found = 0;
    cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, d, d, preference, 8, results, &found);
    const float one = 1, zero = 0;
    double best = 1e30;
    for (int r = 0; r < found; ++r) {
      bool works = true;
      const double t = time_calls(stream, count, [&](int i) {
        const int s = i % o.sets;
        works &= cublasLtMatmul(handle, desc, &one, o.w[s].data, a, o.x[s].data, b, &zero, out.data + s * o.c.m * ldo,
                                d, out.data + s * o.c.m * ldo, d, &results[r].algo, workspace.data, workspace.count,
                                stream) == CUBLAS_STATUS_SUCCESS;
      });
      if (works) best = std::min(best, t);
    }
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatrixLayoutDestroy(a), cublasLtMatrixLayoutDestroy(b), cublasLtMatrixLayoutDestroy(d);
    cublasLtMatmulDescDestroy(desc);
    return best;
  }
};

const char* kEpilogueNames[] = {"bias", "gelu", "swiglu", "gated"};
int failures = 0;

void judge(const char* config, double error, bool same) {
  if (error >= 0 && error < 5e-3 && same) return;
  ++failures;
  std::printf("    WRONG %-16s error %.2e%s%s\n", config, error, error < 0 ? " (wrote outside)" : "",
              same ? "" : " (other bits than the first)");
}

// Odd sizes through every configuration.
void check_odd_sizes(cudaStream_t stream) {
  const Case cases[] = {
      {"one row", Epilogue::bias, 1, 40, 264},
      {"no round number", Epilogue::gelu, 333, 341, 331, 256, false, 8, true},
      {"odd swiglu", Epilogue::swiglu, 261, 171, 300, 87, false, 8, true},
      {"swiglu", Epilogue::swiglu, 700, 683, 1154},
      {"gate per batch", Epilogue::gated_residual, 522, 392, 512, 261},
      {"gate per row", Epilogue::gated_residual, 301, 200, 1000, 43, true, 8, true},
      {"several waves", Epilogue::bias, 5000, 2100, 320},
      {"several waves, gated", Epilogue::gated_residual, 5000, 2100, 320, 250},
  };
  for (const Case& c : cases) {
    const Operands o(c, 1);
    Reference reference(o);
    int right = 0;
    for (const Config& config : configs())
      for (const bool shuffle : {false, true}) {
        const Problem p = o.problem(0, shuffle);
        if (!supported(p)) std::printf("    NOT SUPPORTED\n"), ++failures;
        bool same = false;
        const double error = reference.check(
            o, [&] { ok(run(stream, p, config), config.name); }, same);
        const int before = failures;
        judge(config.name, error, same);
        right += failures == before;
      }
    std::printf("check %-22s %-7s %lldx%lldx%lld: %d of %d right\n", c.name, kEpilogueNames[int(c.epilogue)],
                (long long)c.m, (long long)c.n, (long long)c.k, right, 2 * int(configs().size()));
    std::fflush(stdout);
  }
}

void measure(cudaStream_t stream, Library& library, const Case& c) {
  const bool small = c.m <= 512;
  int sets = 1;
  {
    const double bytes = 2.0 * (c.m * c.k + c.m * c.n + c.n * c.k * (c.epilogue == Epilogue::swiglu ? 2 : 1));
    sets = std::clamp(int(150e6 / bytes) + 1, 2, 40);
  }
  const int count = small ? 2 * sets : std::max(2 * sets, 4);
  const Operands o(c, sets);
  Reference reference(o);
  const double flops = 2.0 * c.m * c.n * c.k * (c.epilogue == Epilogue::swiglu ? 2 : 1);
  const double floor = double(o.w[0].count) * 2 / 3e12 * 1e6;
  std::printf("%s %s: M %lld, N %lld, K %lld%s\n", c.name, kEpilogueNames[int(c.epilogue)], (long long)c.m,
              (long long)c.n, (long long)c.k, c.pad == 8 ? ", rows of multiples of 8" : "");
  if (small) std::printf("    weights / 3 TB/s      %8.2f us\n", floor);
  const double theirs = library.best(stream, o, count);
  std::printf("    cublasLt (bias)       %8.2f us %7.1f TFLOP/s\n", theirs, flops / theirs * 1e-6);
  for (const Config& config : configs()) {
    if (config.persistent == small) continue;
    double times[3] = {};
    for (int form = 0; form < 3; ++form) {  // as stored; shuffled before; as stored, overlapping
      const bool shuffle = form == 1, overlap = form == 2;
      bool same = false;
      const double error = reference.check(
          o, [&] { ok(run(stream, o.problem(0, shuffle), config), config.name); }, same);
      judge(config.name, error, same);
      times[form] = time_calls(stream, count, [&](int i) {
        Problem p = o.problem(i % o.sets, shuffle);
        p.overlap = overlap;
        ok(run(stream, p, config), config.name);
      });
    }
    std::printf("    %-16s      %8.2f us %7.1f TFLOP/s; w shuffled before %8.2f; overlapping %8.2f (%.2fx)\n",
                config.name, times[0], flops / times[0] * 1e-6, times[1], times[2], theirs / times[2]);
  }
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string only = argc > 1 ? argv[1] : "";
  cudaStream_t stream;
  ok(cudaStreamCreate(&stream), "stream");
  if (only.empty() || only == "check") check_odd_sizes(stream);
  const Case shapes[] = {
      {"qkv", Epilogue::bias, 0, 3456, 1152},         {"out", Epilogue::gated_residual, 0, 1152, 1152},
      {"up", Epilogue::swiglu, 0, 3072, 1152},        {"down", Epilogue::gated_residual, 0, 1152, 3072},
      {"head qkv", Epilogue::bias, 0, 6144, 2048},    {"head out", Epilogue::gated_residual, 0, 2048, 2048},
      {"head up", Epilogue::swiglu, 0, 5461, 2048},   {"head down", Epilogue::gated_residual, 0, 2048, 5461},
      {"head adaLN", Epilogue::bias, 0, 12288, 2048}, {"decoder up", Epilogue::gelu, 0, 4096, 1152},
  };
  Library library;
  for (const int64_t m : {256, 8192, 16384}) {
    if ((only == "large" && m == 256) || (only == "small" && m > 256) || only == "check") continue;
    for (Case c : shapes) {
      c.m = m;
      c.pad = 64;
      measure(stream, library, c);
      if (c.k % 64 == 0 && c.n % 64 == 0) continue;
      c.pad = 8;
      measure(stream, library, c);
    }
  }
  std::printf(failures == 0 ? "all right\n" : "%d WRONG\n", failures);
  return failures == 0 ? 0 : 1;
}
