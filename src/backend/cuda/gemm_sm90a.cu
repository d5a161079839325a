// The host's side of gemm_sm90a: what the kernel is told about a problem, and the kernels that there are.
#include "backend/cuda/gemm_sm90a.h"

#include <algorithm>
#include <array>
#include <atomic>

#include "backend/cuda/gemm_sm90a.cuh"

namespace raedit::backend::cuda::sm90a {
namespace {

// ---- the host

using Encode = CUresult(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                        const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                        CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// The driver's function, found through the runtime so that nothing links to libcuda.
Encode* encoder() {
  static Encode* const found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    if (status != cudaSuccess || result != cudaDriverEntryPointSuccess) function = nullptr;
    return reinterpret_cast<Encode*>(function);
  }();
  return found;
}

bool encode(CUtensorMap* map, const void* base, int rank, const cuuint64_t* sizes, const cuuint64_t* strides,
            const cuuint32_t* box) {
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  return encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank, const_cast<void*>(base), sizes, strides, box, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool encode_rows(CUtensorMap* map, const void* base, int64_t rows, int64_t k, int64_t stride, int box_rows) {
  const cuuint64_t sizes[2] = {cuuint64_t(k), cuuint64_t(rows)}, strides[1] = {cuuint64_t(stride) * 2};
  const cuuint32_t box[2] = {kBlockK, cuuint32_t(box_rows)};
  return encode(map, base, 2, sizes, strides, box);
}

// The rows of w come into shared memory in the order of shuffled_row: row = 32 g + 8 q + 2 j + e stands at
// 32 g + 8 j + 2 q + e, as a box of (k, e, q, j, g).
bool encode_shuffling(CUtensorMap* map, const void* base, int64_t rows, int64_t k, int64_t stride, int box_rows) {
  const cuuint64_t bytes = stride * 2;
  const cuuint64_t sizes[5] = {cuuint64_t(k), 2, 4, 4, cuuint64_t(rows + 31) / 32};
  const cuuint64_t strides[4] = {bytes, bytes * 8, bytes * 2, bytes * 32};
  const cuuint32_t box[5] = {kBlockK, 2, 4, cuuint32_t(std::min(box_rows / 8, 4)), cuuint32_t((box_rows + 31) / 32)};
  return encode(map, base, 5, sizes, strides, box);
}

bool aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

template <class S, Epilogue kEpilogue>
bool fill(Params& p, const Problem& in) {
  const int64_t columns = Block<S, kEpilogue>::kColumns;
  const auto rows_of_w = in.w_shuffled ? encode_rows : encode_shuffling;
  const int64_t n = in.w_shuffled ? (in.n + 31) / 32 * 32 : in.n;
  p.m = static_cast<int>(in.m);
  p.n = static_cast<int>(in.n);
  p.k_blocks = static_cast<int>((in.k + kBlockK - 1) / kBlockK);
  p.tiles_n = static_cast<int>((in.n + columns * S::kAcross - 1) / (columns * S::kAcross));
  p.clusters_m = static_cast<int>((in.m + S::kTileM * S::kMulticast - 1) / (S::kTileM * S::kMulticast));
  p.tokens = static_cast<int>(in.tokens);
  p.overlap = in.overlap;
  p.w_shuffled = in.w_shuffled;
  p.out_vectors = aligned(in.out) && in.ldo % 8 == 0;
  p.residual_vectors = aligned(in.residual) && in.ldr % 8 == 0;
  p.gate_vectors = aligned(in.gate) && in.gate_batch % 8 == 0 && in.gate_row % 8 == 0;
  p.vectors = p.out_vectors && (kEpilogue != Epilogue::gated_residual || (p.residual_vectors && p.gate_vectors));
  // So few rows of w at a time, where all of it stays in the second-level cache anyway.
  p.raster = in.n * in.k * (kEpilogue == Epilogue::swiglu ? 2 : 1) <= (int64_t{8} << 20) ? 4 : 8;
  p.stagger = S::kStages / 2;
  p.x_policy = kKeep;
  p.w_policy = p.clusters_m == 1 ? kOnce : kKeep;
  p.bias[0] = in.bias;
  p.bias[1] = in.bias_gate;
  p.out = static_cast<bf16*>(in.out);
  p.ldo = in.ldo;
  p.residual = static_cast<const bf16*>(in.residual);
  p.ldr = in.ldr;
  p.gate = static_cast<const bf16*>(in.gate);
  p.gate_batch = in.gate_batch;
  p.gate_row = in.gate_row;
  return encode_rows(&p.x, in.x, in.m, in.k, in.ldx, S::kXRows) &&
         rows_of_w(&p.w[0], in.w, n, in.k, in.ldw, S::kPartRows) &&
         (kEpilogue != Epilogue::swiglu || rows_of_w(&p.w[1], in.w_gate, n, in.k, in.ldw, S::kPartRows));
}

struct Device {
  int number = 0;
  int multiprocessors = 0;
};

cudaError_t current_device(Device& device) {
  static std::array<std::atomic<int>, 64> known{};  // multiprocessors of each
  cudaError_t status = cudaGetDevice(&device.number);
  if (status != cudaSuccess) return status;
  if (device.number >= 64) return cudaErrorInvalidDevice;
  device.multiprocessors = known[device.number];
  if (device.multiprocessors > 0) return cudaSuccess;
  status = cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, device.number);
  known[device.number] = device.multiprocessors;
  return status;
}

template <class S, bool kPersistent, Epilogue kEpilogue>
cudaError_t start(cudaStream_t stream, const Problem& problem) {
  static std::atomic<uint64_t> allowed{0};  // devices
  Params p{};
  Device device;
  cudaError_t status = current_device(device);
  if (status != cudaSuccess) return status;
  if (!fill<S, kEpilogue>(p, problem)) return cudaErrorInvalidValue;
  if ((allowed >> device.number & 1) == 0) {
    status =
        cudaFuncSetAttribute(gemm_kernel<S, kEpilogue>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
    if (status != cudaSuccess) return status;
    allowed |= uint64_t{1} << device.number;
  }
  int clusters = p.tiles_n * p.clusters_m;
  if (kPersistent) clusters = std::min(clusters, device.multiprocessors / S::kCluster);
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {S::kCluster, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(clusters * S::kCluster);
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = S::kSharedBytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = problem.overlap ? 2 : 1;
  return cudaLaunchKernelEx(&config, gemm_kernel<S, kEpilogue>, p);
}

struct Entry {
  Config config;
  cudaError_t (*start[4])(cudaStream_t, const Problem&);  // by Epilogue
};

template <class S, bool kPersistent>
constexpr Entry entry(const char* name) {
  static_assert(kPersistent || !S::kTurns);
  return {{name, S::kTileM, S::kN, S::kStages, S::kMulticast, S::kAcross, kPersistent},
          {start<S, kPersistent, Epilogue::bias>, start<S, kPersistent, Epilogue::gelu>,
           start<S, kPersistent, Epilogue::swiglu>, start<S, kPersistent, Epilogue::gated_residual>}};
}

// Name: rows x columns of a tile; c: blocks that share w, x: that share x; t: warpgroups take turns.
const Entry kEntries[] = {
    entry<Shape<2, 1, 256, 4, 2, 1, false>, true>("128x256 c2"),
    entry<Shape<2, 1, 192, 5, 2, 1, false>, true>("128x192 c2"),
    entry<Shape<3, 1, 192, 4, 2, 1, false>, true>("192x192 c2"),
    entry<Shape<2, 2, 128, 4, 1, 2, false>, true>("256x128 x2"),
    entry<Shape<2, 2, 128, 6, 2, 1, true>, true>("128x128 c2 t"),
    entry<Shape<1, 1, 64, 12, 2, 1, false>, false>("64x64 c2"),
    entry<Shape<1, 1, 64, 12, 2, 2, false>, false>("64x64 c2x2"),
    entry<Shape<1, 1, 64, 12, 4, 2, false>, false>("64x64 c4x2"),
    entry<Shape<1, 1, 128, 8, 4, 1, false>, false>("64x128 c4"),
    entry<Shape<1, 1, 128, 8, 4, 2, false>, false>("64x128 c4x2"),
    entry<Shape<1, 1, 192, 6, 2, 1, false>, false>("64x192 c2"),
    entry<Shape<1, 1, 192, 6, 2, 2, false>, false>("64x192 c2x2"),
    entry<Shape<2, 1, 64, 8, 2, 2, false>, false>("128x64 c2x2"),
    entry<Shape<2, 1, 128, 6, 2, 2, false>, false>("128x128 c2x2"),
};

const auto& table() {
  static const auto configs = [] {
    std::array<Config, std::size(kEntries)> list{};
    for (size_t i = 0; i < list.size(); ++i) list[i] = kEntries[i].config;
    return list;
  }();
  return configs;
}

}  // namespace

std::span<const Config> configs() {
  return table();
}

bool supported(const Problem& problem) {
  const bool two = problem.epilogue == Epilogue::swiglu;
  int device = 0, major = 0, minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
    return false;
  if (major != 9 || minor != 0 || encoder() == nullptr) return false;
  constexpr int64_t kMost = int64_t{1} << 30;
  return problem.m > 0 && problem.n > 0 && problem.k > 0 && problem.m < kMost && problem.n < kMost &&
         problem.k < kMost && problem.ldx % 8 == 0 && problem.ldw % 8 == 0 && problem.ldx >= problem.k &&
         problem.ldw >= problem.k && aligned(problem.x) && aligned(problem.w) && problem.w != nullptr &&
         (!two || (problem.w_gate != nullptr && aligned(problem.w_gate))) &&
         problem.w_rows >= (problem.n + 31) / 32 * 32;
}

cudaError_t run(cudaStream_t stream, const Problem& problem, const Config& config) {
  const size_t index = static_cast<size_t>(&config - table().data());
  if (index >= table().size() || encoder() == nullptr) return cudaErrorInvalidValue;
  return kEntries[index].start[static_cast<int>(problem.epilogue)](stream, problem);
}

}  // namespace raedit::backend::cuda::sm90a
