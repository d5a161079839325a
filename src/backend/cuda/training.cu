// A training step without the host: the flow-matching pair, its loss, the norm of all gradients and one pass over all
// parameters. Every product, sum, quotient and root is rounded on its own, as on the CPU. Source of the formulas:
// backend/kernels.h.
#include <algorithm>

#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/double_sum.cuh"
#include "backend/cuda/gemm.h"
#include "backend/cuda/walk.h"

namespace raedit::backend::cuda {
namespace {

// ---- sums in float64, in one fixed order

__device__ inline double sum_of_all(const double* sums, int64_t count) {
  double sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += sums[i];
  return block_sum_double(sum);
}

// ---- flow matching; blockIdx.y is the picture

__global__ void __launch_bounds__(kThreads) flow_matching_kernel(int64_t each, const float* latents, const float* noise,
                                                                 const float* sigmas, float* noisy, float* target) {
  const float sigma = sigmas[blockIdx.y], rest = __fsub_rn(1.0f, sigma);
  const int64_t begin = blockIdx.y * each, step = static_cast<int64_t>(gridDim.x) * kThreads;
#pragma unroll 4
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < each; i += step) {
    const float z = latents[begin + i], n = noise[begin + i];
    noisy[begin + i] = __fadd_rn(__fmul_rn(sigma, n), __fmul_rn(rest, z));
    target[begin + i] = __fsub_rn(n, z);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    velocity_loss_kernel(int64_t each, float count, float parts, const T* prediction, const float* target,
                         const float* weights, float* gradient, double* sums) {
  const float weight = weights[blockIdx.y];
  const int64_t begin = blockIdx.y * each, step = static_cast<int64_t>(gridDim.x) * kThreads;
  double sum = 0;
#pragma unroll 4
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < each; i += step) {
    const float difference = __fsub_rn(to_float(prediction[begin + i]), target[begin + i]);
    sum += static_cast<double>(weight) * difference * difference;
    gradient[begin + i] = __fdiv_rn(__fdiv_rn(__fmul_rn(__fmul_rn(2.0f, weight), difference), count), parts);
  }
  sum = block_sum_double(sum);
  if (threadIdx.x == 0) sums[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    add_loss_kernel(const double* sums, int64_t blocks, double count, double parts, double* loss) {
  const double sum = sum_of_all(sums, blocks);
  if (threadIdx.x == 0) *loss += sum / count / parts;
}

dim3 picture_blocks(int64_t each, int64_t pictures) {
  // The number of blocks is part of the order of the sum: it must not depend on the device.
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(ceil_div(each, kThreads * 4), 1, 64)),
              static_cast<unsigned>(pictures));
}

// ---- all parameters at once

struct Entry {
  const float* grad;
  float *param, *exp_avg, *exp_avg_sq, *average;
  bf16* rounded;
  int64_t numel;
  int vectors;  // all of them on 16-byte addresses
};

// A piece of an entry: the work of one block.
struct Piece {
  int entry;
  int64_t first;
};
constexpr int64_t kPieceElements = 32768;

class CudaTrainedSet final : public TrainedSet {
 public:
  CudaTrainedSet(std::vector<Trained> all, const std::shared_ptr<const Runtime>& runtime, const DeviceMemory& memory)
      : TrainedSet(std::move(all)) {
    std::vector<Entry> entries;
    std::vector<Piece> pieces;
    for (const Trained& t : tensors) {
      uintptr_t bits = 0;
      for (const Tensor* tensor : {&t.grad, &t.param, &t.exp_avg, &t.exp_avg_sq, &t.average, &t.rounded})
        if (tensor->defined()) bits |= reinterpret_cast<uintptr_t>(tensor->raw());
      for (int64_t first = 0; first < t.param.numel(); first += kPieceElements)
        pieces.push_back({static_cast<int>(entries.size()), first});
      entries.push_back({pointer<const float>(t.grad), pointer<float>(t.param), pointer<float>(t.exp_avg),
                         pointer<float>(t.exp_avg_sq), pointer<float>(t.average), pointer<bf16>(t.rounded),
                         t.param.numel(), bits % 16 == 0 ? 1 : 0});
    }
    count_ = static_cast<int64_t>(pieces.size());
    const size_t entry_bytes = entries.size() * sizeof(Entry), piece_bytes = pieces.size() * sizeof(Piece);
    entries_ = std::make_unique<StreamBytes>(runtime, entry_bytes);
    pieces_ = std::make_unique<StreamBytes>(runtime, piece_bytes);
    sums_ = std::make_unique<StreamBytes>(runtime, pieces.size() * sizeof(double));
    if (count_ == 0) return;
    memory.from_host(entries_->data(), entries.data(), entry_bytes);
    memory.from_host(pieces_->data(), pieces.data(), piece_bytes);
  }

