// linear and matmul: which product is asked for, in which memory, and what is done before and after it. The products
// are cuBLASLt's (gemm_cache.h); the kernels around them are in gemm_kernels.cuh, packing in gemm_pack.cu.
//
// Tensor cores and cuBLASLt's fast kernels want rows on 16-byte addresses and widths that are multiples of 16 bytes.
// Weights are packed that way; other operands are copied into padded scratch where they are not, and results with odd
// rows come out of padded scratch.
#include "backend/cuda/gemm.h"

#include <algorithm>
#include <vector>

#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/dispatch.h"
#include "backend/cuda/gemm_cache.h"
#include "backend/cuda/gemm_kernels.cuh"
#include "backend/cuda/gemm_skinny.h"

namespace raedit::backend::cuda {
namespace {

// ---- products

// The product of our own, for what cuBLASLt cannot do.
template <class T>
MatrixSource<T> plain_source(const GemmOperand& from, int64_t rows, int64_t columns) {
  return {static_cast<const T*>(from.data), from.transposed ? 1 : from.ld, from.transposed ? from.ld : 1, rows,
          columns};
}

void plain_gemm(const Runtime& rt, const GemmCall& call) {
  const dim3 blocks(grid(call.n, kPlainTile),
                    static_cast<unsigned>(std::min<int64_t>(ceil_div(call.m, kPlainTile), 65535)));
  with_type(call.a.dtype, [&]<class T>(Type<T>) {
    with_type(call.out_dtype, [&]<class O>(Type<O>) {
      launch(rt, "plain_product", plain_product<T, O>, blocks, dim3(kPlainTile, kPlainTile), 0,
             plain_source<T>(call.a, call.m, call.k), plain_source<T>(call.b, call.k, call.n),
             static_cast<const O*>(call.bias), static_cast<O*>(call.out), call.ldo, call.accumulate);
    });
  });
}

// ---- results

// A product in scratch (null: zeros) with its bias and activation, into `out`.
void finish(const Runtime& rt, const void* product, DType dtype, int64_t stride, const float* bias, Activation act,
            const Matrix& out) {
  const int64_t rows = out.rows, columns = out.columns;
  with_type(dtype, [&]<class P>(Type<P>) {
    with_type(out.dtype, [&]<class O>(Type<O>) {
      constexpr int V = 8;
      const bool vectors = out.aligned() && columns % V == 0 && reinterpret_cast<uintptr_t>(bias) % 16 == 0;
      const int64_t items = vectors ? columns / V : columns;
      const dim3 block = row_block(items);
      launch(rt, "finish_product", vectors ? finish_product<V, P, O> : finish_product<1, P, O>,
             dim3(grid(rows, block.y), grid(items, block.x)), block, 0, static_cast<const P*>(product), stride, bias,
             act, reinterpret_cast<O*>(const_cast<std::byte*>(out.data)), out.row_stride, rows, columns);
    });
  });
}

void gemm(const Runtime& rt, const GemmCall& call) {
  if (cublas_gemm(rt, call)) return;
  GemmCall bare = call;
  bare.bias = nullptr;
  if (call.bias == nullptr || call.out_dtype != DType::float32 || !cublas_gemm(rt, bare)) return plain_gemm(rt, call);
  const Matrix out(static_cast<const std::byte*>(call.out), DType::float32, call.m, call.n, call.ldo, 1);
  finish(rt, call.out, DType::float32, call.ldo, static_cast<const float*>(call.bias), Activation::none, out);
}

// ---- linear

// The bias in bfloat16 if that changes nothing, else null.
const void* exact_bias(const std::shared_ptr<const Runtime>& runtime, const CudaPackedMatrix& w, const Tensor& bias) {
  constexpr int kMostLooks = 4;  // a bias that is a new tensor every time is not worth looking at
  const Runtime& rt = *runtime;
  CudaPackedMatrix::Bias& known = w.bias;
  const uint64_t storage = bias.storage()->id();
  if (known.looks > 0 && known.storage == storage && known.offset == bias.offset_bytes())
    return known.exact ? known.exact->data() : nullptr;
  if (!w.constant || known.exact != nullptr || known.looks >= kMostLooks || capturing(rt)) return nullptr;
  auto copy = std::make_unique<StreamBytes>(runtime, bytes_of(w.padded_n, DType::bfloat16) + sizeof(int));
  auto* changed = reinterpret_cast<int*>(copy->data() + bytes_of(w.padded_n, DType::bfloat16));
  check(cudaMemsetAsync(changed, 0, sizeof(int), rt.stream()), "cudaMemsetAsync");
  launch(rt, "round_bias", round_bias, dim3(grid(w.padded_n, 128)), dim3(128), 0, pointer<const float>(bias), w.n,
         reinterpret_cast<bf16*>(copy->data()), w.padded_n, changed);
  int answer = 0;
  check(cudaMemcpyAsync(&answer, changed, sizeof(int), cudaMemcpyDeviceToHost, rt.stream()), "look at a bias");
  rt.synchronize();
  known.storage = storage;
  known.offset = bias.offset_bytes();
  ++known.looks;
  if (answer == 0) known.exact = std::move(copy);
  return known.exact ? known.exact->data() : nullptr;
}

GemmOperand weight_operand(const CudaPackedMatrix& w) {
  return {w.data, w.dtype, w.ld, true};  // stored [N,K], read as [K,N]
}

// One product over all rows, in the type of `out`: bias included.
void linear_direct(const Runtime& rt, const GemmOperand& x, const CudaPackedMatrix& w, const void* bias,
                   const Tensor& out) {
  GemmCall call;
  call.m = out.dim(0);
  call.n = w.n;
  call.k = w.padded_k;
  call.a = x;
  call.b = weight_operand(w);
  call.out = out.raw();
  call.out_dtype = out.dtype();
  call.ldo = Matrix(out).row_stride;
  call.bias = bias;
  gemm(rt, call);
}

// Products of `rows` rows at a time, in scratch of `dtype`, finished while they are still in the cache.
struct InParts {
  DType dtype = DType::float32;
  int64_t stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;

