// Attention and its gradients in float32 for every width and mixture of types: products by tiles in shared memory, the
// scores of some heads (or some rows of one) at a time in scratch memory. Formulas: src/backend/cpu/attention.cpp.
// Part of attention.cu.
#pragma once

#include <algorithm>

#include "backend/cuda/attention.cuh"
#include "backend/cuda/dispatch.h"

namespace raedit::backend::cuda {
namespace attention {
namespace {

// One matrix per head, of any strides; `part` is the step between heads of a scratch buffer.
template <class T>
struct MatrixOf {
  T* data;
  int64_t batch, head, part, row, column;

  MatrixOf transposed() const { return {data, batch, head, part, column, row}; }
  __device__ T* of(int64_t item, int64_t first, int64_t heads) const {
    const int64_t at = first + item;
    return data + at / heads * batch + at % heads * head + item * part;
  }
};

struct ProductShape {
  int64_t m, n, k, heads, first_head;
  float alpha;
  bool accumulate;
};

constexpr int kProductTile = 64, kProductDepth = 16, kProductThreads = 256;

// What a thread brings of each tile of one side: neighbouring threads read neighbours, whichever way they lie.
template <class T>
struct ProductLoader {
  static constexpr int kEach = kProductTile * kProductDepth / kProductThreads;
  const T* at;
  int64_t step, tile;  // to the thread's next element, to the next tile
  int row, depth, row_step, depth_step;
  int64_t rows;  // that there are, from the first one of the tile on
  float values[kEach];

  __device__ ProductLoader(const T* matrix, int64_t row_stride, int64_t depth_stride, int64_t first_row,
                           int64_t row_count) {
    const int thread = static_cast<int>(threadIdx.x);
    const bool along_depth = depth_stride == 1;
    row = along_depth ? thread / kProductDepth : thread % kProductTile;
    depth = along_depth ? thread % kProductDepth : thread / kProductTile;
    row_step = along_depth ? kProductThreads / kProductDepth : 0;
    depth_step = along_depth ? 0 : kProductThreads / kProductTile;
    at = matrix + (first_row + row) * row_stride + depth * depth_stride;
    step = row_step * row_stride + depth_step * depth_stride;
    tile = kProductDepth * depth_stride;
    rows = row_count - first_row;
  }
  // The next tile, of which `depths` are left; zeros outside.
  __device__ void fetch(int64_t depths) {
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      values[i] = row + i * row_step < rows && depth + i * depth_step < depths ? to_float(at[i * step]) : 0.0f;
    at += tile;
  }
  __device__ void put(float (&to)[kProductDepth][kProductTile + 4]) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) to[depth + i * depth_step][row + i * row_step] = values[i];
  }
};

// c (+)= alpha * a * b per head; each sum in the order of k. Columns of c are neighbours.
template <class TA, class TB, class TC>
__global__ void __launch_bounds__(kProductThreads, 2)
    product_kernel(MatrixOf<const TA> a, MatrixOf<const TB> b, MatrixOf<TC> c, ProductShape shape) {
  __shared__ __align__(16) float left[kProductDepth][kProductTile + 4], right[kProductDepth][kProductTile + 4];
  const int64_t columns = (shape.n + kProductTile - 1) / kProductTile;
  const int64_t first_row = blockIdx.x / columns * kProductTile, first_column = blockIdx.x % columns * kProductTile;
  ProductLoader<TA> from_a(a.of(blockIdx.y, shape.first_head, shape.heads), a.row, a.column, first_row, shape.m);
  ProductLoader<TB> from_b(b.of(blockIdx.y, shape.first_head, shape.heads), b.column, b.row, first_column, shape.n);
  const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
  float sums[4][4];
  clear(sums);
  from_a.fetch(shape.k);
  from_b.fetch(shape.k);
  for (int64_t depth = 0; depth < shape.k; depth += kProductDepth) {
    from_a.put(left);
    from_b.put(right);
    __syncthreads();
    if (depth + kProductDepth < shape.k) {
      from_a.fetch(shape.k - depth - kProductDepth);
      from_b.fetch(shape.k - depth - kProductDepth);
    }
#pragma unroll
    for (int d = 0; d < kProductDepth; ++d) {
      const auto x = *reinterpret_cast<const float4*>(&left[d][row]);
      const auto y = *reinterpret_cast<const float4*>(&right[d][column]);
      const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(xs[i], ys[j], sums[i][j]);
    }
    __syncthreads();
  }
  TC* to = c.of(blockIdx.y, shape.first_head, shape.heads) + (first_row + row) * c.row + first_column + column;
  const auto rows_left = shape.m - first_row - row, columns_left = shape.n - first_column - column;
#pragma unroll
  for (int i = 0; i < 4; ++i, to += c.row) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i >= rows_left || j >= columns_left) continue;
      const float value = shape.alpha * sums[i][j];
      to[j] = from_float<TC>(shape.accumulate ? to_float(to[j]) + value : value);
    }
  }
}