  int64_t count() const { return count_; }
  const Entry* entries() const { return reinterpret_cast<const Entry*>(entries_->data()); }
  const Piece* pieces() const { return reinterpret_cast<const Piece*>(pieces_->data()); }
  double* sums() const { return reinterpret_cast<double*>(sums_->data()); }

 private:
  int64_t count_ = 0;
  std::unique_ptr<StreamBytes> entries_, pieces_, sums_;
};

__global__ void __launch_bounds__(kThreads)
    square_sums_kernel(const Entry* entries, const Piece* pieces, double* sums) {
  const Piece piece = pieces[blockIdx.x];
  const Entry entry = entries[piece.entry];
  const int64_t end = min(entry.numel, piece.first + kPieceElements);
  const auto square = [](double sum, float x) { return fma(static_cast<double>(x), static_cast<double>(x), sum); };
  double sum = 0;
  int64_t done = piece.first;
  if (entry.vectors) {
    const int64_t packs = (end - piece.first) / 4;
    const auto* from = reinterpret_cast<const float4*>(entry.grad + piece.first);
#pragma unroll 8
    for (int64_t i = threadIdx.x; i < packs; i += kThreads) {
      const float4 x = from[i];
      sum = square(square(square(square(sum, x.x), x.y), x.z), x.w);
    }
    done += packs * 4;
  }
  for (int64_t i = done + threadIdx.x; i < end; i += kThreads) sum = square(sum, entry.grad[i]);
  sum = block_sum_double(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) norm_kernel(const double* sums, int64_t count, double* state) {
  const double sum = sum_of_all(sums, count);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum);
  state[1] = norm;
  state[2] = isfinite(state[0]) && isfinite(norm) ? 1.0 : 0.0;
}

struct Averaging {
  float decay, rest;
};

__device__ __forceinline__ void step_element(const AdamWStep& s, const Averaging& ema, float grad, float& p, float& m,
                                             float& v, float& average) {
  const float g = __fmul_rn(grad, s.grad_scale);
  m = __fadd_rn(m, __fmul_rn(__fsub_rn(g, m), s.one_minus_beta1));
  v = __fadd_rn(__fmul_rn(v, s.beta2), __fmul_rn(__fmul_rn(g, g), s.one_minus_beta2));
  const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), s.root), s.eps);
  p = __fsub_rn(__fmul_rn(p, s.decay), __fmul_rn(s.step_size, __fdiv_rn(m, denominator)));
  average = __fadd_rn(__fmul_rn(average, ema.decay), __fmul_rn(p, ema.rest));
}

__device__ __forceinline__ void step_pack(const AdamWStep& s, const Averaging& ema, const Entry& entry, int64_t at) {
  const float4 g = *reinterpret_cast<const float4*>(entry.grad + at);
  float4 p = *reinterpret_cast<const float4*>(entry.param + at);
  float4 m = *reinterpret_cast<const float4*>(entry.exp_avg + at);
  float4 v = *reinterpret_cast<const float4*>(entry.exp_avg_sq + at);
  float4 a{};
  if (entry.average != nullptr) a = *reinterpret_cast<const float4*>(entry.average + at);
  step_element(s, ema, g.x, p.x, m.x, v.x, a.x);
  step_element(s, ema, g.y, p.y, m.y, v.y, a.y);
  step_element(s, ema, g.z, p.z, m.z, v.z, a.z);
  step_element(s, ema, g.w, p.w, m.w, v.w, a.w);
  *reinterpret_cast<float4*>(entry.param + at) = p;
  *reinterpret_cast<float4*>(entry.exp_avg + at) = m;
  *reinterpret_cast<float4*>(entry.exp_avg_sq + at) = v;
  if (entry.average != nullptr) *reinterpret_cast<float4*>(entry.average + at) = a;
  if (entry.rounded != nullptr) {
    const Pack<bf16, 4> half{from_float<bf16>(p.x), from_float<bf16>(p.y), from_float<bf16>(p.z),
                             from_float<bf16>(p.w)};
    *reinterpret_cast<Pack<bf16, 4>*>(entry.rounded + at) = half;
  }
}