  InParts() = default;
  InParts(DType type, const CudaPackedMatrix& w, int64_t m, int64_t n) : dtype(type), columns(n) {
    constexpr int64_t kBytes = int64_t{32} << 20;  // well inside an L2 of 50 MiB
    stride = round_up(w.padded_n, lanes_of(dtype));
    const int64_t most = std::max<int64_t>(kBytes / (stride * static_cast<int64_t>(size_of(dtype))), 256);
    rows = std::min(round_up(ceil_div(m, ceil_div(m, most)), 128), m);
  }
  size_t bytes() const { return bytes_of(rows * stride, dtype); }

  void run(const Runtime& rt, const GemmOperand& x, const CudaPackedMatrix& w, const void* product_bias, void* scratch,
           const Tensor& bias, Activation act, const Tensor& out) const {
    for (int64_t first = 0; first < out.dim(0); first += rows) {
      const Tensor part = out.slice(0, first, std::min(first + rows, out.dim(0)));
      GemmCall call;
      call.m = part.dim(0);
      call.n = columns;
      call.k = w.padded_k;
      call.a = x;
      call.a.data = static_cast<const std::byte*>(x.data) + first * x.ld * static_cast<int64_t>(size_of(x.dtype));
      call.b = weight_operand(w);
      call.out = scratch;
      call.out_dtype = dtype;
      call.ldo = stride;
      call.bias = product_bias;
      gemm(rt, call);
      finish(rt, scratch, dtype, stride, pointer<const float>(bias), act, Matrix(part));
    }
  }
};

struct LinearCall {
  const Tensor& x;
  const CudaPackedMatrix& w;
  Tensor whole_bias;  // as it was given: our own kernels add it in float32
  Tensor bias;        // float32, for after the product
  Activation act;
  const Tensor& out;
  const void* product_bias = nullptr;  // of the result's type, for cuBLASLt
  bool bias_padded = false;            // it has w.padded_n elements

