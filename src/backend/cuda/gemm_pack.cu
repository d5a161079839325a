// Packing: weights of a checkpoint or of training, in whatever type and layout, into the rows that linear() reads.
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <mutex>
#include <set>

#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/numbers.cuh"

namespace raedit::backend::cuda {
namespace {

// By way of float32, as on the CPU.
__device__ inline float source_float(float x) {
  return x;
}
__device__ inline float source_float(bf16 x) {
  return __bfloat162float(x);
}
__device__ inline float source_float(double x) {
  return static_cast<float>(x);
}
__device__ inline float source_float(__half x) {
  return __half2float(x);
}
__device__ inline float source_float(__nv_fp8_e4m3 x) {
  return static_cast<float>(x);
}
__device__ inline float source_float(__nv_fp8_e5m2 x) {
  return static_cast<float>(x);
}

// A matrix that is read: element (i,j) at data[i * row_stride + j * column_stride].
template <class T>
struct Source {
  const T* data;
  int64_t row_stride;
  int64_t column_stride;
  int64_t rows;
  int64_t columns;
  bool vectors;  // rows of neighbours that begin on 16-byte addresses
};

// 16 bytes of the target a thread. The target is contiguous [target_rows, packs * kPackOf<To>]; what has no source is
// zero. blockDim.x threads along a row, blockDim.y rows.
template <class From, class To>
__global__ void __launch_bounds__(128)
    convert_matrix(const Source<From> from, To* target, int64_t target_rows, int64_t packs) {
  constexpr int V = kPackOf<To>;
  constexpr int L = V < kPackOf<From> ? V : kPackOf<From>;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int64_t pack = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  if (row >= target_rows || pack >= packs) return;
  const int64_t column = pack * V;
  Pack<To, V> out;
  if (row < from.rows && from.vectors && column + V <= from.columns) {
    const From* source = from.data + row * from.row_stride + column;
    Pack<From, L> in[V / L];
#pragma unroll
    for (int i = 0; i < V / L; ++i) in[i] = reinterpret_cast<const Pack<From, L>*>(source)[i];
#pragma unroll
    for (int i = 0; i < V; ++i) out.at[i] = from_float<To>(source_float(in[i / L].at[i % L]));
  } else {
    const int64_t count = row < from.rows ? from.columns - column : 0;
    const From* source = from.data + row * from.row_stride + column * from.column_stride;
#pragma unroll
    for (int i = 0; i < V; ++i)
      out.at[i] = from_float<To>(i < count ? source_float(source[i * from.column_stride]) : 0.0f);
  }
  *reinterpret_cast<Pack<To, V>*>(target + row * packs * V + column) = out;
}

// Memory that a stream gave back stays in the pool: packing a training step's weights asks for the same again.
void keep_pool(int device) {
  static std::mutex mutex;
  static std::set<int> done;
  const std::lock_guard lock(mutex);
  if (!done.insert(device).second) return;
  cudaMemPool_t pool = nullptr;
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  uint64_t threshold = UINT64_MAX;
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold), "cudaMemPoolSetAttribute");
}

// f(Type<element>) for whatever a checkpoint may hold.
template <class F>
void with_source_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::float32: return f(Type<float>{});
    case DType::bfloat16: return f(Type<bf16>{});
    case DType::float16: return f(Type<__half>{});
    case DType::float64: return f(Type<double>{});
    case DType::float8_e4m3fn: return f(Type<__nv_fp8_e4m3>{});
    case DType::float8_e5m2: return f(Type<__nv_fp8_e5m2>{});
    default:
      raise({.code = ErrorCode::unsupported,
             .what = "a matrix of this type cannot be multiplied",
             .found = std::string(name_of(dtype)),
             .expected = "a floating type"});
  }
}

bool usable_as_it_is(const Tensor& weight, DType compute) {
  const Matrix matrix(weight);
  return weight.dtype() == compute && matrix.row_major() && matrix.aligned() && matrix.columns > 0 &&
         matrix.columns % lanes_of(compute) == 0;
}