__global__ void __launch_bounds__(kThreads)
    update_kernel(const Entry* entries, const Piece* pieces, const double* state, double max_norm, const float* numbers,
                  Averaging ema) {
  if (state[2] == 0.0) return;
  AdamWStep s;
  s.grad_scale = max_norm > 0 ? static_cast<float>(fmin(1.0, max_norm / (state[1] + 1e-6))) : 1.0f;
  s.decay = numbers[1];
  s.one_minus_beta1 = numbers[2];
  s.beta2 = numbers[3];
  s.one_minus_beta2 = numbers[4];
  s.step_size = numbers[5];
  s.root = numbers[6];
  s.eps = numbers[7];
  const Piece piece = pieces[blockIdx.x];
  const Entry entry = entries[piece.entry];
  const int64_t end = min(entry.numel, piece.first + kPieceElements);
  int64_t done = piece.first;
  if (entry.vectors) {
    const int64_t packs = (end - piece.first) / 4;
#pragma unroll 2
    for (int64_t i = threadIdx.x; i < packs; i += kThreads) step_pack(s, ema, entry, piece.first + i * 4);
    done += packs * 4;
  }
  for (int64_t i = done + threadIdx.x; i < end; i += kThreads) {
    float p = entry.param[i], average = entry.average != nullptr ? entry.average[i] : 0.0f;
    step_element(s, ema, entry.grad[i], p, entry.exp_avg[i], entry.exp_avg_sq[i], average);
    entry.param[i] = p;
    if (entry.average != nullptr) entry.average[i] = average;
    if (entry.rounded != nullptr) entry.rounded[i] = from_float<bf16>(p);
  }
}

}  // namespace

void CudaKernels::flow_matching(const Tensor& latents, const Tensor& noise, const Tensor& sigmas, const Tensor& noisy,
                                const Tensor& target) const {
  if (latents.numel() == 0) return;
  const int64_t pictures = latents.dim(0), each = latents.numel() / pictures;
  launch(rt_, "flow_matching", flow_matching_kernel, picture_blocks(each, pictures), dim3(kThreads), 0, each,
         latents.data<float>(), noise.data<float>(), sigmas.data<float>(), noisy.data<float>(), target.data<float>());
}

void CudaKernels::velocity_loss(const Tensor& prediction, const Tensor& target, const Tensor& weights, int64_t parts,
                                const Tensor& gradient, const Tensor& loss) const {
  if (prediction.numel() == 0) return;
  const int64_t pictures = prediction.dim(0), count = prediction.numel(), each = count / pictures;
  const dim3 blocks = picture_blocks(each, pictures);
  const int64_t all = static_cast<int64_t>(blocks.x) * blocks.y;
  auto* sums = reinterpret_cast<double*>(rt_.workspace(static_cast<size_t>(all) * sizeof(double)));
  with_type(prediction.dtype(), [&]<class T>(Type<T>) {
    launch(rt_, "velocity_loss", velocity_loss_kernel<T>, blocks, dim3(kThreads), 0, each, static_cast<float>(count),
           static_cast<float>(parts), pointer<const T>(prediction), target.data<float>(), weights.data<float>(),
           gradient.data<float>(), sums);
  });
  launch(rt_, "add_loss", add_loss_kernel, dim3(1), dim3(kThreads), 0, sums, all, static_cast<double>(count),
         static_cast<double>(parts), loss.data<double>());
}

Tensor CudaKernels::scratch(const Shape& shape) const {
  const size_t bytes = static_cast<size_t>(shape.numel()) * sizeof(float);
  auto block = std::make_shared<StreamBytes>(runtime_, bytes);
  std::byte* data = block->data();
  const auto storage = std::make_shared<Storage>(
      data, bytes, [block](std::byte*, size_t) {}, false, memory_);
  const Tensor zeros(storage, 0, shape, DType::float32);
  fill_zero(zeros);
  return zeros;
}

std::shared_ptr<const TrainedSet> CudaKernels::trained_set(std::vector<Trained> tensors) const {
  return std::make_shared<CudaTrainedSet>(std::move(tensors), runtime_, *memory_);
}

void CudaKernels::gradient_norm(const TrainedSet& set, const Tensor& state) const {
  const auto& all = static_cast<const CudaTrainedSet&>(set);
  launch(rt_, "gradient_norm", square_sums_kernel, dim3(static_cast<unsigned>(all.count())), dim3(kThreads), 0,
         all.entries(), all.pieces(), all.sums());
  launch(rt_, "gradient_norm", norm_kernel, dim3(1), dim3(kThreads), 0, all.sums(), all.count(), state.data<double>());
}

void CudaKernels::update(const TrainedSet& set, const Tensor& state, double max_norm, const Tensor& numbers,
                         float ema_decay) const {
  const auto& all = static_cast<const CudaTrainedSet&>(set);
  launch(rt_, "update", update_kernel, dim3(static_cast<unsigned>(all.count())), dim3(kThreads), 0, all.entries(),
         all.pieces(), state.data<double>(), max_norm, numbers.data<float>(), Averaging{ema_decay, 1.0f - ema_decay});
}

}  // namespace raedit::backend::cuda
