// softmax(q k^T * scale) v in float32, one head of one picture at a time, on the tiles of the matrix product: keys and
// values are packed like weights, scores of a few query rows stay in the first-level cache, and no row depends on
// another. What is bfloat16 goes to attention_dot.cpp where it can.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/attention_dot.h"
#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/gemm.h"

namespace raedit::backend::cpu {
namespace {

// The rows of one head, as float32.
struct Head {
  const float* f32 = nullptr;
  const bfloat16* bf16 = nullptr;
  int64_t stride;

  Head(const Tensor& t, int64_t b, int64_t h) : stride(t.stride(1)) {
    const int64_t offset = b * t.stride(0) + h * t.stride(2);
    if (t.dtype() == DType::bfloat16)
      bf16 = t.data<bfloat16>() + offset;
    else
      f32 = t.data<float>() + offset;
  }

  void row(int64_t i, int64_t width, float* out) const {
    if (f32 != nullptr) {
      std::copy_n(f32 + i * stride, width, out);
    } else {
      for (int64_t c = 0; c < width; ++c) out[c] = static_cast<float>(bf16[i * stride + c]);
    }
  }
};

// A gradient's rows of one head; null where none is wanted.
struct HeadGradient {
  float* data = nullptr;
  int64_t stride = 0;

  HeadGradient(const Tensor& t, int64_t b, int64_t h) {
    if (!t.defined()) return;
    data = t.data<float>() + b * t.stride(0) + h * t.stride(2);
    stride = t.stride(1);
  }

  void add(int64_t i, int64_t width, const float* row) const {
    if (data == nullptr) return;
    for (int64_t c = 0; c < width; ++c) data[i * stride + c] += row[c];
  }
};

// What one thread needs for one head; sizes in elements of float32.
struct Workspace {
  int64_t nk, dh;
  int64_t padded_keys;   // nk up to a whole tile
  int64_t padded_width;  // dh up to a whole tile
  std::vector<float> q, row, keys, values, scores, sums;

  Workspace(int64_t key_count, int64_t width)
      : nk(key_count),
        dh(width),
        padded_keys(round_up(key_count, kTileColumns)),
        padded_width(round_up(width, kTileColumns)),
        q(static_cast<size_t>(kTileRows * width)),
        row(static_cast<size_t>(width)),
        keys(static_cast<size_t>(padded_keys * width)),
        values(static_cast<size_t>(padded_width * key_count)),
        scores(static_cast<size_t>(kTileRows * padded_keys)),
        sums(static_cast<size_t>(kTileRows * kTileColumns)) {}

  // keys: panels of 16 keys, [Dh][16] each. values: panels of 16 channels, [Nk][16] each.
  void pack(const Head& k, const Head& v) {
    for (int64_t j = 0; j < nk; ++j) {
      k.row(j, dh, row.data());
      float* panel = keys.data() + j / kPanel * kPanel * dh + j % kPanel;
      for (int64_t c = 0; c < dh; ++c) panel[c * kPanel] = row[static_cast<size_t>(c)];
      v.row(j, dh, row.data());
      for (int64_t c = 0; c < dh; ++c)
        values[static_cast<size_t>(c / kPanel * kPanel * nk + j * kPanel + c % kPanel)] = row[static_cast<size_t>(c)];
    }
  }

  // scores[rows][padded_keys] = softmax(q k^T * scale)
  void probabilities(const Head& query, int64_t first, int64_t rows, float scale) {
    for (int64_t r = 0; r < rows; ++r) query.row(first + r, dh, q.data() + r * dh);
    for (int64_t j = 0; j < padded_keys; j += kTileColumns) {
      tile_f32(rows, q.data(), dh, keys.data() + j * dh, kPanel * dh, dh, sums.data(), false);
      for (int64_t r = 0; r < rows; ++r)
        std::copy_n(sums.data() + r * kTileColumns, kTileColumns, scores.data() + r * padded_keys + j);
    }
    for (int64_t r = 0; r < rows; ++r) softmax_row(scores.data() + r * padded_keys, nk, padded_keys, scale);
  }

  void weighted_values(int64_t first, int64_t rows, const Tensor& out, int64_t b, int64_t h) {
    const int64_t at = b * out.stride(0) + first * out.stride(1) + h * out.stride(2);
    for (int64_t c = 0; c < dh; c += kTileColumns) {
      for (int64_t j = 0; j < nk; j += kBlockK)
        tile_f32(rows, scores.data() + j, padded_keys, values.data() + c * nk + j * kPanel, kPanel * nk,
                 std::min(kBlockK, nk - j), sums.data(), j != 0);
      const auto size = static_cast<int64_t>(size_of(out.dtype()));
      store_tile(sums.data(), rows, std::min(kTileColumns, dh - c), nullptr, out.raw() + (at + c) * size, out.stride(1),
                 out.dtype());
    }
  }
};

}  // namespace

void CpuKernels::attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale, const Tensor& out) const {
  if (fits_dot_attention(q, k, v) && out.dtype() == DType::bfloat16)
    return dot_attention(q, k, v, scale, out, arena_, threads_);
  const int64_t n = q.dim(1);
  const int64_t heads = q.dim(2);
  // Few heads: queries are cut too, so that every thread has work. Rows do not notice.
  const int64_t head_count = q.dim(0) * heads;
  const int64_t cuts = head_count % threads_ == 0 || head_count >= 8 * threads_ ? 1 : threads_;
  const int64_t rows_per_cut = round_up((n + cuts - 1) / cuts, kTileRows);
  // Made before the threads start: an exception must not leave a parallel region.
  std::vector<Workspace> works(static_cast<size_t>(threads_), Workspace(k.dim(1), q.dim(3)));
#pragma omp parallel for num_threads(threads_) schedule(static)
  for (int64_t item = 0; item < head_count * cuts; ++item) {
    Workspace& work = works[static_cast<size_t>(omp_get_thread_num())];
    const int64_t b = item / cuts / heads;
    const int64_t h = item / cuts % heads;
    work.pack(Head(k, b, h), Head(v, b, h));
    const int64_t end = std::min(n, (item % cuts + 1) * rows_per_cut);
    for (int64_t i = item % cuts * rows_per_cut; i < end; i += kTileRows) {
      const int64_t rows = std::min(kTileRows, end - i);
      work.probabilities(Head(q, b, h), i, rows, scale);
      work.weighted_values(i, rows, out, b, h);
    }
  }
}