// Logits become probabilities, one warp per row.
__global__ void softmax_kernel(float* scores, int64_t rows, int64_t keys) {
  const int64_t at = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (at >= rows) return;
  float* const row = scores + at * keys;
  const int lane = threadIdx.x % 32;
  float largest = -INFINITY, sum = 0.0f;
  for (int64_t j = lane; j < keys; j += 32) largest = fmaxf(largest, row[j]);
  largest = warp_max(largest);
  for (int64_t j = lane; j < keys; j += 32) sum += row[j] = expf(row[j] - largest);
  const float inverse = 1.0f / warp_sum(sum);
  for (int64_t j = lane; j < keys; j += 32) row[j] *= inverse;
}

// dp becomes ds = p * (dp - sum of p dp) * scale.
__global__ void softmax_backward_kernel(const float* p, float* dp, int64_t rows, int64_t keys, float scale) {
  const int64_t at = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (at >= rows) return;
  const float* const probability = p + at * keys;
  float* const row = dp + at * keys;
  const int lane = threadIdx.x % 32;
  float mean = 0.0f;
  for (int64_t j = lane; j < keys; j += 32) mean += probability[j] * row[j];
  mean = warp_sum(mean);
  for (int64_t j = lane; j < keys; j += 32) row[j] = probability[j] * (row[j] - mean) * scale;
}

template <class T>
MatrixOf<T> matrix_of(const Tensor& t, int64_t first_row) {
  return {pointer<T>(t) + first_row * t.stride(1), t.stride(0), t.stride(2), 0, t.stride(1), 1};
}
MatrixOf<float> matrix_of(const GradientView& g, int64_t first_row) {
  return {g.data + first_row * g.row, g.batch, g.head, 0, g.row, 1};
}
// Heads [first_head, first_head + count), or rows [first_row, first_row + rows) of one.
struct PlainPart {
  int64_t first_head, count, first_row, rows;
};
// Scratch memory for scores; a launch takes up to 65535 heads.
constexpr int64_t kMostScores = int64_t{1} << 26, kMostHeads = 65535;

int64_t rows_at_once(int64_t n, int64_t keys) {
  return std::clamp<int64_t>(kMostScores / keys, 1, n);
}
int64_t heads_at_once(int64_t n, int64_t keys, int64_t heads) {
  return std::clamp<int64_t>(kMostScores / (n * keys), 1, std::min(heads, kMostHeads));
}
size_t plain_scores_bytes(const Tensor& q, const Tensor& k) {
  const int64_t n = q.dim(1), keys = k.dim(1);
  const int64_t scores = heads_at_once(n, keys, q.dim(0) * q.dim(2)) * rows_at_once(n, keys) * keys;
  return static_cast<size_t>(ceil_div(scores, 64) * 64) * sizeof(float);
}

template <class F>
void for_each_part(const Tensor& q, const Tensor& k, const F& f) {
  const int64_t n = q.dim(1), heads = q.dim(0) * q.dim(2), step = heads_at_once(n, k.dim(1), heads);
  const int64_t rows = rows_at_once(n, k.dim(1));
  for (int64_t head = 0; head < heads; head += step)
    for (int64_t row = 0; row < n; row += rows)
      f(PlainPart{head, std::min(step, heads - head), row, std::min(rows, n - row)});
}

template <class TA, class TB, class TC>
void product(const Runtime& rt, const MatrixOf<TA>& a, const MatrixOf<TB>& b, const MatrixOf<TC>& c,
             const ProductShape& shape, int64_t count) {
  using A = std::remove_const_t<TA>;
  using B = std::remove_const_t<TB>;
  const int64_t tiles = ceil_div(shape.m, kProductTile) * ceil_div(shape.n, kProductTile);
  launch(rt, "attention, product", product_kernel<A, B, TC>,
         dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(count)), dim3(kProductThreads), 0,
         MatrixOf<const A>{a.data, a.batch, a.head, a.part, a.row, a.column},
         MatrixOf<const B>{b.data, b.batch, b.head, b.part, b.row, b.column}, c, shape);
}