  // Whether cuBLASLt can write the result itself.
  bool same_type() const { return out.dtype() == DType::float32 || w.dtype == DType::bfloat16; }
};

// What gemm_sm90a makes of it: bias and rounding included.
sm90a::Problem own_problem(const GemmOperand& x, const CudaPackedMatrix& w, const float* bias, const Matrix& out) {
  sm90a::Problem problem;
  problem.m = out.rows;
  problem.n = w.n;
  problem.k = w.padded_k;
  problem.x = x.data;
  problem.ldx = x.ld;
  problem.w = w.data;
  problem.ldw = w.ld;
  problem.w_rows = w.rows;
  problem.bias = bias;
  problem.out = const_cast<std::byte*>(out.data);
  problem.ldo = out.row_stride;
  return problem;
}

// Directly into the result where that has even rows and nothing is left to add; by way of padded scratch where rows are
// odd; else the product in float32, and its only rounding after the bias; by a kernel of our own, which does it all,
// where that is faster. True if the activation is still to come.
bool run_linear(const Runtime& rt, const LinearCall& call) {
  const CudaPackedMatrix& w = call.w;
  const Tensor& out = call.out;
  const Matrix rows(call.x), target(out);
  const bool copied = w.padded_k != w.k || !rows.row_major() || !rows.aligned();
  const size_t x_bytes = copied ? bytes_of(rows.rows * w.padded_k, w.dtype) : 0;
  const bool complete = call.same_type() && !call.bias.defined();
  const bool even = target.aligned() && w.n % lanes_of(out.dtype()) == 0;
  const bool direct = complete && (even || out.dtype() == DType::float32);
  InParts parts;
  if (!direct)
    parts = InParts(complete ? out.dtype() : DType::float32, w, out.dim(0),
                    call.product_bias == nullptr || call.bias_padded ? w.padded_n : w.n);

  std::byte* scratch = nullptr;
  if (copied || !direct) scratch = rt.workspace(x_bytes + (direct ? 0 : parts.bytes()));
  GemmOperand x{rows.data, w.dtype, rows.row_stride, false};
  if (copied) {
    convert(rt, rows, scratch, w.dtype, rows.rows, w.padded_k);
    x = {scratch, w.dtype, w.padded_k, false};
  }
  bool pending = direct;
  const auto library = [&] {
    pending = direct;
    if (direct)
      linear_direct(rt, x, w, call.product_bias, out);
    else
      parts.run(rt, x, w, call.product_bias, scratch + x_bytes, call.bias, call.act, out);
    return true;
  };
  if (w.dtype != DType::bfloat16 || (call.whole_bias.defined() && call.whole_bias.dtype() != DType::float32)) {
    library();
    return pending;
  }
  const auto* bias = pointer<const float>(call.whole_bias);
  std::vector<Way> ways{{kLibraryWay, library}};
  if (skinny_fits(w, rows.rows)) {
    const auto skinny = [&] {
      pending = false;
      const Matrix even_rows(static_cast<const std::byte*>(x.data), w.dtype, rows.rows, w.padded_k, x.ld, 1);
      skinny_linear(rt, even_rows, w, bias, call.act, target);
      return true;
    };
    ways.insert(rows.rows <= 8 ? ways.begin() : ways.end(), {kSkinnyWay, skinny});
  }
  const sm90a::Problem problem = own_problem(x, w, bias, target);
  if (rows.rows > kSkinnyRows && out.dtype() == DType::bfloat16) {
    std::vector<Way> own;
    add_own_ways(rt, problem, own);
    for (const Way& way : own)
      ways.push_back({way.number, [&pending, run = way.run] { return pending = true, run(); }});
  }
  const WayKey key{rows.rows,     w.n, w.padded_k, x.ld, w.ld, target.row_stride, static_cast<int64_t>(out.dtype()),
                   direct ? 1 : 0};
  run_fastest(rt, key, worth_timing(rows.rows, w.n, w.padded_k), ways);
  return pending;
}

// ---- matmul

// An operand of matmul on its way to cuBLASLt: as it is, or copied row by row of its memory into scratch.
struct Prepared {
  Matrix stored;  // row-major, or any strides when copied
  bool transposed = false;
  bool copied = false;
  int64_t rows = 0, columns = 0;  // of the copy, padded