// Bytes in the order of the rows, as they come from a file, then one kernel; or straight to their place.
void upload(const std::shared_ptr<const Runtime>& runtime, const DeviceMemory& memory, const Tensor& source,
            CudaPackedMatrix& packed) {
  const Tensor rows = source.contiguous();
  const Matrix host(rows);
  if (rows.dtype() == packed.dtype && packed.padded_k == packed.k) {
    memory.from_host(packed.memory->data(), rows.raw(), rows.nbytes());
    const size_t rest = packed.memory->size() - rows.nbytes();
    check(cudaMemsetAsync(packed.memory->data() + rows.nbytes(), 0, rest, runtime->stream()), "cudaMemsetAsync");
    return;
  }
  const StreamBytes raw(runtime, rows.nbytes());
  memory.from_host(raw.data(), rows.raw(), rows.nbytes());
  Matrix there = host;
  there.data = raw.data();
  convert(*runtime, there, packed.memory->data(), packed.dtype, packed.rows, packed.padded_k);
}

// The weight as it comes, from wherever it is, into padded rows of packed.dtype.
void place(const std::shared_ptr<const Runtime>& runtime, const DeviceMemory& memory, const Tensor& weight,
           CudaPackedMatrix& packed) {
  packed.ld = packed.padded_k;
  packed.memory = std::make_unique<StreamBytes>(
      runtime, static_cast<size_t>(packed.rows * packed.padded_k) * size_of(packed.dtype));
  packed.data = packed.memory->data();
  if (weight.on_host())
    upload(runtime, memory, weight, packed);
  else
    convert(*runtime, Matrix(weight), packed.memory->data(), packed.dtype, packed.rows, packed.padded_k);
}

}  // namespace

void convert(const Runtime& rt, const Matrix& from, std::byte* to, DType dtype, int64_t rows, int64_t columns) {
  const int64_t packs = columns / lanes_of(dtype);
  if (rows == 0 || packs == 0) return;
  const dim3 block = row_block(packs);
  const dim3 blocks(grid(rows, block.y), grid(packs, block.x));
  with_source_type(from.dtype, [&]<class From>(Type<From>) {
    const Source<From> source{reinterpret_cast<const From*>(from.data),
                              from.row_stride,
                              from.column_stride,
                              from.rows,
                              from.columns,
                              from.aligned()};
    with_type(dtype, [&]<class To>(Type<To>) {
      launch(rt, "convert_matrix", convert_matrix<From, To>, blocks, block, 0, source, reinterpret_cast<To*>(to), rows,
             packs);
    });
  });
}

StreamBytes::StreamBytes(std::shared_ptr<const Runtime> runtime, size_t bytes)
    : runtime_(std::move(runtime)), size_(std::max<size_t>(bytes, 256)) {
  keep_pool(runtime_->device());
  void* data = nullptr;
  check(cudaMallocAsync(&data, size_, runtime_->stream()), "memory for a packed matrix");
  data_ = static_cast<std::byte*>(data);
}

StreamBytes::~StreamBytes() {
  (void)cudaFreeAsync(data_, runtime_->stream());
}

size_t CudaPackedMatrix::nbytes() const {
  return (memory ? memory->size() : view.nbytes()) + (bias.exact ? bias.exact->size() : 0);
}

std::shared_ptr<const PackedMatrix> CudaKernels::pack(const Tensor& weight, DType compute) const {
  auto packed = std::make_shared<CudaPackedMatrix>();
  packed->n = weight.dim(0);
  packed->k = weight.dim(1);
  packed->dtype = compute;
  packed->constant = weight.on_host();
  if (!weight.on_host() && usable_as_it_is(weight, compute)) {
    packed->view = weight;
    packed->data = weight.raw();
    packed->ld = Matrix(weight).row_stride;
    packed->padded_n = packed->rows = packed->n;
    packed->padded_k = packed->k;
    return packed;
  }
  packed->padded_n = round_up(packed->n, 8);
  packed->rows = round_up(packed->n, 32);
  packed->padded_k = round_up(packed->k, lanes_of(packed->dtype));
  place(runtime_, *memory(), weight, *packed);
  return packed;
}

}  // namespace raedit::backend::cuda