// scores[count][rows][keys] = softmax(q k^T * scale)
MatrixOf<float> probabilities(const Runtime& rt, const Tensor& q, const Tensor& k, float scale, const PlainPart& part,
                              float* scores) {
  const int64_t keys = k.dim(1), rows = part.count * part.rows;
  const MatrixOf<float> matrix{scores, 0, 0, part.rows * keys, keys, 1};
  const ProductShape shape{part.rows, keys, q.dim(3), q.dim(2), part.first_head, scale, false};
  with_type(q.dtype(), [&](auto tq) {
    with_type(k.dtype(), [&](auto tk) {
      product(rt, matrix_of<const typename decltype(tq)::type>(q, part.first_row),
              matrix_of<const typename decltype(tk)::type>(k, 0).transposed(), matrix, shape, part.count);
    });
  });
  launch(rt, "attention, softmax", softmax_kernel, dim3(static_cast<unsigned>(ceil_div(rows, 4))), dim3(128), 0, scores,
         rows, keys);
  return matrix;
}

// target += a * b per head, where b is an operand.
template <class T>
void add_product(const Runtime& rt, const MatrixOf<float>& a, const Tensor& b, int64_t b_row, const MatrixOf<T>& target,
                 const ProductShape& shape, int64_t count) {
  with_type(b.dtype(), [&](auto type) {
    product(rt, a, matrix_of<const typename decltype(type)::type>(b, b_row), target, shape, count);
  });
}

}  // namespace
}  // namespace attention

void attention_plain(const Runtime& rt, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                     const Tensor& out) {
  using namespace attention;
  auto* const scores = reinterpret_cast<float*>(rt.workspace(plain_scores_bytes(q, k)));
  for_each_part(q, k, [&](const PlainPart& part) {
    const MatrixOf<float> p = probabilities(rt, q, k, scale, part, scores);
    const ProductShape shape{part.rows, q.dim(3), k.dim(1), q.dim(2), part.first_head, 1.0f, false};
    with_type(out.dtype(), [&](auto type) {
      using T = typename decltype(type)::type;
      add_product(rt, p, v, 0, matrix_of<T>(out, part.first_row), shape, part.count);
    });
  });
}

size_t plain_backward_bytes(const Tensor& q, const Tensor& k) {
  return 2 * attention::plain_scores_bytes(q, k);
}

void attention_backward_plain(const Runtime& rt, const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                              float scale, const GradientView& dq, const GradientView& dk, const GradientView& dv,
                              std::byte* scratch) {
  using namespace attention;
  const int64_t keys = k.dim(1), width = q.dim(3), heads = q.dim(2);
  auto* const scores = reinterpret_cast<float*>(scratch);
  auto* const dscores = reinterpret_cast<float*>(scratch + plain_scores_bytes(q, k));
  for_each_part(q, k, [&](const PlainPart& part) {
    const MatrixOf<float> p = probabilities(rt, q, k, scale, part, scores);
    MatrixOf<float> ds = p;
    ds.data = dscores;
    const auto shape = [&](int64_t m, int64_t n, int64_t depth, bool accumulate) {
      return ProductShape{m, n, depth, heads, part.first_head, 1.0f, accumulate};
    };
    const auto douts = matrix_of<const float>(dout, part.first_row);
    if (dv.data != nullptr)
      product(rt, p.transposed(), douts, matrix_of(dv, 0), shape(keys, width, part.rows, true), part.count);
    if (dq.data == nullptr && dk.data == nullptr) return;
    with_type(v.dtype(), [&](auto type) {
      product(rt, douts, matrix_of<const typename decltype(type)::type>(v, 0).transposed(), ds,
              shape(part.rows, keys, width, false), part.count);
    });
    const int64_t rows = part.count * part.rows;
    launch(rt, "attention_backward, softmax", softmax_backward_kernel, dim3(static_cast<unsigned>(ceil_div(rows, 4))),
           dim3(128), 0, scores, dscores, rows, keys, scale);
    if (dq.data != nullptr)
      add_product(rt, ds, k, 0, matrix_of(dq, part.first_row), shape(part.rows, width, keys, true), part.count);
    if (dk.data != nullptr)
      add_product(rt, ds.transposed(), q, part.first_row, matrix_of(dk, 0), shape(keys, width, part.rows, true),
                  part.count);
  });
}

}  // namespace raedit::backend::cuda