namespace {

// The backward pass of one head. p = softmax(s), o = p v:  dv = p^T do,  dp = do v^T,  ds = p * (dp - sum_j dp_j p_j),
// dq = ds k * scale,  dk = ds^T q * scale. Plain loops in float32: one thread owns a head, so sums have one order.
struct BackwardWorkspace {
  Workspace forward;
  std::vector<float> keys, values, dkeys, dvalues;  // [Nk][Dh]
  std::vector<float> dp, dout, query, dquery;

  BackwardWorkspace(int64_t nk, int64_t dh)
      : forward(nk, dh),
        keys(static_cast<size_t>(nk * dh)),
        values(keys.size()),
        dkeys(keys.size()),
        dvalues(keys.size()),
        dp(static_cast<size_t>(nk)),
        dout(static_cast<size_t>(dh)),
        query(dout.size()),
        dquery(dout.size()) {}

  void load(const Head& k, const Head& v) {
    forward.pack(k, v);
    for (int64_t j = 0; j < forward.nk; ++j) {
      k.row(j, forward.dh, keys.data() + j * forward.dh);
      v.row(j, forward.dh, values.data() + j * forward.dh);
    }
    std::fill(dkeys.begin(), dkeys.end(), 0.0f);
    std::fill(dvalues.begin(), dvalues.end(), 0.0f);
  }

  void row(int64_t i, const Head& out_gradient, const Head& q, float scale) {
    const int64_t dh = forward.dh;
    forward.probabilities(q, i, 1, scale);
    const float* p = forward.scores.data();
    out_gradient.row(i, dh, dout.data());
    q.row(i, dh, query.data());
    float weighted = 0.0f;
    for (int64_t j = 0; j < forward.nk; ++j) {
      const float* value = values.data() + j * dh;
      float* dvalue = dvalues.data() + j * dh;
      float dot = 0.0f;
      for (int64_t c = 0; c < dh; ++c) {
        dot += dout[static_cast<size_t>(c)] * value[c];
        dvalue[c] += p[j] * dout[static_cast<size_t>(c)];
      }
      dp[static_cast<size_t>(j)] = dot;
      weighted += dot * p[j];
    }
    std::fill(dquery.begin(), dquery.end(), 0.0f);
    for (int64_t j = 0; j < forward.nk; ++j) {
      const float ds = p[j] * (dp[static_cast<size_t>(j)] - weighted) * scale;
      const float* key = keys.data() + j * dh;
      float* dkey = dkeys.data() + j * dh;
      for (int64_t c = 0; c < dh; ++c) {
        dquery[static_cast<size_t>(c)] += ds * key[c];
        dkey[c] += ds * query[static_cast<size_t>(c)];
      }
    }
  }
};

}  // namespace

void CpuKernels::attention_backward_into(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                         float scale, const Gradient& dq, const Gradient& dk,
                                         const Gradient& dv) const {
  if (fits_dot_attention(q, k, v) && dout.dtype() == DType::bfloat16)
    return dot_attention_backward(dout, q, k, v, scale, dq, dk, dv, arena_, threads_);
  Kernels::attention_backward_into(dout, q, k, v, scale, dq, dk, dv);
}

void CpuKernels::attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                                    const Tensor& dq, const Tensor& dk, const Tensor& dv) const {
  const int64_t n = q.dim(1), nk = k.dim(1), heads = q.dim(2), dh = q.dim(3);
  std::vector<BackwardWorkspace> works(static_cast<size_t>(threads_), BackwardWorkspace(nk, dh));
#pragma omp parallel for num_threads(threads_) schedule(static)
  for (int64_t item = 0; item < q.dim(0) * heads; ++item) {
    BackwardWorkspace& work = works[static_cast<size_t>(omp_get_thread_num())];
    const int64_t b = item / heads;
    const int64_t h = item % heads;
    const HeadGradient dquery(dq, b, h), dkey(dk, b, h), dvalue(dv, b, h);
    work.load(Head(k, b, h), Head(v, b, h));
    for (int64_t i = 0; i < n; ++i) {
      work.row(i, Head(dout, b, h), Head(q, b, h), scale);
      dquery.add(i, dh, work.dquery.data());
    }
    for (int64_t j = 0; j < nk; ++j) {
      dkey.add(j, dh, work.dkeys.data() + j * dh);
      dvalue.add(j, dh, work.dvalues.data() + j * dh);
    }
  }
}

}  // namespace raedit::backend::cpu