  // `depth_rows`: the dimension that is summed over is the rows of the matrix.
  Prepared(const Matrix& matrix, DType compute, bool pad_depth, bool depth_rows) : stored(matrix) {
    if (!matrix.row_major() && matrix.transposed().row_major()) {
      stored = matrix.transposed();
      transposed = true;
      depth_rows = !depth_rows;
    }
    copied = stored.dtype != compute || !stored.row_major() || (compute == DType::bfloat16 && !stored.aligned()) ||
             pad_depth;
    const int64_t lanes = lanes_of(compute);
    rows = depth_rows && pad_depth ? round_up(stored.rows, lanes) : stored.rows;
    columns = round_up(stored.columns, lanes);
  }
  size_t bytes(DType compute) const { return copied ? bytes_of(rows * columns, compute) : 0; }
  GemmOperand operand(const Runtime& rt, std::byte* scratch, DType compute) const {
    if (!copied) return {stored.data, compute, stored.row_stride, transposed};
    convert(rt, stored, scratch, compute, rows, columns);
    return {scratch, compute, columns, transposed};
  }
};

// out (+)= a b; `out` is row-major, float32, or bfloat16 where nothing is added to it.
void multiply(const Runtime& rt, const Matrix& a, const Matrix& b, const Matrix& out, bool accumulate, DType compute) {
  const auto size = static_cast<int64_t>(size_of(out.dtype));
  auto* target = const_cast<std::byte*>(out.data);
  if (a.columns == 0) {
    if (accumulate) return;
    return check(cudaMemset2DAsync(target, static_cast<size_t>(out.row_stride * size), 0,
                                   static_cast<size_t>(out.columns * size), static_cast<size_t>(out.rows), rt.stream()),
                 "cudaMemset2DAsync");
  }
  const int64_t lanes = lanes_of(compute);
  const bool pad = compute == DType::bfloat16 && a.columns % lanes != 0;
  const Prepared first(a, compute, pad, false), second(b, compute, pad, true);
  // cuBLASLt rounds to bfloat16 by itself, but not what it summed from float32, and not fast into odd rows.
  const bool narrow = out.dtype == DType::bfloat16;
  const bool direct = !narrow || (compute == DType::bfloat16 && out.aligned() && out.columns % lanes == 0);
  const DType result = narrow && compute == DType::bfloat16 ? DType::bfloat16 : DType::float32;
  const int64_t stride = direct ? out.row_stride : round_up(out.columns, lanes_of(result));
  const size_t operands = first.bytes(compute) + second.bytes(compute);
  const size_t bytes = operands + (direct ? 0 : bytes_of(out.rows * stride, result));
  std::byte* scratch = bytes > 0 ? rt.workspace(bytes) : nullptr;
  GemmCall call;
  call.m = a.rows;
  call.n = b.columns;
  call.k = pad ? round_up(a.columns, lanes) : a.columns;
  call.a = first.operand(rt, scratch, compute);
  call.b = second.operand(rt, scratch + first.bytes(compute), compute);
  call.out = direct ? target : scratch + operands;
  call.out_dtype = result;
  call.ldo = stride;
  call.accumulate = accumulate;
  gemm(rt, call);
  if (!direct) finish(rt, call.out, result, stride, nullptr, Activation::none, out);
}

}  // namespace

void read_all(const Runtime& rt, const void* memory, size_t bytes) {
  launch(rt, "read_words", read_words, dim3(static_cast<unsigned>(4 * rt.multiprocessors())), dim3(512), 0,
         static_cast<const uint4*>(memory), static_cast<int64_t>(bytes / 16),
         static_cast<uint32_t*>(const_cast<void*>(memory)));
}

void CudaKernels::linear(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, Activation act,
                         const Tensor& out) const {
  const auto& w = static_cast<const CudaPackedMatrix&>(weight);
  if (out.numel() == 0) return;
  if (w.k == 0) return finish(rt_, nullptr, DType::float32, 0, pointer<const float>(bias), act, Matrix(out));
  LinearCall call{x, w, bias, bias, act, out};
  if (call.same_type() && bias.defined()) {
    if (out.dtype() == DType::bfloat16)
      call.product_bias = exact_bias(runtime_, w, bias);
    else
      call.product_bias = bias.raw();
    if (call.product_bias != nullptr) call.bias = Tensor();
    call.bias_padded = out.dtype() == DType::bfloat16;
  }
  if (run_linear(rt_, call) && act != Activation::none) activation(act, out, out);
}

void CudaKernels::linear_rounded(const Tensor& x, const PackedMatrix& weight, const Tensor& bias,
                                 const Tensor& out) const {
  const auto& w = static_cast<const CudaPackedMatrix&>(weight);
  if (out.dtype() != DType::bfloat16 || w.dtype != DType::bfloat16 || w.k == 0)
    return Kernels::linear_rounded(x, weight, bias, out);
  if (out.numel() == 0) return;
  LinearCall call{x, w, bias, {}, Activation::none, out};
  if (bias.defined()) call.product_bias = bias.raw();
  run_linear(rt_, call);
}

void CudaKernels::matmul(const Tensor& a, const Tensor& b, const Tensor& out, bool accumulate, DType compute) const {
  if (out.numel() == 0) return;
  const bool narrow = compute == DType::bfloat16 || (a.dtype() == DType::bfloat16 && b.dtype() == DType::bfloat16);
  const DType dtype = narrow ? DType::bfloat16 : DType::float32;
  const Matrix left(a), right(b), target(out);
  if (target.row_major()) return multiply(rt_, left, right, target, accumulate, dtype);
  if (target.transposed().row_major())
    return multiply(rt_, right.transposed(), left.transposed(), target.transposed(), accumulate, dtype);
  // An output of any other strides, or one that is summed into: the product first.
  const size_t bytes = bytes_of(out.numel(), DType::float32);
  const StreamBytes product(runtime_, bytes);
  const Matrix dense(product.data(), DType::float32, out.dim(0), out.dim(1), out.dim(1), 1);
  multiply(rt_, left, right, dense, false, dtype);
  const auto storage = std::make_shared<Storage>(product.data(), bytes, Storage::Release(), false, memory());
  const Tensor values(storage, 0, out.shape(), DType::float32);
  if (accumulate)
    this->accumulate(values, out);
  else
    copy(values, out);
}

void CudaKernels::matmul_into(const Tensor& a, const Tensor& b, const Gradient& out, DType compute) const {
  if (!out.wanted()) return;
  matmul(a, b, out.at, !out.fresh, compute);
}

double CudaKernels::ceiling_flops(DType dtype) const {
  constexpr int64_t kSize = 8192;
  const StreamBytes memory(runtime_, 3 * static_cast<size_t>(kSize * kSize) * size_of(dtype));
  const size_t bytes = static_cast<size_t>(kSize * kSize) * size_of(dtype);
  with_type(dtype, [&]<class T>(Type<T>) {
    for (uint32_t i = 0; i < 2; ++i)
      launch(rt_, "fill_random", fill_random<T>, dim3(1024), dim3(256), 0,
             reinterpret_cast<T*>(memory.data() + i * bytes), kSize * kSize, 17u + i);
  });
  GemmCall call;
  call.m = call.n = call.k = kSize;
  call.a = {memory.data(), dtype, kSize, false};
  call.b = {memory.data() + bytes, dtype, kSize, true};
  call.out = memory.data() + 2 * bytes;
  call.out_dtype = dtype;
  call.ldo = kSize;
  gemm(rt_, call);  // chooses the algorithm

  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  const int repeats = dtype == DType::bfloat16 ? 100 : 8;
  check(cudaEventRecord(begin, rt_.stream()), "cudaEventRecord");
  for (int i = 0; i < repeats; ++i) gemm(rt_, call);
  check(cudaEventRecord(end, rt_.stream()), "cudaEventRecord");
  check(cudaEventSynchronize(end), "ceiling_flops");
  float milliseconds = 0.0f;
  check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
  check(cudaEventDestroy(begin), "cudaEventDestroy");
  check(cudaEventDestroy(end), "cudaEventDestroy");
  return 2.0 * kSize * kSize * kSize * repeats / (1e-3 * milliseconds);
}

}  // namespace raedit::backend::cuda
